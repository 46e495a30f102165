package checkpoint

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"
)

// Reader reads any range of a committed checkpoint, whatever ranks wrote it. Of a part it reads the head, when it first
// needs the part, and the chunks that cover what is asked for; all of it is checked. Read may be called concurrently.
type Reader struct {
	store Store
	m     *Manifest
	units map[string]Unit
	read  atomic.Int64

	mu    sync.Mutex
	parts map[int]*part
}

// pieceBytes is how much is read of a part at once, in whole chunks: enough that a request to an object store costs less
// than its bytes.
const pieceBytes = 8 << 20

// verifyParts is how many parts Verify reads at the same time.
const verifyParts = 4

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

// BytesRead is how many bytes of parts were read so far.
func (r *Reader) BytesRead() int64 { return r.read.Load() }

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
	if lo < 0 || hi < lo || hi > u.Elems || len(dst) != hi-lo || f < 0 || f >= Fields {
		return fmt.Errorf("read elements [%d,%d) of %s of %s into %d: the unit has %d", lo, hi, f, unit, len(dst), u.Elems)
	}
	layout, err := r.m.Layout(u)
	if err != nil {
		return err
	}
	for at := lo; at < hi; {
		rank := at / layout.PartElems()
		_, ownHi := layout.Owned(rank)
		end := min(hi, ownHi)
		p, err := r.part(ctx, rank)
		if err != nil {
			return err
		}
		if err := p.read(ctx, p.stretches[tensorName(unit, f)], at, dst[at-lo:end-lo]); err != nil {
			return r.at(rank, err)
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
			if lo < 0 || hi > t.Elems() {
				return fmt.Errorf("read elements [%d,%d) of %s: it has %d", lo, hi, name, t.Elems())
			}
			return r.Read(ctx, u.Name, Master, t.Offset+lo, t.Offset+hi, dst)
		}
	}
	return fmt.Errorf("read tensor %q: the checkpoint of step %d has none of that name", name, r.m.Step)
}

func tensorName(unit string, f Field) string { return unit + "/" + f.String() }

// at says which part an error is about. That a part is gone is damage; that the store does not answer is not.
func (r *Reader) at(rank int, err error) error {
	return fmt.Errorf("part %d of step %d (%s): %w", rank, r.m.Step, r.m.Parts[rank].Key, gone(err))
}

func gone(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	return err
}

// part opens a rank's part and reads its head, once.
func (r *Reader) part(ctx context.Context, rank int) (*part, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if p := r.parts[rank]; p != nil {
		return p, nil
	}
	p, err := r.open(ctx, rank)
	if err != nil {
		return nil, r.at(rank, err)
	}
	r.parts[rank] = p
	return p, nil
}

func (r *Reader) open(ctx context.Context, rank int) (*part, error) {
	want := r.m.Parts[rank]
	o, err := r.store.Open(ctx, want.Key)
	if err != nil {
		return nil, err
	}
	p := &part{object: o, count: &r.read}
	if err := p.readHead(ctx, r.m, rank); err != nil {
		o.Close()
		return nil, err
	}
	return p, nil
}

// part is an open part whose head is checked.
type part struct {
	object    Object
	count     *atomic.Int64
	stretches map[string]stretch
	sums      []byte

	mu   sync.Mutex
	last [Fields]lastChunk // so that a chunk that one range ends in, and the next begins in, is read once
}

type lastChunk struct {
	index int // among all the part's chunks
	bytes []byte
}

func (p *part) readHead(ctx context.Context, m *Manifest, rank int) error {
	want := m.Parts[rank]
	if p.object.Bytes() != want.Bytes {
		return fmt.Errorf("%d bytes, want %d: %w", p.object.Bytes(), want.Bytes, ErrCorrupt)
	}
	head := make([]byte, want.HeadBytes)
	if err := p.object.ReadAt(ctx, head, 0); err != nil {
		return fmt.Errorf("read head: %w", err)
	}
	p.count.Add(want.HeadBytes)
	if got := digest(head); got != want.SHA256 {
		return fmt.Errorf("head: checksum %s, want %s: %w", got, want.SHA256, ErrCorrupt)
	}
	var err error
	if p.stretches, p.sums, err = placeStretches(m, rank, head); err != nil {
		return fmt.Errorf("head: %w: %w", ErrCorrupt, err)
	}
	return nil
}

// read reads a stretch's elements from lo on, in the unit's canonical order.
func (p *part) read(ctx context.Context, s stretch, lo int, dst []float32) error {
	if len(dst) == 0 {
		return nil
	}
	hi := lo + len(dst)
	take := func(c int, b []byte) {
		from, to := s.span(c)
		first, end := max(lo, from), min(hi, to)
		copy(rawBytes(dst[first-lo:end-lo]), b[4*(first-from):])
	}
	first, end := (lo-s.lo)/chunkElems, chunksOf(hi-s.lo)
	if b := p.kept(s, first); b != nil {
		take(first, b)
		first++
	}
	return p.scan(ctx, s, first, end, func(c int, b []byte, fault error) error {
		if fault != nil {
			return fault
		}
		take(c, b)
		if _, to := s.span(c); c == end-1 && to > hi {
			p.keep(s, c, b)
		}
		return nil
	})
}

// scan reads and checks chunks [first, end) of a stretch. The bytes are use's until it returns; fault is that the chunk
// is damaged.
func (p *part) scan(ctx context.Context, s stretch, first, end int, use func(c int, b []byte, fault error) error) error {
	var piece []byte
	for c := first; c < end; {
		n := min(pieceBytes/chunkBytes, end-c)
		at := int64(c) * chunkBytes
		bytes := int(min(at+int64(n)*chunkBytes, 4*int64(s.elems)) - at)
		if piece == nil {
			piece = make([]byte, bytes)
		}
		if err := p.object.ReadAt(ctx, piece[:bytes], s.offset+at); err != nil {
			return fmt.Errorf("read %s of %s: %w", s.field, s.unit.Name, err)
		}
		p.count.Add(int64(bytes))
		for b := piece[:bytes]; len(b) > 0; c++ {
			k := min(chunkBytes, len(b))
			if err := use(c, b[:k], p.check(s, c, b[:k])); err != nil {
				return err
			}
			b = b[k:]
		}
	}
	return nil
}

func (p *part) check(s stretch, c int, b []byte) error {
	want := p.sums[(s.chunk+c)*sumBytes:][:sumBytes]
	if got := chunkSum(b); !bytes.Equal(got, want) {
		return fmt.Errorf("%s: checksum %s, want %s: %w", s.name(c), hex.EncodeToString(got), hex.EncodeToString(want), ErrCorrupt)
	}
	return nil
}

func (p *part) kept(s stretch, c int) []byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	if l := p.last[s.field]; l.bytes != nil && l.index == s.chunk+c {
		return l.bytes
	}
	return nil
}

func (p *part) keep(s stretch, c int, b []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.last[s.field] = lastChunk{s.chunk + c, bytes.Clone(b)}
}

// Verify reads all parts of a checkpoint and returns every fault, by rank: ErrCorrupt where it is damaged, another error
// where the store could not be read.
func Verify(ctx context.Context, s Store, m *Manifest) []error {
	r := Open(s, m)
	defer r.Close()
	found := make([][]error, len(m.Parts))
	var g errgroup.Group
	g.SetLimit(verifyParts)
	for rank := range m.Parts {
		g.Go(func() error {
			found[rank] = r.verify(ctx, rank)
			return nil
		})
	}
	g.Wait() //nolint:errcheck // no function gives one
	var faults []error
	for _, list := range found {
		faults = append(faults, list...)
	}
	return faults
}

// verify reads a part. Of a field's damaged chunks the first is named.
func (r *Reader) verify(ctx context.Context, rank int) (faults []error) {
	p, err := r.part(ctx, rank)
	if err != nil {
		return []error{err}
	}
	for _, u := range r.m.Units {
		for f := range Fields {
			s := p.stretches[tensorName(u.Name, f)]
			var first error
			damaged := 0
			err := p.scan(ctx, s, 0, chunksOf(s.elems), func(_ int, _ []byte, fault error) error {
				if fault != nil {
					damaged++
					if first == nil {
						first = fault
					}
				}
				return nil
			})
			if damaged > 1 {
				first = fmt.Errorf("%w, and %d more chunks of it", first, damaged-1)
			}
			if first != nil {
				faults = append(faults, r.at(rank, first))
			}
			if err != nil {
				return append(faults, r.at(rank, err))
			}
		}
	}
	return faults
}
