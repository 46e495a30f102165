package train

import (
	"context"
	"errors"
	"sync"
	"time"
)

// An errand that fails is tried again after firstRetry, then after twice as long each time, up to maxRetry.
const (
	firstRetry = time.Second
	maxRetry   = 30 * time.Second
)

// errand is something that is done beside training, and tried again until it is done, given up, or refused for good.
type errand struct {
	cancel context.CancelFunc
	failed chan struct{} // closed at its first failure
	ended  chan struct{} // closed at its end
	err    error         // what it ended with; read only after ended

	mu   sync.Mutex
	last error // of the newest try, while it goes on
}

// permanent marks an error that no other try can heal.
type permanent struct{ error }

func (p permanent) Unwrap() error { return p.error }

// startErrand calls do until it succeeds, fails for good, or ctx ends. failed hears of each failure that is followed by
// another try, and whether it is the first.
func startErrand(ctx context.Context, do func(context.Context) error, failed func(err error, first bool)) *errand {
	ctx, cancel := context.WithCancel(ctx)
	e := &errand{cancel: cancel, failed: make(chan struct{}), ended: make(chan struct{})}
	go func() {
		defer close(e.ended)
		defer cancel()
		e.err = e.run(ctx, do, failed)
	}()
	return e
}

func (e *errand) run(ctx context.Context, do func(context.Context) error, failed func(err error, first bool)) error {
	for wait := firstRetry; ; wait = min(2*wait, maxRetry) {
		err := do(ctx)
		var final permanent
		if err == nil || ctx.Err() != nil || errors.As(err, &final) {
			return err
		}
		first := e.fails(err)
		if first {
			close(e.failed)
		}
		failed(err, first)
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return err
		}
	}
}

// fails keeps the newest failure, and says whether it is the first.
func (e *errand) fails(err error) (first bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	first = e.last == nil
	e.last = err
	return first
}

// failing is the newest failure of an errand that goes on, or that was given up; nil if no try has failed.
func (e *errand) failing() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.last
}

// over says whether it has ended.
func (e *errand) over() bool {
	select {
	case <-e.ended:
		return true
	default:
		return false
	}
}

// stop gives it up and waits for its end.
func (e *errand) stop() {
	e.cancel()
	<-e.ended
}
