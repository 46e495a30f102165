package train

import (
	"context"
	"errors"

	"github.com/zerofleet/zerofleet/checkpoint"
)

// commitQueue has rank 0's checkpoints committed one after the other, in the order of their steps. One that fails is
// tried again until a later one takes its place.
type commitQueue struct {
	commit   CommitManifest
	troubled func(step int64, err error, first bool)
	queue    []commitment // the first is under way
	running  *errand      // nil when the queue is empty
	refused  error        // how the newest one ended, when it was refused
}

type commitment struct {
	manifest *checkpoint.Manifest
	encoded  []byte
}

// add queues a checkpoint that is whole.
func (q *commitQueue) add(ctx context.Context, m *checkpoint.Manifest) error {
	encoded, err := m.Marshal()
	if err != nil {
		return err
	}
	q.refused = nil
	q.queue = append(q.queue, commitment{m, encoded})
	q.start(ctx)
	return nil
}

func (q *commitQueue) start(ctx context.Context) {
	if q.running != nil || len(q.queue) == 0 {
		return
	}
	c := q.queue[0]
	q.running = startErrand(ctx, func(ctx context.Context) error {
		err := q.commit(ctx, c.manifest, c.encoded)
		if errors.Is(err, ErrRefused) {
			return permanent{err}
		}
		return err
	}, func(err error, first bool) { q.troubled(c.manifest.Step, err, first) })
}

// poll goes on with the next when one is done, or fails and another one waits. It gives the steps that were committed.
func (q *commitQueue) poll(ctx context.Context) (committed []int64) {
	for q.running != nil && (q.running.over() || q.running.failing() != nil && len(q.queue) > 1) {
		q.close()
		switch {
		case q.running.err == nil:
			committed = append(committed, q.queue[0].manifest.Step)
		case len(q.queue) == 1:
			q.refused = q.running.err
		}
		q.queue, q.running = q.queue[1:], nil
		q.start(ctx)
	}
	return committed
}

// failing is why the one under way is not committed yet, or the newest never will be.
func (q *commitQueue) failing() error {
	if q.running != nil {
		return q.running.failing()
	}
	return q.refused
}

// news is closed when the one under way has ended; nil if there is none.
func (q *commitQueue) news() <-chan struct{} {
	if q.running == nil {
		return nil
	}
	return q.running.ended
}

// close gives up what is under way, and waits for it.
func (q *commitQueue) close() {
	if q.running != nil {
		q.running.stop()
	}
}
