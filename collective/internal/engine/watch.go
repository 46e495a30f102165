package engine

import (
	"fmt"
	"time"

	"github.com/zerofleet/zerofleet/collective"
)

const (
	// maxBeat is the longest time between heartbeats.
	maxBeat = time.Second
	// bulkGrace is how long the control stream may still tell why the bulk stream ended.
	bulkGrace = 500 * time.Millisecond
)

// watch is the goroutine that sends heartbeats and finds what is stuck.
func (e *Engine) watch() {
	defer e.wg.Done()
	tick := time.NewTicker(max(time.Millisecond, min(maxBeat, e.cfg.Deadline/8)))
	defer tick.Stop()
	for {
		select {
		case <-e.over:
			return
		case <-tick.C:
		}
		e.mu.Lock()
		if e.started && e.err == nil {
			e.look(time.Now())
		}
		e.mu.Unlock()
	}
}

func (e *Engine) look(now time.Time) {
	beat := e.progress()
	for _, p := range e.peers {
		if p.rank == e.rank || p.gone {
			continue
		}
		if p.bulkErr != nil && now.Sub(p.bulkLost) > bulkGrace {
			err := e.peerErr(p, fmt.Errorf("connection lost: %w", p.bulkErr))
			e.end(err, leaveBecause(err, p.rank))
			return
		}
		if !p.beating {
			p.beating = true
			e.control(p, beat)
		}
	}
	if o := e.stuck(now, e.cfg.Deadline); o != nil {
		s := e.stall(o)
		e.end(s, leaveBecause(s, s.Waiting[0].Rank))
	}
}

// Stalled is collective.Group's.
func (e *Engine) Stalled(longer time.Duration) *collective.StallError {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.err != nil {
		if s := e.final; s != nil && s.Waited > longer {
			return s
		}
		return nil
	}
	if o := e.stuck(time.Now(), longer); o != nil {
		return e.stall(o)
	}
	return nil
}

// stuck finds the operation that has made no progress for the longest, and for longer than a time; nil for none. Only the
// first of each order is looked at: a later one may be waiting for nothing but its turn.
func (e *Engine) stuck(now time.Time, longer time.Duration) *op {
	first := map[order]*op{}
	for _, o := range e.ops {
		if f := first[o.key.order]; f == nil || o.key.seq < f.key.seq {
			first[o.key.order] = o
		}
	}
	var worst *op
	for _, o := range first {
		if now.Sub(e.lastProgress(o)) > longer && (worst == nil || e.lastProgress(o).Before(e.lastProgress(worst))) {
			worst = o
		}
	}
	return worst
}

// lastProgress is when the operation moved last, or came to be the first of its order.
func (e *Engine) lastProgress(o *op) time.Time {
	if m := e.moved[o.key.order]; m.After(o.moved) {
		return m
	}
	return o.moved
}

// stall says whom an operation waits for: ranks that have not arrived; else those whose
// data is missing; else those that do not take theirs; else this rank's own fold.
func (e *Engine) stall(o *op) *collective.StallError {
	s := &collective.StallError{Op: o.Op, Waited: time.Since(e.lastProgress(o))}
	add := func(p *peer, arrived, reading bool) {
		w := collective.Waiting{Rank: p.rank, ID: p.id, Arrived: arrived, Reading: reading, Last: p.last.String()}
		if p.last.known {
			w.LastOp = p.last.op.String()
		}
		if silent := time.Since(p.heard); silent > 3*min(maxBeat, e.cfg.Deadline/8) {
			w.Silent = silent
		}
		s.Waiting = append(s.Waiting, w)
	}
	for r := range o.peers {
		if o.peers[r].member && !o.peers[r].posted {
			add(e.peers[r], false, true)
		}
	}
	if len(s.Waiting) > 0 {
		return s
	}
	for r := range o.peers {
		m := &o.peers[r]
		if o.folding && (r == e.rank || r != o.fold.who[o.fold.at] && !o.anyOrder) {
			continue // the fold waits for one rank at a time
		}
		if m.member && m.next < m.chunks && len(m.queue) == 0 {
			add(e.peers[r], true, true)
		}
	}
	if len(s.Waiting) > 0 {
		return s
	}
	for r := range o.peers {
		if j := o.peers[r].job; j != nil && j.next < j.chunks {
			add(e.peers[r], true, j.next == j.limit)
		}
	}
	if len(s.Waiting) == 0 {
		me := e.peers[e.rank]
		if rec, ok := e.recorder.Last(); ok {
			me.last = lastOp{known: true, op: rec.Op, since: rec.Posted}
		}
		me.heard = time.Now()
		add(me, true, true)
	}
	return s
}
