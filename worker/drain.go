package worker

import (
	"context"
	"strings"
	"sync/atomic"
	"time"

	"github.com/zerofleet/zerofleet/membership"
	"github.com/zerofleet/zerofleet/membership/spot"
)

// drain is what is known of the end of this worker's machine. Its notices come from SIGTERM, from the cloud's metadata
// service, and from a file: see membership/spot.
type drain struct {
	noticed atomic.Bool
	stop    context.CancelFunc
	done    chan struct{}
}

// maxNotice is how far ahead a deadline may be for a worker to leave now: clouds announce maintenance days before.
const maxNotice = 10 * time.Minute

// watchNotices tells the coordinator of each notice, until close. end is called at a second SIGTERM, and at a first one
// while there is nothing to hand over.
func (w *worker) watchNotices(ctx context.Context, busy func() bool, end func()) *drain {
	ctx, stop := context.WithCancel(ctx)
	d := &drain{stop: stop, done: make(chan struct{})}
	notices := make(chan spot.Notice)
	watched := make(chan struct{})
	c := w.job.Workers.Spot
	go func() {
		defer close(watched)
		file := strings.ReplaceAll(c.File, "{id}", w.session.ID())
		err := spot.Watch(ctx, spot.Options{Provider: spot.Provider(c.Provider), File: file, Grace: seconds(c.GraceSeconds), Log: w.o.Log},
			func(n spot.Notice) {
				select {
				case notices <- n:
				case <-ctx.Done():
				}
			})
		if err != nil {
			w.o.Log.Warn("nobody will warn of this machine's end", "error", err)
		}
	}()
	go func() {
		defer close(d.done)
		defer func() { <-watched }()
		for {
			select {
			case <-ctx.Done():
				return
			case <-w.o.Term:
				if d.noticed.Load() || !busy() {
					end()
					return
				}
				d.notice(ctx, w, time.Now().Add(seconds(c.GraceSeconds)), "SIGTERM")
			case n := <-notices:
				leaves := n.Kind == spot.Preempt || n.Kind == spot.Maintenance
				w.o.Log.Warn("notice", "provider", n.Provider, "kind", n.Kind, "deadline", n.Deadline, "why", n.Why, "leaves", leaves)
				if leaves && time.Until(n.Deadline) < maxNotice {
					d.notice(ctx, w, n.Deadline, n.Why)
				}
			}
		}
	}()
	return d
}

func (d *drain) notice(ctx context.Context, w *worker, deadline time.Time, why string) {
	d.noticed.Store(true)
	w.session.ReportState(membership.Draining, why, 0, nil)
	if err := w.session.Drain(ctx, deadline, why); err != nil {
		w.o.Log.Warn("the coordinator does not know that this worker drains", "error", err)
	}
}

func (d *drain) close() {
	d.stop()
	<-d.done
}
