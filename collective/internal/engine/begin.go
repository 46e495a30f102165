package engine

import (
	"context"
	"fmt"
	"time"

	"github.com/zerofleet/zerofleet/collective"
	"github.com/zerofleet/zerofleet/collective/internal/frame"
)

// A plan is an operation before it has a number: what the methods of group.go set up.
type plan struct {
	op
	order order
	with  map[int]bool // who takes part, by rank; nil: everybody, or of a pair its other rank
	eager []byte       // small data for everybody, a copy; nil for none
	// to gives what this rank sends to a peer, from whether and where that peer's data goes.
	to   func(r int) []byte
	from func(r int) (dst []byte, expected bool)
}

// begin numbers the operation, announces it and lets its data flow.
func (e *Engine) begin(ctx context.Context, p *plan) *collective.Pending {
	pending, complete := collective.NewPending()
	e.mu.Lock()
	defer e.mu.Unlock()
	e.next[p.order]++
	p.Seq = e.next[p.order]
	ticket := e.recorder.Begin(p.Op)
	p.done = func(err error) {
		pending.Note(e.recorder.End(ticket, err))
		if err == nil {
			e.stats.Ops[p.Kind]++
		}
		complete(err)
	}
	p.arrive = func(rank int) { e.recorder.Arrive(ticket, rank) }
	e.beginLocked(ctx, p)
	if p.small != nil {
		e.flush()
	}
	return pending
}

// beginLocked is begin for an operation that has its number. The caller holds mu.
func (e *Engine) beginLocked(ctx context.Context, p *plan) {
	o := &p.op
	o.key = key{p.order, o.Seq}
	o.begun = time.Now()
	o.moved = o.begun
	o.stop = func() bool { return true }
	if e.err == nil {
		if culprit, err := e.refusal(p); err != nil {
			e.end(err, leaveBecause(err, culprit))
		}
	}
	if e.err != nil {
		o.ended = true
		o.done(e.err)
		return
	}
	e.ops[o.key] = o
	if o.small != nil {
		e.urgent.Add(1)
	}
	o.peers = make([]opPeer, e.size)
	meta := encode(opToWire(o.Op))
	// Start with the next rank, so that ranks do not all begin with rank 0.
	for i := 1; i < e.size; i++ {
		r := (e.rank + i) % e.size
		if p.order.space == frame.Pair && r != o.Peer || p.with != nil && !p.with[r] {
			continue
		}
		e.enlist(p, r, meta)
	}
	if o.folding {
		e.beginFold(o)
	}
	for r := range o.peers {
		if o.peers[r].member && !e.meetEarly(o, e.peers[r]) {
			return
		}
	}
	delete(e.early, o.key)
	e.grant()
	if ctx.Done() != nil {
		o.stop = context.AfterFunc(ctx, func() { e.abandon(o, context.Cause(ctx)) })
	}
	e.settle(o)
}

// refusal is why an operation cannot begin, and with which rank that lies. The caller holds mu.
func (e *Engine) refusal(p *plan) (culprit int, err error) {
	for _, q := range e.peers {
		if q.gone && (p.order.space != frame.Pair || q.rank == p.Peer) {
			return q.rank, e.peerErr(q, errLeft)
		}
	}
	if len(e.ops) >= maxInFlight {
		return e.rank, fmt.Errorf("%s: %w: %d operations are in flight", p.Op, collective.ErrInvalid, len(e.ops))
	}
	return 0, nil
}

// enlist makes peer r a member of the operation: what comes from it, what goes to it, and
// the Post that tells it. The caller holds mu.
func (e *Engine) enlist(p *plan, r int, meta []byte) {
	o, q, m := &p.op, e.peers[r], &p.peers[r]
	m.member = true
	o.missing++
	if p.from != nil {
		if dst, expected := p.from(r); expected {
			m.from = dst
			m.chunks = e.chunksFrom(o, dst)
			if m.chunks > 0 {
				o.receiving++
			}
		}
	}
	post := &frame.Outgoing{Header: e.opHeader(frame.Post, o.key), Meta: meta}
	post.Type = o.Type
	if p.to != nil {
		data := p.to(r)
		if p.eager != nil && (len(data) == 0 || q.eagerAhead+len(data) <= e.eagerLimit) {
			post.Flags |= frame.FlagEager
			post.Data = data
			m.eager = len(data)
			q.eagerAhead += len(data)
		} else {
			e.addJob(o, q, data)
		}
	}
	e.controlOf(q, post, o.Kind)
}

// chunksFrom is in how many chunks a peer's data arrives.
func (e *Engine) chunksFrom(o *op, dst []byte) int {
	switch {
	case o.small != nil:
		return 1 // its length is the sender's to say
	case o.folding:
		lo, hi := o.span(o.fold.mine)
		return chunksOf(hi-lo, e.foldElems())
	}
	return chunksOf(len(dst), e.chunkBytes)
}

// addJob queues an operation's data for a peer. None of it may be sent yet.
func (e *Engine) addJob(o *op, q *peer, data []byte) {
	j := &job{op: o, to: q.rank, data: data, stepBytes: q.link.ChunkBytes()}
	switch {
	case o.small != nil:
		j.chunks, j.stepBytes = 1, len(data)
	case len(data) > 0 && q.link.Lends(data):
		j.chunks, j.stepBytes, j.lent = 1, len(data), true
	case o.acc != nil:
		// A reduction's chunks count elements: their owner may not know the type yet.
		j.stepBytes = o.Type.Size(foldElems(j.stepBytes))
		j.chunks = chunksOf(len(data), j.stepBytes)
	default:
		j.chunks = chunksOf(len(data), j.stepBytes)
	}
	if j.chunks == 0 {
		return
	}
	o.sending++
	o.peers[q.rank].job = j
	q.jobs = append(q.jobs, j)
}

// meetEarly takes in what a peer announced before this rank began the operation. It is false
// when that ended the Group. The caller holds mu.
func (e *Engine) meetEarly(o *op, q *peer) bool {
	at := e.early[o.key]
	if at == nil {
		return true
	}
	post, ok := at.posts[q.rank]
	if !ok {
		return true
	}
	e.forgetEarly(q, post)
	delete(at.posts, q.rank)
	return e.meet(o, q, post)
}

// abandon fails the Group because an operation's context ended.
func (e *Engine) abandon(o *op, cause error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if o.ended {
		return
	}
	err := fmt.Errorf("%s: %w; %v", o.Op, cause, e.stall(o))
	e.end(err, leaveBecause(err, e.rank))
}
