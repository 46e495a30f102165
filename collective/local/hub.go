package local

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/zerofleet/zerofleet/collective"
)

// An order is one space of sequence numbers: the collectives of all ranks, or the transfers
// of one ordered pair.
type order struct{ from, to int }

var everyone = order{-1, -1}

func (o order) joins(rank int) bool { return o == everyone || o.from == rank || o.to == rank }

type key struct {
	order order
	seq   uint64
}

// A post is one rank's side of an operation.
type post struct {
	op       collective.Op
	rank     int
	args     args
	ticket   uint64
	unwatch  func() bool // stops watching the context
	begun    time.Time
	pending  *collective.Pending
	complete func(error)
}

// args are what the kinds of operation need; unused ones are zero.
type args struct {
	dst, src collective.Buffer
	acc      collective.Accumulator
	record   []byte
	records  [][]byte // an exchange's result, one per rank
}

// hub joins the ranks. Its one goroutine executes each operation once all its ranks have
// posted it, one operation at a time, in the order they became ready.
type hub struct {
	groups []*group
	done   chan struct{} // the goroutine has ended

	mu      sync.Mutex
	changed sync.Cond
	waiting map[key][]*post // posted by some of their ranks
	ready   [][]*post       // posted by all of their ranks
	running bool            // the goroutine executes an operation
	open    int             // groups not closed
	err     error           // why the group failed, nil while it works
	culprit int             // whose call failed it, -1 for nobody's in particular
}

// post hands in one rank's side of its next operation of an order. It does not wait for others.
func (h *hub) post(ctx context.Context, g *group, o order, op collective.Op, a args) *collective.Pending {
	pending, complete := collective.NewPending()
	h.mu.Lock()
	defer h.mu.Unlock()
	g.seq[o]++
	op.Seq = g.seq[o]
	p := &post{op: op, rank: g.rank, args: a, ticket: g.recorder.Begin(op), begun: time.Now(), pending: pending, complete: complete, unwatch: func() bool { return true }}
	if h.err != nil || g.closed {
		h.finish(p, h.errFor(g.rank))
		return pending
	}
	for _, q := range h.waiting[key{o, op.Seq}] {
		h.groups[q.rank].recorder.Arrive(q.ticket, g.rank)
	}
	k := key{o, op.Seq}
	posts := append(h.waiting[k], p)
	h.waiting[k] = posts
	if err := disagreement(posts[0], p); err != nil {
		h.fail(-1, err)
		return pending
	}
	absent := h.absent(k)
	if len(absent) == 0 {
		delete(h.waiting, k)
		slices.SortFunc(posts, func(p, q *post) int { return p.rank - q.rank })
		for _, q := range posts {
			q.unwatch()
		}
		h.ready = append(h.ready, posts)
		h.changed.Broadcast()
		return pending
	}
	for _, r := range absent {
		if h.groups[r].closed {
			h.fail(r, collective.ErrClosed)
			return pending
		}
	}
	p.unwatch = context.AfterFunc(ctx, func() { h.abandon(k, p, context.Cause(ctx)) })
	return pending
}

// disagreement compares two ranks' views of one operation.
func disagreement(p, q *post) error {
	agree := p.op.Agrees(q.op)
	if p.op.Kind == collective.KindSend || p.op.Kind == collective.KindRecv {
		agree = p == q || p.op.Matches(q.op)
	}
	if agree {
		return nil
	}
	if p.rank > q.rank {
		p, q = q, p
	}
	return &collective.Mismatch{RankA: p.rank, OpA: p.op, RankB: q.rank, OpB: q.op}
}

// absent lists the ranks that have not posted a waiting operation. The caller holds mu.
func (h *hub) absent(k key) []int {
	var ranks []int
	for r := range h.groups {
		here := slices.ContainsFunc(h.waiting[k], func(p *post) bool { return p.rank == r })
		if !here && k.order.joins(r) {
			ranks = append(ranks, r)
		}
	}
	return ranks
}

// stalled is the operation that a rank has waited in for the longest.
func (h *hub) stalled(rank int, longer time.Duration) *collective.StallError {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.err == nil {
		return h.longest(rank, longer)
	}
	if s := h.groups[rank].final; s != nil && s.Waited > longer {
		return s
	}
	return nil
}

// longest is stalled of a group that works. The caller holds mu.
func (h *hub) longest(rank int, longer time.Duration) *collective.StallError {
	var worst *post
	var who []int
	for k, posts := range h.waiting {
		for _, p := range posts {
			if p.rank == rank && time.Since(p.begun) > longer && (worst == nil || p.begun.Before(worst.begun)) {
				worst, who = p, h.absent(k)
			}
		}
	}
	if worst == nil {
		return nil
	}
	s := &collective.StallError{Op: worst.op, Waited: time.Since(worst.begun)}
	for _, r := range who {
		w := collective.Waiting{Rank: r, Reading: true}
		if last, ok := h.groups[r].recorder.Last(); ok {
			w.Last, w.LastOp = last.String(), last.Op.String()
		}
		s.Waiting = append(s.Waiting, w)
	}
	return s
}

// abandon fails the group because the context of a waiting operation ended.
func (h *hub) abandon(k key, p *post, cause error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.err != nil || !slices.Contains(h.waiting[k], p) {
		return
	}
	var who []string
	for _, r := range h.absent(k) {
		who = append(who, fmt.Sprintf("rank %d has not arrived", r))
	}
	h.fail(p.rank, fmt.Errorf("%s: %s: %w", p.op, strings.Join(who, ", "), cause))
}

// fail ends the group and completes what has not begun. The caller holds mu.
func (h *hub) fail(culprit int, err error) {
	if h.err != nil {
		return
	}
	for r, g := range h.groups {
		g.final = h.longest(r, 0)
	}
	h.err, h.culprit = err, culprit
	for _, posts := range h.waiting {
		h.ready = append(h.ready, posts)
	}
	for _, posts := range h.ready {
		for _, p := range posts {
			h.finish(p, h.errFor(p.rank))
		}
	}
	h.ready = nil
	clear(h.waiting)
	h.changed.Broadcast()
}

// errFor is the group's error as one rank sees it. The caller holds mu.
func (h *hub) errFor(rank int) error {
	switch {
	case h.groups[rank].closed:
		return collective.ErrClosed
	case h.culprit == rank || h.culprit < 0:
		return h.err
	}
	return h.peerError(h.culprit, h.err)
}

// peerError tells other ranks of a rank's error: its text alone, since causes such as
// ErrClosed or a context's are that rank's own.
func (h *hub) peerError(rank int, err error) error {
	e := &collective.PeerError{Rank: rank, Err: errors.New(err.Error())}
	if r, ok := h.groups[rank].recorder.Last(); ok {
		e.Last = r.String()
	}
	return e
}

// finish completes one rank's side. The caller holds mu.
func (h *hub) finish(p *post, err error) {
	p.unwatch()
	g := h.groups[p.rank]
	p.pending.Note(g.recorder.End(p.ticket, err))
	if err == nil {
		g.stats.Ops[p.op.Kind]++
	}
	p.complete(err)
}

// run executes ready operations until every group is closed.
func (h *hub) run() {
	defer close(h.done)
	h.mu.Lock()
	defer h.mu.Unlock()
	for {
		for len(h.ready) == 0 && h.open > 0 {
			h.changed.Wait()
		}
		if len(h.ready) == 0 {
			return
		}
		posts := h.ready[0]
		h.ready = h.ready[1:]
		h.running = true
		h.mu.Unlock()
		culprit, err := execute(posts)
		h.mu.Lock()
		h.running = false
		if err != nil {
			h.fail(culprit, err)
		}
		for _, p := range posts {
			if err != nil {
				h.finish(p, h.errFor(p.rank))
				continue
			}
			h.count(p, posts)
			h.finish(p, nil)
		}
		h.changed.Broadcast()
	}
}

// close takes one rank out. What all ranks had posted is still executed; the last rank out
// waits for the goroutine.
func (h *hub) close(g *group) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !g.closed {
		g.closed = true
		h.open--
		for k := range h.waiting {
			if k.order.joins(g.rank) {
				h.fail(g.rank, collective.ErrClosed)
				break
			}
		}
		h.changed.Broadcast()
	}
	for h.running || len(h.ready) > 0 {
		h.changed.Wait()
	}
	if h.open == 0 {
		h.mu.Unlock()
		<-h.done
		h.mu.Lock()
	}
}
