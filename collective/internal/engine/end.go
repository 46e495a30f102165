package engine

import (
	"errors"
	"fmt"
	"time"

	"github.com/zerofleet/zerofleet/collective"
	"github.com/zerofleet/zerofleet/collective/internal/frame"
	pb "github.com/zerofleet/zerofleet/proto/zerofleet/v1"
)

// end ends the Group, once: operations end with err as soon as nothing uses their memory,
// peers are told, and the links are closed when they know. The caller holds mu.
func (e *Engine) end(err error, leave *pb.CollectiveLeave) {
	if e.err != nil {
		return
	}
	if o := e.stuck(time.Now(), 0); o != nil {
		e.final = e.stall(o)
	}
	e.err, e.leave = err, leave
	close(e.over)
	if e.cfg.Revoke != nil {
		e.cfg.Revoke()
	}
	if !errors.Is(err, collective.ErrClosed) {
		e.log.Warn("collective group failed", "generation", e.cfg.Generation, "rank", e.rank, "err", err)
	}
	e.folds = nil
	for _, o := range e.ops {
		e.settle(o)
	}
	for k, at := range e.early {
		for r, got := range at.posts {
			e.forgetEarly(e.peers[r], got)
		}
		delete(e.early, k)
	}
	f := &frame.Outgoing{Header: e.header(frame.Leave), Meta: encode(leave)}
	for _, p := range e.peers {
		p.jobs = nil
		if !inOrder(leave) {
			p.control = nil // nothing of it matters any more
			if p.gone {
				e.control(p, &frame.Outgoing{Header: e.header(frame.Ack)})
			}
		}
		e.control(p, f)
		p.bulkC.Broadcast()
		e.settlePeer(p)
	}
	e.foldC.Broadcast()
}

// hangUp is the goroutine that closes one peer's link: at once when the link breaks; else
// when the Group has ended and the peer knows, or has had its time.
func (e *Engine) hangUp(p *peer) {
	defer e.wg.Done()
	select {
	case <-e.over:
		wait := time.NewTimer(linger)
		select {
		case <-p.settled:
		case <-wait.C:
		}
		wait.Stop()
	case <-p.settled:
		<-e.over
	}
	p.link.Close()
	e.mu.Lock()
	p.hungUp = true
	p.controlC.Broadcast()
	e.mu.Unlock()
}

func (e *Engine) peerErr(p *peer, cause error) error {
	return &collective.PeerError{Rank: p.rank, ID: p.id, Last: p.last.String(), Err: cause}
}

// violation fails the Group because a peer broke the protocol. The caller holds mu.
func (e *Engine) violation(p *peer, cause error) {
	err := e.peerErr(p, fmt.Errorf("broke the protocol: %w", cause))
	e.end(err, leaveBecause(err, p.rank))
}

// Reject tells the Engine that a peer sent what is not a frame, or not the frame it was.
func (e *Engine) Reject(from int, cause error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.violation(e.peers[from], cause)
}

// Fence ends the Group because a newer generation began.
func (e *Engine) Fence(generation uint64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.fence(generation)
}

func (e *Engine) fence(generation uint64) {
	err := fmt.Errorf("generation %d: %w: generation %d has begun", e.cfg.Generation, collective.ErrFenced, generation)
	e.end(err, &pb.CollectiveLeave{Cause: err.Error(), Culprit: uint32(e.rank), FencedBy: generation})
}

func (e *Engine) mismatch(rankA int, a collective.Op, rankB int, b collective.Op) {
	if rankA > rankB {
		rankA, a, rankB, b = rankB, b, rankA, a
	}
	err := &collective.Mismatch{RankA: rankA, OpA: a, RankB: rankB, OpB: b}
	leave := leaveBecause(err, e.rank)
	leave.RankA, leave.OpA, leave.RankB, leave.OpB = uint32(rankA), opToWire(a), uint32(rankB), opToWire(b)
	e.end(err, leave)
}

// passOn ends the Group for the reason that a peer left. The caller holds mu.
func (e *Engine) passOn(p *peer, m *pb.CollectiveLeave) {
	if g := m.GetFencedBy(); g > e.cfg.Generation {
		e.fence(g)
		return
	}
	if m.GetOpA() != nil && m.GetOpB() != nil && m.GetRankA() < uint32(e.size) && m.GetRankB() < uint32(e.size) {
		a, errA := opFromWire(m.GetOpA(), e.size)
		b, errB := opFromWire(m.GetOpB(), e.size)
		if errA == nil && errB == nil {
			e.mismatch(int(m.GetRankA()), a, int(m.GetRankB()), b)
			return
		}
	}
	cause := m.GetCause()
	culprit := int(m.GetCulprit())
	switch {
	case culprit == p.rank || culprit >= e.size:
		err := e.peerErr(p, fmt.Errorf("failed: %s", cause))
		e.end(err, leaveBecause(err, p.rank))
	case culprit == e.rank:
		err := e.peerErr(p, fmt.Errorf("gave this rank up: %s", cause))
		e.end(err, leaveBecause(err, e.rank))
	default:
		err := e.peerErr(e.peers[culprit], fmt.Errorf("given up by rank %d: %s", p.rank, cause))
		e.end(err, leaveBecause(err, culprit))
	}
}
