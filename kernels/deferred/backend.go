// Package deferred is a Backend for tests that behaves like the most distant device there could be: nothing that is
// enqueued happens before the last moment. It wraps another Backend, which computes.
//
// A program that waits where it must gets the same numbers from it as from the Backend inside. A program that forgets
// a wait gets an error, or NaN:
//
//   - an Op, copy, upload or download runs only when its stream is synchronised, or a stream that waited for an event
//     recorded after it;
//   - until then, what it will write for the host (a download's bytes, the host's view of Host memory) is NaN, and
//     asking for a host view of it is an error;
//   - Device memory has no host view, and its pages cannot be touched unless an operation is running on it;
//   - Host memory has an address range of its own for the host: what the host writes while an operation that reads it is
//     queued is found when the operation runs;
//   - an operation that touches what an unfinished one of another stream writes, or writes what that one touches, is an error
//     naming both, unless an event orders them.
package deferred

import (
	"errors"
	"fmt"
	"sync"

	"github.com/zerofleet/zerofleet/kernels"
)

// Backend defers. It implements kernels.Backend.
type Backend struct {
	inner kernels.Backend

	mu      sync.Mutex // guards everything below and every stream and memory: one operation at a time
	streams int
	memory  int
	closed  bool
}

// New wraps inner, which the result owns from then on. inner's Host memory must begin at a page.
func New(inner kernels.Backend) *Backend { return &Backend{inner: inner} }

// Caps are the inner Backend's, with Host memory that is not the device's own.
func (b *Backend) Caps() kernels.Caps {
	c := b.inner.Caps()
	c.Name, c.Unified = "deferred", false
	return c
}

// Close closes the inner Backend too. It fails while memory is not freed or a stream not closed.
func (b *Backend) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return errors.New("deferred: closed twice")
	}
	if b.memory > 0 || b.streams > 0 {
		return fmt.Errorf("deferred: close with %d allocations and %d streams open", b.memory, b.streams)
	}
	b.closed = true
	return b.inner.Close()
}
