package engine

import (
	"errors"
	"fmt"
	"time"

	"github.com/zerofleet/zerofleet/collective"
	"github.com/zerofleet/zerofleet/collective/internal/frame"
	"github.com/zerofleet/zerofleet/kernels"
)

// readBytes is how many bytes of lent memory are read at a time: between two pieces the Group may end. From 1 MiB on Go copies
// with stores that pass by the caches, at little more than half the rate.
const readBytes = 256 << 10

var errStale = errors.New("it took back what it had lent")

// chunkOf finds the operation that a chunk is of, and checks that it is the one that comes next. The caller holds mu.
func (e *Engine) chunkOf(p *peer, h *frame.Header) (*op, *opPeer, error) {
	k := key{collectiveOrder(h.Space), h.Seq}
	if h.Space == frame.Pair {
		k.order = pairOrder(p.rank, e.rank)
	}
	o := e.ops[k]
	if o == nil {
		return nil, nil, fmt.Errorf("data of operation #%d, which is not open to it", h.Seq)
	}
	m := &o.peers[p.rank]
	switch {
	case int(h.Chunk) != m.next || m.next >= m.chunks:
		return nil, nil, fmt.Errorf("chunk %d of %s: want %d of %d", h.Chunk, o.Op, m.next, m.chunks)
	case o.small == nil && o.Type != 0 && h.Type != o.Type:
		return nil, nil, fmt.Errorf("%s data for %s", h.Type, o.Op)
	case h.Flags&frame.FlagLent != 0:
		return o, m, nil
	case o.small != nil:
		if int(h.DataBytes) > collective.MaxRecordBytes {
			return nil, nil, fmt.Errorf("%d bytes for %s: want at most %d", h.DataBytes, o.Op, collective.MaxRecordBytes)
		}
	case o.reduces():
		if m.next >= m.limit {
			return nil, nil, fmt.Errorf("chunk %d of %s without credit, which ends at %d", h.Chunk, o.Op, m.limit)
		}
		lo, hi := e.foldSpan(o, m.next)
		if want := h.Type.Size(hi - lo); !o.folds(h.Type) || int(h.DataBytes) != want {
			return nil, nil, fmt.Errorf("%d bytes of %s as chunk %d of %s: want %d elements of %s", h.DataBytes, h.Type, h.Chunk, o.Op, hi-lo, o.fold.kind)
		}
	default:
		if lo, hi := e.placeOf(m); int(h.DataBytes) != hi-lo {
			return nil, nil, fmt.Errorf("%d bytes as chunk %d of %s: want %d", h.DataBytes, h.Chunk, o.Op, hi-lo)
		}
	}
	return o, m, nil
}

// folds reports whether a reduction takes terms of type t: all of one that can be folded.
func (o *op) folds(t kernels.DType) bool {
	return reducible(t) && o.part%t.Block() == 0 && (o.fold.kind == 0 || o.fold.kind == t)
}

// placeOf is the range of a peer's part that its next chunk fills, in bytes.
func (e *Engine) placeOf(m *opPeer) (lo, hi int) {
	lo = m.next * e.chunkBytes
	return lo, min(lo+e.chunkBytes, len(m.from))
}

// Placement is where the data of a frame is read to; the zero Placement has no place.
type Placement struct {
	Dst   []byte
	op    *op
	peer  *opPeer
	chunk int
}

// Place tells where the data of a frame on the bulk stream goes, so that a link can read it there: nowhere when it has to be
// read elsewhere, and goes to Deliver with the frame. A place that was given out must be given back by Placed.
func (e *Engine) Place(from int, h *frame.Header) (Placement, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	p := e.peers[from]
	if h.Kind != frame.Data || h.Job != e.job || h.Generation != e.cfg.Generation || int(h.Rank) != from || e.err != nil {
		return Placement{}, nil // Deliver says what is wrong
	}
	o, m, err := e.chunkOf(p, h)
	if err != nil || o.small != nil || o.reduces() || h.Flags&frame.FlagLent != 0 {
		return Placement{}, err
	}
	lo, hi := e.placeOf(m)
	o.busy++
	return Placement{m.from[lo:hi:hi], o, m, m.next}, nil
}

// Placed takes a frame whose data was read to where Place said, or why it could not be.
func (e *Engine) Placed(from int, at Placement, f *frame.Frame, failed error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	p, o, m := e.peers[from], at.op, at.peer
	o.busy--
	switch {
	case failed != nil:
	case m.next != at.chunk:
		e.violation(p, fmt.Errorf("chunk %d of %s twice", at.chunk, o.Op))
	default:
		p.heard = time.Now()
		p.stats.FrameBytesReceived += uint64(frame.HeaderBytes + len(f.Meta) + int(f.DataBytes))
		e.took(o, p, uint64(f.DataBytes))
		m.arrived(o, 1)
	}
	e.settle(o)
}

// took counts data that has come. The caller holds mu.
func (e *Engine) took(o *op, p *peer, n uint64) {
	o.moved = time.Now()
	e.stats.ReceivedBytes[o.Kind] += n
	p.stats.ReceivedBytes += n
}

// arrived moves on by so many chunks. The caller holds mu, and settles the operation.
func (m *opPeer) arrived(o *op, chunks int) {
	if m.next += chunks; m.next == m.chunks {
		o.receiving--
	}
}

// takeData takes one chunk, or all of a peer's data where that is lent. The caller holds mu, which is dropped while bytes are
// copied.
func (e *Engine) takeData(p *peer, f *frame.Frame) error {
	o, m, err := e.chunkOf(p, &f.Header)
	if err != nil {
		return err
	}
	switch {
	case f.Flags&frame.FlagLent != 0 && o.reduces():
		return e.takeLentTerms(p, o, m, f)
	case f.Flags&frame.FlagLent != 0:
		return e.takeLent(p, o, m, f)
	case o.small != nil:
		data := make([]byte, f.DataBytes)
		f.CopyData(data)
		if err := e.takeSmall(o, p, data); err != nil {
			return err
		}
		o.moved = time.Now()
		e.settle(o)
		return nil
	case o.reduces():
		e.takeTerm(p, o, m, f)
		return nil
	}
	lo, hi := e.placeOf(m)
	o.busy++
	e.mu.Unlock()
	f.CopyData(m.from[lo:hi])
	e.mu.Lock()
	o.busy--
	e.took(o, p, uint64(f.DataBytes))
	m.arrived(o, 1)
	e.settle(o)
	return nil
}

// takeTerm queues one chunk of a reduction for the fold, which frees the frame.
func (e *Engine) takeTerm(p *peer, o *op, m *opPeer, f *frame.Frame) {
	o.fold.kind = f.Type
	kept := *f
	f.Data = nil
	m.queue = append(m.queue, &kept)
	e.buffered(int64(kept.DataBytes))
	e.took(o, p, uint64(kept.DataBytes))
	m.arrived(o, 1)
	e.foldC.Signal()
}

// takeLent copies a peer's data from its memory, piece by piece.
func (e *Engine) takeLent(p *peer, o *op, m *opPeer, f *frame.Frame) error {
	if o.small != nil || len(f.Lent) != len(m.from) || m.next != 0 {
		return fmt.Errorf("%d bytes lent for %s: want %d", len(f.Lent), o.Op, len(m.from))
	}
	for lo := 0; lo < len(m.from) && e.err == nil; lo += readBytes {
		hi := min(lo+readBytes, len(m.from))
		o.busy++
		e.mu.Unlock()
		copy(m.from[lo:hi], f.Lent[lo:hi])
		fresh := p.link.Fresh()
		e.mu.Lock()
		o.busy--
		if !fresh {
			e.stale(p)
			return nil
		}
		e.took(o, p, uint64(hi-lo))
	}
	if e.err == nil {
		m.arrived(o, m.chunks)
		e.returnLent(o, p)
	}
	e.settle(o)
	return nil
}

// takeLentTerms gives the fold a peer's terms in the peer's memory.
func (e *Engine) takeLentTerms(p *peer, o *op, m *opPeer, f *frame.Frame) error {
	lo, hi := o.span(o.fold.mine)
	if want := f.Type.Size(hi - lo); m.next != 0 || len(f.Lent) != want || !o.folds(f.Type) {
		return fmt.Errorf("%d bytes of %s lent for %s: want %d elements of %s", len(f.Lent), f.Type, o.Op, hi-lo, o.fold.kind)
	}
	o.fold.kind = f.Type
	m.lent = f.Lent
	m.arrived(o, m.chunks)
	o.moved = time.Now()
	e.grant() // it may have waited to give this peer credit
	e.foldC.Signal()
	return nil
}

// stale notes that a peer has ended its Group while this rank read its memory. Why it did is on its way. The caller holds mu.
func (e *Engine) stale(p *peer) {
	if p.bulkErr == nil {
		p.bulkErr, p.bulkLost = errStale, time.Now()
	}
}

// returnLent tells a peer that its memory has been read. The caller holds mu.
func (e *Engine) returnLent(o *op, p *peer) {
	e.control(p, &frame.Outgoing{Header: e.opHeader(frame.Taken, o.key)})
}

// takeTaken ends what this rank lends to a peer.
func (e *Engine) takeTaken(p *peer, f *frame.Frame) error {
	k := key{collectiveOrder(f.Space), f.Seq}
	if f.Space == frame.Pair {
		k.order = pairOrder(e.rank, p.rank)
	}
	o := e.ops[k]
	if o == nil {
		return fmt.Errorf("a receipt for operation #%d, which is not open to it", f.Seq)
	}
	j := o.peers[p.rank].job
	if j == nil || !j.lent || j.taken || j.next < j.chunks && !j.sending {
		return fmt.Errorf("a receipt for %s, of which nothing is lent to it", o.Op)
	}
	j.taken = true
	if j.sending { // the peer was faster than Send's return
		return nil
	}
	o.sending--
	o.moved = time.Now()
	e.settle(o)
	return nil
}
