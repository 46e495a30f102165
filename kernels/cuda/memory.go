package cuda

import (
	"errors"
	"fmt"
	"sync/atomic"
	"unsafe"

	"github.com/zerofleet/zerofleet/kernels"
)

// memory is the library's: on the card, or pinned.
type memory struct {
	owner *Backend
	kind  kernels.Kind
	bytes int64
	p     unsafe.Pointer
	freed atomic.Bool
}

// Alloc takes zeroed memory. It fails with kernels.ErrMemory when there is less left than that.
func (b *Backend) Alloc(kind kernels.Kind, bytes int64) (kernels.Memory, error) {
	if bytes < 1 || int64(int(bytes)) != bytes || (kind != kernels.Device && kind != kernels.Host) {
		return nil, fmt.Errorf("cuda: allocate %d bytes of kind %d", bytes, kind)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nil, errors.New("cuda: allocate on a closed backend")
	}
	p, err := b.device.alloc(kind, bytes)
	if err != nil {
		return nil, fmt.Errorf("cuda: allocate %d bytes of %s memory: %w", bytes, kind, err)
	}
	b.memory++
	return &memory{owner: b, kind: kind, bytes: bytes, p: p}, nil
}

func (m *memory) Bytes() int64       { return m.bytes }
func (m *memory) Kind() kernels.Kind { return m.kind }

func (m *memory) Host() ([]byte, error) {
	if m.kind != kernels.Host {
		return nil, errors.New("cuda: host view of device memory: download it, or allocate host memory")
	}
	if m.freed.Load() {
		return nil, errors.New("cuda: host view of memory that was freed")
	}
	return unsafe.Slice((*byte)(m.p), m.bytes), nil
}

func (m *memory) Free() error {
	if m.freed.Swap(true) {
		return errors.New("cuda: memory freed twice")
	}
	m.owner.mu.Lock()
	defer m.owner.mu.Unlock()
	m.owner.memory--
	if err := m.owner.device.release(m.kind, m.p); err != nil {
		return fmt.Errorf("cuda: free %d bytes of %s memory: %w", m.bytes, m.kind, err)
	}
	return nil
}

// check says why an operation cannot use a buffer, if so.
func (b *Backend) check(name string, buf kernels.Buffer) error {
	m, ok := buf.Mem().(*memory)
	switch {
	case !ok || m.owner != b:
		return fmt.Errorf("%s is not memory of this backend", name)
	case m.freed.Load():
		return fmt.Errorf("%s lies in memory that was freed", name)
	}
	return nil
}
