package cpu

import (
	"errors"
	"fmt"
	"runtime"
	"sync"

	"github.com/zerofleet/zerofleet/kernels"
)

// Options say how to open a Backend. The zero value is the best of this machine.
type Options struct {
	// Threads is the number of threads that share each kernel, the caller's included. 0: one per
	// core that the process may use.
	Threads int
	// ISA is "avx512", "avx2" or "portable"; "": the best of this machine. With a
	// lower one than the machine's best, products come from kernels of our own, so that unlike machines
	// with one setting compute the same bits (avx2 and avx512 do; portable has its own).
	ISA string
	// OwnProducts leaves oneDNN aside even where it is installed.
	OwnProducts bool
}

const maxThreads = 1024

// Backend is this machine's cores. It implements kernels.Backend.
type Backend struct {
	caps kernels.Caps

	mu      sync.Mutex // one Op at a time; no memory is freed under one
	pool    pool
	memory  int // allocations not freed
	streams int // streams not closed
	closed  bool
}

// Open starts the threads. The caller closes the Backend. Backends of one process must
// agree on ISA and OwnProducts.
func Open(o Options) (*Backend, error) {
	if o.Threads == 0 {
		o.Threads = runtime.NumCPU()
	}
	if o.Threads < 1 || o.Threads > maxThreads {
		return nil, fmt.Errorf("cpu: %d threads, want 1 to %d, 0 for one per core", o.Threads, maxThreads)
	}
	if o.ISA == "" {
		o.ISA = bestISAName()
	}
	if err := enter(choice{isa: o.ISA, own: o.OwnProducts}); err != nil {
		return nil, fmt.Errorf("cpu: %w", err)
	}
	p, err := newPool(o.Threads)
	if err != nil {
		leave()
		return nil, fmt.Errorf("cpu: %w", err)
	}
	products := "zerofleet"
	if v := libraryVersion(); v != "" {
		products = "oneDNN " + v
	}
	return &Backend{
		pool: p,
		caps: kernels.Caps{Name: "cpu", ISA: o.ISA, Products: products, Threads: o.Threads, Unified: true},
	}, nil
}

// Caps tells what was chosen.
func (b *Backend) Caps() kernels.Caps { return b.caps }

// Close ends the threads. It fails while memory is not freed or a stream not closed.
func (b *Backend) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return errors.New("cpu: closed twice")
	}
	if b.memory > 0 || b.streams > 0 {
		return fmt.Errorf("cpu: close with %d allocations and %d streams open", b.memory, b.streams)
	}
	b.closed = true
	b.pool.free()
	leave()
	return nil
}

// check says why an Op cannot use a buffer, if so. The caller holds mu.
func (b *Backend) check(name string, buf kernels.Buffer) error {
	m, ok := buf.Mem().(*memory)
	switch {
	case !ok || m.owner != b:
		return fmt.Errorf("%s is not memory of this backend", name)
	case m.data == nil:
		return fmt.Errorf("%s lies in memory that was freed", name)
	}
	return nil
}
