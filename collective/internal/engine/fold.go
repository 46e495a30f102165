package engine

import (
	"fmt"
	"slices"
	"time"

	"google.golang.org/grpc/mem"

	"github.com/zerofleet/zerofleet/collective/internal/frame"
	"github.com/zerofleet/zerofleet/kernels"
)

// One goroutine folds for the whole Group: reduce-scatters in call order, chunk by chunk,
// and within a chunk rank by rank. Chunks are granted in exactly that order too, as far as
// the budget goes, and each takes its bytes from the budget until it is folded. So whatever
// the fold waits for has been granted, and a grant that waits for budget waits only for
// chunks that are folded before it: no budget is too small to go on.
//
// Without an order (op.anyOrder) the fold takes whatever chunk of the first reduction has
// arrived. Grants keep theirs, and all that was granted arrives: none waits for ever.

// foldState is where a reduction stands.
type foldState struct {
	kind   kernels.DType // of the terms; 0 until this rank knows
	mine   int           // whose slice this rank sums: its own, but where it sums for another host
	who    []int         // the ranks that have a term, in the order of the sum
	chunks int           // of the slice
	at     int           // in who: to fold next; its chunk is the peer's
	left   int           // terms to fold: chunks of each of who
	// To grant next; it is never this rank's own term, or the cursor is at the end: grantChunk == chunks.
	grantChunk, grantAt int
}

func reducible(t kernels.DType) bool {
	return t == kernels.F32 || t == kernels.BF16 || t == kernels.Int8
}

// maxFoldBytes is the most that is folded at once: a piece of the accumulator and a term of it stay in a core's cache from
// rank to rank.
const maxFoldBytes = 256 << 10

// foldElems is how many elements a reduction's chunk has, where frames have so many bytes: whole blocks of any type, since both are
// powers of two and no frame is that short.
func foldElems(chunkBytes int) int { return min(chunkBytes, maxFoldBytes) / kernels.F32.Bytes() }

// foldElems is how many elements a reduction's chunk has at this rank.
func (e *Engine) foldElems() int { return foldElems(e.chunkBytes) }

// foldSpan is a chunk's range within this rank's slice, in elements.
func (e *Engine) foldSpan(o *op, chunk int) (lo, hi int) {
	first, last := o.span(o.fold.mine)
	n := e.foldElems()
	return chunk * n, min((chunk+1)*n, last-first)
}

// foldCost is what a granted chunk takes from the budget, in bytes: what it will hold, or
// the most it can where this rank does not know the type yet.
func (e *Engine) foldCost(o *op, chunk int) int64 {
	lo, hi := e.foldSpan(o, chunk)
	if o.Type != 0 {
		return int64(o.Type.Size(hi - lo))
	}
	return int64(hi-lo) * int64(kernels.F32.Bytes())
}

// beginFold queues a reduction. The caller holds mu.
func (e *Engine) beginFold(o *op) {
	s := &o.fold
	lo, hi := o.span(s.mine)
	s.kind = o.Type
	s.chunks = chunksOf(hi-lo, e.foldElems())
	s.left = s.chunks * len(s.who)
	if s.left == 0 {
		o.folding = false
		return
	}
	s.skipOwn(e.rank)
	e.folds = append(e.folds, o)
	e.foldC.Signal()
}

// granted moves the cursor of what is granted on.
func (s *foldState) granted(own int) {
	s.grantAt++
	s.skipOwn(own)
}

func (s *foldState) skipOwn(own int) {
	for s.grantChunk < s.chunks {
		switch {
		case s.grantAt == len(s.who):
			s.grantChunk++
			s.grantAt = 0
		case s.who[s.grantAt] == own:
			s.grantAt++
		default:
			return
		}
	}
}

// grant gives credit as far as the budget goes. The caller holds mu.
func (e *Engine) grant() {
	if e.err != nil {
		return
	}
	for _, o := range e.folds {
		s := &o.fold
		raised := false
		for s.grantChunk < s.chunks {
			m := &o.peers[s.who[s.grantAt]]
			if m.lent != nil { // its terms are not buffered here
				s.granted(e.rank)
				continue
			}
			cost := e.foldCost(o, s.grantChunk)
			if e.stats.GrantedBytes+cost > e.foldBudget {
				break
			}
			e.stats.GrantedBytes += cost
			e.stats.PeakGrantedBytes = max(e.stats.PeakGrantedBytes, e.stats.GrantedBytes)
			m.limit = s.grantChunk + 1
			raised = true
			s.granted(e.rank)
		}
		if raised {
			e.sendCredits(o)
		}
		if s.grantChunk < s.chunks {
			return
		}
	}
}

// sendCredits tells contributors of limits that they do not know yet, the next rank first.
func (e *Engine) sendCredits(o *op) {
	for i := 1; i < e.size; i++ {
		r := (e.rank + i) % e.size
		m := &o.peers[r]
		if m.limit > m.credited {
			m.credited = m.limit
			h := e.opHeader(frame.Credit, o.key)
			h.Chunk = uint32(m.limit)
			e.control(e.peers[r], &frame.Outgoing{Header: h})
		}
	}
}

// fold is the folding goroutine.
func (e *Engine) fold() {
	defer e.wg.Done()
	e.mu.Lock()
	defer e.mu.Unlock()
	for e.err == nil {
		o, t, ready := e.nextTerm()
		if !ready {
			e.foldC.Wait()
			continue
		}
		s := &o.fold
		chunk, rank, f, lent := t.chunk, t.rank, t.frame, t.lent
		lo, hi := e.foldSpan(o, chunk)
		leaf := o.FirstLeaf + rank
		own := rank == e.rank
		kind := s.kind
		o.busy++
		e.mu.Unlock()
		var err error
		stale := false
		switch {
		case own:
			err = o.acc.Fold(leaf, lo, o.own[o.Type.Size(lo):o.Type.Size(hi)], o.Type)
		case lent != nil:
			err = o.acc.Fold(leaf, lo, lent[kind.Size(lo):kind.Size(hi)], kind)
			stale = !e.peers[rank].link.Fresh()
		default:
			err = foldPieces(o.acc, leaf, lo, f.Data, f.Type)
			f.Free()
		}
		e.mu.Lock()
		o.busy--
		if f != nil {
			e.buffered(-int64(f.DataBytes))
		}
		if lent != nil {
			e.took(o, e.peers[rank], uint64(kind.Size(hi-lo)))
		}
		if !own && chunk < o.peers[rank].limit { // it was granted
			e.stats.GrantedBytes -= e.foldCost(o, chunk)
		}
		o.moved = time.Now()
		if err != nil {
			err = fmt.Errorf("%s: fold elements %d to %d of leaf %d: %w", o.Op, lo, hi, leaf, err)
			e.end(err, leaveBecause(err, e.rank))
		} else if stale {
			o.peers[rank].lent = nil
			e.stale(e.peers[rank])
		} else if e.err == nil {
			if lent != nil && chunk == o.fold.chunks-1 {
				e.returnLent(o, e.peers[rank])
			}
			e.advance(o, t)
			e.grant()
		}
		e.settle(o)
	}
}

// term is one contributor's part of a chunk: a frame, or lent memory; neither when it is this rank's own.
type term struct {
	rank, chunk int
	frame       *frame.Frame
	lent        []byte
}

// nextTerm is the operation to fold for and a term whose turn it is, not ready when that has not arrived. Without an order any that
// has arrived has its turn. The caller holds mu.
func (e *Engine) nextTerm() (o *op, t term, ready bool) {
	if len(e.folds) == 0 {
		return nil, t, false
	}
	o = e.folds[0]
	s := &o.fold
	tries := 1
	if o.anyOrder {
		tries = len(s.who)
	}
	for i := range tries {
		t.rank = s.who[(s.at+i)%len(s.who)]
		m := &o.peers[t.rank]
		t.chunk = m.folded
		switch {
		case t.chunk == s.chunks: // all of it has been added
		case t.rank == e.rank:
			return o, t, true
		case m.lent != nil:
			t.lent = m.lent
			return o, t, true
		case len(m.queue) > 0:
			t.frame = m.queue[0]
			m.queue = slices.Delete(m.queue, 0, 1)
			return o, t, true
		}
	}
	return nil, t, false
}

// advance moves on from a term that has been added. The caller holds mu.
func (e *Engine) advance(o *op, t term) {
	s := &o.fold
	o.peers[t.rank].folded++
	s.at = (s.at + 1) % len(s.who)
	if s.left--; s.left == 0 {
		o.folding = false
		e.folds = slices.Delete(e.folds, 0, 1)
	}
}

// foldPieces adds a chunk that lies in pieces. An element, or a block, that straddles two goes through a
// copy.
func foldPieces(acc folder, leaf, off int, pieces mem.BufferSlice, t kernels.DType) error {
	w := t.Bytes()
	var cut [kernels.BlockElems + 8]byte
	have := 0 // bytes of a cut element or block
	for _, b := range pieces {
		p := b.ReadOnlyData()
		if have > 0 {
			n := copy(cut[have:w], p)
			have += n
			p = p[n:]
			if have < w {
				continue
			}
			if err := acc.Fold(leaf, off, cut[:w], t); err != nil {
				return err
			}
			off += t.Block()
		}
		whole := len(p) / w
		if whole > 0 {
			if err := acc.Fold(leaf, off, p[:whole*w], t); err != nil {
				return err
			}
			off += whole * t.Block()
		}
		have = copy(cut[:], p[whole*w:])
	}
	return nil
}

// folder is the part of an Accumulator that foldPieces needs.
type folder interface {
	Fold(leaf, off int, src []byte, t kernels.DType) error
}
