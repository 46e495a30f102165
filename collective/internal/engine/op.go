package engine

import (
	"time"

	"github.com/zerofleet/zerofleet/collective"
	"github.com/zerofleet/zerofleet/collective/internal/frame"
)

// order is one space of sequence numbers. from and to are -1 unless it is a pair's.
type order struct {
	space    frame.Space
	from, to int
}

type key struct {
	order
	seq uint64
}

func collectiveOrder(s frame.Space) order { return order{s, -1, -1} }
func pairOrder(from, to int) order        { return order{frame.Pair, from, to} }

// op is an operation that this rank has begun.
type op struct {
	collective.Op
	key   key
	begun time.Time
	moved time.Time // last progress

	// The caller's memory. part is a rank's share of it in elements, of total.
	src, dst    []byte
	own         []byte // reduce-scatter: this rank's own term of the slice that it sums
	acc         collective.Accumulator
	part, total int
	small       [][]byte // by rank: the records, or the terms of a small all-reduce

	peers []opPeer
	// What is still to come; the operation ends when all are zero and busy is.
	missing   int // peers whose Post has not arrived
	receiving int // peers whose data has not all arrived
	sending   int // jobs not all sent
	folding   bool
	anyOrder  bool // terms are added as they arrive
	busy      int  // goroutines that use the caller's memory now

	fold   foldState
	arrive func(rank int) // a peer has announced it, while this rank waits for that; nil: nobody asks
	finish func()         // the last part, run without mu, nil for none
	done   func(error)    // called once, at the end
	ended  bool
	stop   func() bool // stops watching the context
}

// opPeer is one peer's part in an operation.
type opPeer struct {
	member bool // it takes part
	posted bool
	from   []byte // where its data goes, nil for a reduce-scatter's
	chunks int    // of its data, in all
	next   int    // the chunk to arrive next
	limit  int    // reduce-scatter: chunks granted to it
	folded int    // reduce-scatter: its chunks that have been added
	// credited is the limit that it was told of.
	credited int
	queue    []*frame.Frame
	lent     []byte // reduce-scatter: all of its data, in its own memory
	job      *job   // what this rank sends to it, nil for nothing
	eager    int    // bytes that it was sent inside the Post
}

// job is an operation's data for one peer.
type job struct {
	op        *op
	to        int
	data      []byte
	stepBytes int // per chunk
	chunks    int
	next      int // the chunk to send next
	limit     int // chunks that may be sent
	sending   bool
	lent      bool // in one chunk, read by the peer where it is
	taken     bool // it has said so before Send returned
}

func chunksOf(bytes, step int) int { return (bytes + step - 1) / step }

func (j *job) chunk() []byte {
	lo := j.next * j.stepBytes
	return j.data[lo:min(lo+j.stepBytes, len(j.data))]
}

// span is rank r's share of the elements.
func (o *op) span(r int) (lo, hi int) {
	return min(r*o.part, o.total), min((r+1)*o.part, o.total)
}

// share is rank r's share of a buffer of total elements, in bytes.
func (o *op) share(buf []byte, r int) []byte {
	lo, hi := o.span(r)
	end := o.Type.Size(hi)
	return buf[o.Type.Size(lo):end:end]
}

// settle ends the operation if it can end. It may drop mu meanwhile. The caller holds mu.
func (e *Engine) settle(o *op) {
	if o.ended || o.busy > 0 {
		return
	}
	if e.err != nil {
		e.finishOp(o, e.err)
		return
	}
	if o.missing > 0 || o.receiving > 0 || o.sending > 0 || o.folding {
		return
	}
	if o.finish != nil {
		last := o.finish
		o.finish = nil
		o.busy++
		e.mu.Unlock()
		last()
		e.mu.Lock()
		o.busy--
		e.settle(o)
		return
	}
	e.finishOp(o, nil)
}

func (e *Engine) finishOp(o *op, err error) {
	o.ended = true
	delete(e.ops, o.key)
	if o.small != nil {
		e.urgent.Add(-1)
	}
	e.moved[o.key.order] = time.Now()
	for r := range o.peers {
		for _, f := range o.peers[r].queue {
			e.buffered(-int64(f.DataBytes))
			f.Free()
		}
		o.peers[r].queue, o.peers[r].lent = nil, nil
	}
	o.stop()
	o.done(err)
}

// buffered counts received bytes that wait. The caller holds mu.
func (e *Engine) buffered(n int64) {
	e.stats.BufferedBytes += n
	e.stats.PeakBufferedBytes = max(e.stats.PeakBufferedBytes, e.stats.BufferedBytes)
}
