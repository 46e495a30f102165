package cuda

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/zerofleet/zerofleet/kernels"
)

// Options say which device to open, and with which library.
type Options struct {
	// Library is the path of libzerofleet_cuda.so; "": LibraryPath.
	Library string
	// Device is the GPU's number among those that the process may use (CUDA_VISIBLE_DEVICES); numbers from their count on begin
	// at 0 again, so that workers of one host may give their number among them.
	Device int
}

// ErrNone is why nothing could be opened where there is no library, or no GPU.
var ErrNone = errors.New("no CUDA device")

// Backend is one GPU. It implements kernels.Backend.
type Backend struct {
	device device
	info   info
	number int

	mu      sync.Mutex // over memory and streams being opened and closed
	memory  int        // allocations not freed
	streams int        // streams not closed
	closed  bool
}

// Count opens the library, the one at LibraryPath when the path is "", and counts the GPUs. The error is ErrNone when there is no
// library or no GPU.
func Count(library string) (int, error) {
	if library == "" {
		path, err := LibraryPath()
		if err != nil {
			return 0, err
		}
		library = path
	}
	if _, err := os.Stat(library); errors.Is(err, os.ErrNotExist) {
		return 0, fmt.Errorf("%w: there is no %s (make cuda builds it)", ErrNone, library)
	}
	if err := openLibrary(library); err != nil {
		return 0, err
	}
	n, err := deviceCount()
	if err != nil {
		return 0, fmt.Errorf("%w: count devices: %w", ErrNone, err)
	}
	if n < 1 {
		return 0, fmt.Errorf("%w: there are %d", ErrNone, n)
	}
	return n, nil
}

// Open opens a GPU. The caller closes the Backend. The error is ErrNone when there is no library or no GPU.
func Open(o Options) (*Backend, error) {
	if o.Device < 0 {
		return nil, fmt.Errorf("cuda: device %d, want 0 or more", o.Device)
	}
	n, err := Count(o.Library)
	if err != nil {
		return nil, fmt.Errorf("cuda: %w", err)
	}
	b := &Backend{number: o.Device % n}
	if b.device, b.info, err = openDevice(b.number); err != nil {
		return nil, fmt.Errorf("cuda: open device %d: %w", b.number, err)
	}
	return b, nil
}

// Caps tells which card and library of products these are.
func (b *Backend) Caps() kernels.Caps {
	return kernels.Caps{Name: "cuda", ISA: b.info.isa, Products: b.info.products}
}

// Device is the card's name and number, for logs: "NVIDIA H100 80GB HBM3 (cuda:0)".
func (b *Backend) Device() string { return fmt.Sprintf("%s (cuda:%d)", b.info.name, b.number) }

// MemoryBytes is the card's memory, and what was free of it when the Backend opened.
func (b *Backend) MemoryBytes() (total, free int64) { return b.info.totalBytes, b.info.freeBytes }

// Close gives the GPU back. It fails while memory is not freed or a stream not closed.
func (b *Backend) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return errors.New("cuda: closed twice")
	}
	if b.memory > 0 || b.streams > 0 {
		return fmt.Errorf("cuda: close with %d allocations and %d streams open", b.memory, b.streams)
	}
	b.closed = true
	if err := b.device.close(); err != nil {
		return fmt.Errorf("cuda: close: %w", err)
	}
	return nil
}
