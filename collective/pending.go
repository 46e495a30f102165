package collective

import (
	"context"
	"sync"
)

// Pending is an operation that was posted. It completes exactly once; from then on its
// buffers are the caller's again.
type Pending struct {
	done chan struct{}
	once sync.Once
	err  error // written once, before done is closed
	rec  Record
}

// NewPending returns a Pending and the function that completes it. The function's first
// call counts; later ones do nothing. It is for transports.
func NewPending() (*Pending, func(error)) {
	p := &Pending{done: make(chan struct{})}
	return p, func(err error) {
		p.once.Do(func() {
			p.err = err
			close(p.done)
		})
	}
}

// Note keeps what the flight recorder says of the operation, before it completes. It is for transports.
func (p *Pending) Note(r Record) { p.rec = r }

// Record is what the flight recorder says of the operation that has completed: Done is closed. It is zero when that has
// been overwritten, or when the operation never began.
func (p *Pending) Record() Record { return p.rec }

// Completed returns a Pending that is done already, with err or nil.
func Completed(err error) *Pending {
	p, complete := NewPending()
	complete(err)
	return p
}

// Done is closed when the operation has completed.
func (p *Pending) Done() <-chan struct{} { return p.done }

// Wait returns the operation's error once it has completed, or ctx's error if ctx ends
// first. In that second case the operation goes on and still holds its buffers: only Done
// tells when they are free.
func (p *Pending) Wait(ctx context.Context) error {
	select {
	case <-p.done:
		return p.err
	default:
	}
	select {
	case <-p.done:
		return p.err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
