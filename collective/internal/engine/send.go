package engine

import (
	"slices"
	"time"

	"github.com/zerofleet/zerofleet/collective"
	"github.com/zerofleet/zerofleet/collective/internal/frame"
)

// queued is a frame that waits for a control stream, and the kind of operation its data is of.
type queued struct {
	*frame.Outgoing // not changed once it is here: peers may share it
	kind            collective.Kind
}

// control queues a frame for a peer's control stream. The caller holds mu.
func (e *Engine) control(p *peer, f *frame.Outgoing) { e.controlOf(p, f, 0) }

func (e *Engine) controlOf(p *peer, f *frame.Outgoing, kind collective.Kind) {
	p.control = append(p.control, queued{f, kind})
	p.controlC.Signal()
}

// sendControl is the goroutine of one peer's control stream. It ends after its Leave and
// the Ack of the peer's have gone out, or when the link breaks.
func (e *Engine) sendControl(p *peer) {
	defer e.wg.Done()
	e.mu.Lock()
	defer e.mu.Unlock()
	for {
		for (len(p.control) == 0 || p.writing) && !p.hungUp {
			p.controlC.Wait()
		}
		if p.hungUp || !e.sendNext(p) {
			return
		}
	}
}

// sendNext sends the oldest control frame to a peer, and is false when the link is broken: Lost tells. It drops mu meanwhile.
// The caller holds mu, and nobody writes.
func (e *Engine) sendNext(p *peer) bool {
	f := p.control[0]
	p.control = slices.Delete(p.control, 0, 1)
	if f.Kind == frame.Progress {
		p.beating = false
	}
	p.writing = true
	e.mu.Unlock()
	err := p.link.Send(false, f.Outgoing)
	e.mu.Lock()
	p.writing = false
	if err != nil {
		return false
	}
	n := len(f.Data)
	p.stats.FrameBytesSent += uint64(frame.HeaderBytes + len(f.Meta) + n)
	p.stats.SentBytes += uint64(n)
	e.stats.SentBytes[f.kind] += uint64(n)
	return true
}

// flush sends what waits for the control streams from the goroutine that has queued it, where nobody writes already: a goroutine
// less to wake before a record or a small sum is on its way. The caller holds mu, which flush drops, and looks at nothing after it.
func (e *Engine) flush() {
	for i := 1; i < e.size && e.started; i++ {
		p := e.peers[(e.rank+i)%e.size]
		for len(p.control) > 0 && !p.writing && !p.hungUp {
			if !e.sendNext(p) {
				break
			}
		}
		p.controlC.Signal() // for what was queued meanwhile
	}
}

// sendBulk is the goroutine of one peer's bulk stream. When the Group ends in order its
// last frame is a Leave, behind all data.
func (e *Engine) sendBulk(p *peer) {
	defer e.wg.Done()
	e.mu.Lock()
	defer e.mu.Unlock()
	for {
		j := p.nextJob()
		switch {
		case e.err != nil:
			if inOrder(e.leave) {
				f := &frame.Outgoing{Header: e.header(frame.Leave), Meta: encode(e.leave)}
				e.mu.Unlock()
				_ = p.link.Send(true, f) // if it fails, Lost tells
				e.mu.Lock()
			}
			return
		case j == nil:
			p.bulkC.Wait()
			continue
		}
		o := j.op
		f := &frame.Outgoing{Header: e.opHeader(frame.Data, o.key), Data: j.chunk()}
		f.Type, f.Chunk = o.Type, uint32(j.next)
		if e.cfg.Checksum {
			f.Flags = frame.FlagSummed
		}
		if j.lent {
			f.Flags |= frame.FlagLent
		}
		o.busy++
		j.sending = true
		e.mu.Unlock()
		err := p.link.Send(true, f)
		e.mu.Lock()
		j.sending = false
		o.busy--
		if err == nil {
			n := uint64(len(f.Data))
			p.stats.FrameBytesSent += frame.HeaderBytes + n
			p.stats.SentBytes += n
			e.stats.SentBytes[o.Kind] += n
			o.moved = time.Now()
			if j.next++; j.next == j.chunks {
				if !j.lent || j.taken { // else when the peer has taken it
					o.sending--
				}
				p.jobs = slices.DeleteFunc(p.jobs, func(k *job) bool { return k == j })
			} else if p.gone {
				e.missPeer(p)
			}
		}
		e.settle(o)
		if err != nil {
			return // Lost tells
		}
	}
}

// nextJob is the oldest job with a chunk that may be sent, nil for none.
func (p *peer) nextJob() *job {
	for _, j := range p.jobs {
		if j.next < j.limit {
			return j
		}
	}
	return nil
}
