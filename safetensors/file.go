package safetensors

import (
	"fmt"
	"maps"
	"slices"
)

// File is one open safetensors file. Its methods may be called concurrently.
type File struct {
	mapped   *mapping
	tensors  []Tensor
	byName   map[string]int // into tensors
	metadata map[string]string
}

// Open maps a file and checks its header; it reads no tensor. An error names the path, and
// wraps ErrMalformed when the file itself is at fault. The caller closes the File.
func Open(path string) (*File, error) {
	m, err := mapFile(path, lengthBytes)
	if err != nil {
		return nil, fmt.Errorf("open safetensors: %w", err)
	}
	f, err := newFile(m)
	if err != nil {
		m.close() // the header's fault is the one to tell
		return nil, fmt.Errorf("open safetensors %s: %w", path, err)
	}
	return f, nil
}

// newFile reads the header of a mapping of at least lengthBytes.
func newFile(m *mapping) (*File, error) {
	var h header
	err := m.view(func(data []byte) (err error) {
		h, err = parseHeader(data)
		return err
	})
	if err != nil {
		return nil, err
	}
	f := &File{mapped: m, tensors: h.tensors, byName: make(map[string]int, len(h.tensors)), metadata: h.metadata}
	for i, t := range h.tensors {
		f.byName[t.Name] = i
	}
	return f, nil
}

// Path is the file's name as it was given to Open.
func (f *File) Path() string { return f.mapped.path }

// Tensors lists the tensors in the order of their place in the file.
func (f *File) Tensors() []Tensor { return slices.Clone(f.tensors) }

// Metadata is a copy of the header's free map of strings; nil if there is none.
func (f *File) Metadata() map[string]string { return maps.Clone(f.metadata) }

// Tensor finds a tensor by name.
func (f *File) Tensor(name string) (Tensor, bool) {
	i, ok := f.byName[name]
	if !ok {
		return Tensor{}, false
	}
	return f.tensors[i], true
}

// ReadF32 reads elements [lo, hi) of a tensor in row-major order into dst, [hi-lo] f32,
// widening F16 and BF16 without rounding. It is an error to ask for another dtype.
func (f *File) ReadF32(name string, lo, hi int, dst []float32) error {
	t, err := f.find(name, lo, hi, len(dst))
	if err != nil {
		return err
	}
	if t.DType != F32 && t.DType != F16 && t.DType != BF16 {
		return fmt.Errorf("read %s: tensor %q: dtype %s: want one of F32, F16, BF16", f.Path(), name, t.DType)
	}
	width := int64(t.DType.Bytes())
	return f.mapped.view(func(data []byte) error {
		decode(dst, data[t.begin+int64(lo)*width:t.begin+int64(hi)*width], t.DType)
		return nil
	})
}

// ReadBytes copies the bytes of elements [lo, hi) of a tensor, little-endian and row-major,
// into dst, which holds exactly them.
func (f *File) ReadBytes(name string, lo, hi int, dst []byte) error {
	t, ok := f.Tensor(name)
	if !ok {
		return fmt.Errorf("read %s: no tensor %q", f.Path(), name)
	}
	width := t.DType.Bytes()
	if _, err := f.find(name, lo, hi, len(dst)/width); err != nil {
		return err
	}
	if len(dst)%width != 0 {
		return fmt.Errorf("read %s: tensor %q: room for %d bytes: want a multiple of %d", f.Path(), name, len(dst), width)
	}
	return f.mapped.view(func(data []byte) error {
		copy(dst, data[t.begin+int64(lo)*int64(width):])
		return nil
	})
}

// find returns the tensor after checking the range against it and against the room.
func (f *File) find(name string, lo, hi, room int) (Tensor, error) {
	t, ok := f.Tensor(name)
	switch {
	case !ok:
		return t, fmt.Errorf("read %s: no tensor %q", f.Path(), name)
	case lo < 0 || hi < lo || hi > t.Elems:
		return t, fmt.Errorf("read %s: tensor %q: elements [%d, %d): want a range within %d", f.Path(), name, lo, hi, t.Elems)
	case room != hi-lo:
		return t, fmt.Errorf("read %s: tensor %q: elements [%d, %d): room for %d", f.Path(), name, lo, hi, room)
	}
	return t, nil
}

// Close unmaps the file. Calls that come later fail; a call under way is waited for.
func (f *File) Close() error { return f.mapped.close() }
