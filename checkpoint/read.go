package checkpoint

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"math"
	"sort"
	"sync"

	"github.com/zerofleet/zerofleet/safetensors"
)

// Reader reads any range of a committed checkpoint, whatever ranks wrote it. A part is checked against the manifest's
// length and checksum when it is first needed; parts that are not needed are not read. Read may be called concurrently.
type Reader struct {
	store Store
	m     *Manifest
	units map[string]Unit

	mu    sync.Mutex
	parts map[int]*part
}

type part struct {
	object  Object
	tensors map[string]safetensors.Extent
}

// Open prepares to read m's parts from s. Close closes what was opened.
func Open(s Store, m *Manifest) *Reader {
	r := &Reader{store: s, m: m, units: map[string]Unit{}, parts: map[int]*part{}}
	for _, u := range m.Units {
		r.units[u.Name] = u
	}
	return r
}

// Manifest is what the reader reads.
func (r *Reader) Manifest() *Manifest { return r.m }

// Close closes the parts.
func (r *Reader) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	var first error
	for _, p := range r.parts {
		if err := p.object.Close(); err != nil && first == nil {
			first = err
		}
	}
	clear(r.parts)
	return first
}

// Read reads elements [lo, hi) of a unit's field, in canonical order, into dst, [hi-lo] f32.
func (r *Reader) Read(ctx context.Context, unit string, f Field, lo, hi int, dst []float32) error {
	u, ok := r.units[unit]
	if !ok {
		return fmt.Errorf("read unit %q: the checkpoint of step %d has none of that name", unit, r.m.Step)
	}
	if lo < 0 || hi < lo || hi > u.Elems || len(dst) != hi-lo {
		return fmt.Errorf("read elements [%d,%d) of %s into %d: the unit has %d", lo, hi, unit, len(dst), u.Elems)
	}
	layout, err := r.m.Layout(u)
	if err != nil {
		return err
	}
	for at := lo; at < hi; {
		rank := at / layout.PartElems()
		ownLo, ownHi := layout.Owned(rank)
		end := min(hi, ownHi)
		p, err := r.part(ctx, rank)
		if err != nil {
			return err
		}
		if err := p.read(tensorName(unit, f), ownHi-ownLo, at-ownLo, dst[at-lo:end-lo]); err != nil {
			return fmt.Errorf("part %d of step %d: %w", rank, r.m.Step, err)
		}
		at = end
	}
	return nil
}

// ReadTensor reads elements [lo, hi) of a tensor's master weights, by its canonical name, into dst, [hi-lo] f32.
func (r *Reader) ReadTensor(ctx context.Context, name string, lo, hi int, dst []float32) error {
	for _, u := range r.m.Units {
		for _, t := range u.Tensors {
			if t.Name != name {
				continue
			}
			if hi > t.Elems() {
				return fmt.Errorf("read elements [%d,%d) of %s: it has %d", lo, hi, name, t.Elems())
			}
			return r.Read(ctx, u.Name, Master, t.Offset+lo, t.Offset+hi, dst)
		}
	}
	return fmt.Errorf("read tensor %q: the checkpoint of step %d has none of that name", name, r.m.Step)
}

func tensorName(unit string, f Field) string { return unit + "/" + f.String() }

func (p *part) read(name string, wantElems, lo int, dst []float32) error {
	e, ok := p.tensors[name]
	if !ok || e.Bytes != 4*int64(wantElems) {
		return fmt.Errorf("%s: %d bytes, want %d: %w", name, e.Bytes, 4*wantElems, ErrCorrupt)
	}
	b := make([]byte, 4*len(dst))
	if _, err := p.object.ReadAt(b, e.Offset+4*int64(lo)); err != nil {
		return fmt.Errorf("read %s: %w", name, err)
	}
	for i := range dst {
		dst[i] = math.Float32frombits(binary.LittleEndian.Uint32(b[4*i:]))
	}
	return nil
}

// part opens and checks a rank's part, once.
func (r *Reader) part(ctx context.Context, rank int) (*part, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if p := r.parts[rank]; p != nil {
		return p, nil
	}
	p, err := openPart(ctx, r.store, r.m, rank)
	if err != nil {
		return nil, fmt.Errorf("part %d of step %d: %w", rank, r.m.Step, err)
	}
	r.parts[rank] = p
	return p, nil
}

func openPart(ctx context.Context, s Store, m *Manifest, rank int) (*part, error) {
	want := m.Parts[rank]
	o, err := s.Open(ctx, want.Key)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	p := &part{object: o}
	if err := p.check(ctx, want); err != nil {
		o.Close()
		return nil, err
	}
	if p.tensors, err = safetensors.Extents(o, o.Bytes()); err != nil {
		o.Close()
		return nil, fmt.Errorf("%s: %w: %w", want.Key, ErrCorrupt, err)
	}
	return p, nil
}

func (p *part) check(ctx context.Context, want Part) error {
	if p.object.Bytes() != want.Bytes {
		return fmt.Errorf("%s: %d bytes, want %d: %w", want.Key, p.object.Bytes(), want.Bytes, ErrCorrupt)
	}
	h := sha256.New()
	if _, err := io.Copy(contextWriter{ctx, h}, io.NewSectionReader(p.object, 0, want.Bytes)); err != nil {
		return fmt.Errorf("read %s: %w", want.Key, err)
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != want.SHA256 {
		return fmt.Errorf("%s: checksum %s, want %s: %w", want.Key, got, want.SHA256, ErrCorrupt)
	}
	return nil
}

// Verify reads all parts of a checkpoint and returns every fault.
func Verify(ctx context.Context, s Store, m *Manifest) []error {
	r := Open(s, m)
	defer r.Close()
	var faults []error
	for rank := range m.Parts {
		p, err := r.part(ctx, rank)
		if err != nil {
			faults = append(faults, err)
			continue
		}
		faults = append(faults, p.verify(m, rank)...)
	}
	sort.Slice(faults, func(i, j int) bool { return faults[i].Error() < faults[j].Error() })
	return faults
}

func (p *part) verify(m *Manifest, rank int) []error {
	var faults []error
	for _, u := range m.Units {
		layout, err := m.Layout(u)
		if err != nil {
			return append(faults, err)
		}
		lo, hi := layout.Owned(rank)
		for f := range Fields {
			if e := p.tensors[tensorName(u.Name, f)]; e.Bytes != 4*int64(hi-lo) {
				faults = append(faults, fmt.Errorf("part %d of step %d: %s has %d bytes, want %d: %w",
					rank, m.Step, tensorName(u.Name, f), e.Bytes, 4*(hi-lo), ErrCorrupt))
			}
		}
	}
	return faults
}
