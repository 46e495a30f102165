package gguf

import (
	"cmp"
	"fmt"
	"math"
	"slices"
)

const (
	minFileBytes     = 4 + 4 + 8 + 8
	minPairBytes     = 8 + 1 + 4 + 1     // the shortest key and value
	minTensorBytes   = 8 + 1 + 4 + 4 + 8 // the shortest name, no dims
	maxDims          = 4
	defaultAlignment = 32
	maxAlignment     = 1 << 20
	alignmentKey     = "general.alignment"
)

// Tensor is one entry of a file's directory.
type Tensor struct {
	Name  string
	Type  Type
	Shape []int // row-major, outermost first: the file's order reversed
	Elems int   // product of Shape

	begin, end int64 // range in the file, in bytes
}

// Bytes is the tensor's length in the file.
func (t Tensor) Bytes() int64 { return t.end - t.begin }

// File is one open GGUF file. Its methods may be called concurrently.
type File struct {
	mapped   *mapping
	version  uint32
	metadata Metadata
	tensors  []Tensor
	byName   map[string]int // into tensors
}

// Open maps a file and reads its head; it reads no tensor. An error names the path, and
// wraps ErrMalformed when the file itself is at fault. The caller closes the File.
func Open(path string) (*File, error) {
	m, err := mapFile(path, minFileBytes)
	if err != nil {
		return nil, fmt.Errorf("open gguf: %w", err)
	}
	f, err := newFile(m)
	if err != nil {
		m.close() // the head's fault is the one to tell
		return nil, fmt.Errorf("open gguf %s: %w", path, err)
	}
	return f, nil
}

// newFile reads the head of a mapping of at least minFileBytes.
func newFile(m *mapping) (*File, error) {
	f := &File{mapped: m, byName: map[string]int{}}
	if err := m.view(f.parse); err != nil {
		return nil, err
	}
	return f, nil
}

func (f *File) parse(data []byte) error {
	if string(data[:4]) != "GGUF" {
		return fmt.Errorf("%w: starts with %q, want \"GGUF\"", ErrMalformed, data[:4])
	}
	d := &decoder{data: data, at: 4}
	f.version = d.u32()
	switch {
	case f.version != 0 && f.version&0xffff == 0:
		return fmt.Errorf("%w: big-endian: want a little-endian file", ErrMalformed)
	case f.version != 2 && f.version != 3:
		return fmt.Errorf("%w: version %d: want 2 or 3", ErrMalformed, f.version)
	}
	tensors := d.count("tensors", minTensorBytes)
	f.parseMetadata(d, d.count("metadata pairs", minPairBytes))
	for range tensors {
		if d.err != nil {
			break
		}
		f.parseTensor(d)
	}
	if d.err != nil {
		return fmt.Errorf("%w: %w", ErrMalformed, d.err)
	}
	if err := f.place(d.at, len(data)); err != nil {
		return fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return nil
}

func (f *File) parseMetadata(d *decoder, pairs int) {
	f.metadata.values = map[string]any{}
	for range pairs {
		key := d.name("metadata key")
		kind := d.u32()
		value := d.value(kind)
		if d.err != nil {
			d.err = fmt.Errorf("metadata %q: %w", key, d.err)
			return
		}
		if f.metadata.Has(key) {
			d.fail("metadata %q stands twice", key)
			return
		}
		f.metadata.values[key] = value
	}
}

// parseTensor reads one entry; begin is still relative to the data.
func (f *File) parseTensor(d *decoder) {
	t := Tensor{Name: d.name("tensor name"), Elems: 1}
	dims := d.u32()
	if d.err == nil && dims > maxDims {
		d.fail("tensor %q: %d dims: want at most %d", t.Name, dims, maxDims)
		return
	}
	for range dims {
		n := d.u64()
		if d.err == nil && (n == 0 || n > uint64(math.MaxInt64/t.Elems)) {
			d.fail("tensor %q: size %d: want 1 or more, and a product below 2^63", t.Name, n)
			return
		}
		t.Shape = append(t.Shape, int(n))
		t.Elems *= max(1, int(n))
	}
	t.Type = Type(d.u32())
	offset := d.u64()
	if d.err != nil {
		return
	}
	form, ok := formats[t.Type]
	rowElems := 1
	if len(t.Shape) > 0 {
		rowElems = t.Shape[0]
	}
	switch _, twice := f.byName[t.Name]; {
	case twice:
		d.fail("tensor %q stands twice", t.Name)
	case !ok:
		d.fail("tensor %q: unknown type %d", t.Name, uint32(t.Type))
	case rowElems%form.blockElems != 0:
		d.fail("tensor %q: rows of %d: want a multiple of %s's block of %d", t.Name, rowElems, t.Type, form.blockElems)
	case uint64(t.Elems/form.blockElems) > uint64(len(d.data)/form.blockBytes) || offset > uint64(len(d.data)):
		d.fail("tensor %q: %d elements of %s at offset %d: the file is truncated", t.Name, t.Elems, t.Type, offset)
	default:
		slices.Reverse(t.Shape)
		t.begin = int64(offset)
		t.end = t.begin + int64(t.Elems/form.blockElems*form.blockBytes)
		f.byName[t.Name] = len(f.tensors)
		f.tensors = append(f.tensors, t)
	}
}

// place moves the tensors' ranges behind the head, which ends at headEnd, and checks that
// they are aligned, in the file, and apart.
func (f *File) place(headEnd, fileEnd int) error {
	alignment := defaultAlignment
	if f.metadata.Has(alignmentKey) {
		n, err := f.metadata.Int(alignmentKey)
		if err != nil {
			return err
		}
		alignment = n
	}
	if alignment < 1 || alignment > maxAlignment || alignment&(alignment-1) != 0 {
		return fmt.Errorf("metadata %s: %d: want a power of two up to %d", alignmentKey, alignment, maxAlignment)
	}
	base := int64((headEnd + alignment - 1) / alignment * alignment)
	for i := range f.tensors {
		t := &f.tensors[i]
		if t.begin%int64(alignment) != 0 {
			return fmt.Errorf("tensor %q: offset %d: misaligned: want a multiple of %d", t.Name, t.begin, alignment)
		}
		t.begin, t.end = t.begin+base, t.end+base
		if t.end > int64(fileEnd) {
			return fmt.Errorf("tensor %q: ends at byte %d of %d: the file is truncated", t.Name, t.end, fileEnd)
		}
	}
	byPlace := slices.Clone(f.tensors)
	slices.SortFunc(byPlace, func(a, b Tensor) int { return cmp.Compare(a.begin, b.begin) })
	for i := 1; i < len(byPlace); i++ {
		if a, b := byPlace[i-1], byPlace[i]; b.begin < a.end {
			return fmt.Errorf("tensor %q: bytes [%d, %d) overlap those of %q", b.Name, b.begin, b.end, a.Name)
		}
	}
	return nil
}

// Path is the file's name as it was given to Open.
func (f *File) Path() string { return f.mapped.path }

// Version is the format's version, 2 or 3.
func (f *File) Version() int { return int(f.version) }

// Metadata is everything that the file says beside its tensors.
func (f *File) Metadata() Metadata { return f.metadata }

// Tensors lists the tensors in the file's order.
func (f *File) Tensors() []Tensor { return slices.Clone(f.tensors) }

// Tensor finds a tensor by name.
func (f *File) Tensor(name string) (Tensor, bool) {
	i, ok := f.byName[name]
	if !ok {
		return Tensor{}, false
	}
	return f.tensors[i], true
}

// ReadF32 reads elements [lo, hi) of a tensor in row-major order into dst, [hi-lo] f32,
// dequantising exactly as ggml does. It is an error to ask for a type that is not Readable.
func (f *File) ReadF32(name string, lo, hi int, dst []float32) error {
	t, ok := f.Tensor(name)
	switch {
	case !ok:
		return fmt.Errorf("read %s: no tensor %q", f.Path(), name)
	case !t.Type.Readable():
		return fmt.Errorf("read %s: tensor %q: type %s: want one of F32, F16, BF16, Q8_0, Q4_0, Q4_1", f.Path(), name, t.Type)
	case lo < 0 || hi < lo || hi > t.Elems:
		return fmt.Errorf("read %s: tensor %q: elements [%d, %d): want a range within %d", f.Path(), name, lo, hi, t.Elems)
	case len(dst) != hi-lo:
		return fmt.Errorf("read %s: tensor %q: elements [%d, %d): room for %d", f.Path(), name, lo, hi, len(dst))
	}
	return f.mapped.view(func(data []byte) error {
		decode(dst, data[t.begin:t.end], t.Type, lo)
		return nil
	})
}

// Close unmaps the file. Calls that come later fail; a call under way is waited for.
func (f *File) Close() error { return f.mapped.close() }
