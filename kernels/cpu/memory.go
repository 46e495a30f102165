package cpu

import (
	"errors"
	"fmt"
	"syscall"

	"github.com/zerofleet/zerofleet/kernels"
)

// From this size on the kernel is asked for huge pages: fewer faults and fewer misses of the address cache.
const hugeFrom = 4 << 20

// memory is anonymous pages, none of Go's: C keeps no pointer to them, and the collector never moves or scans them.
type memory struct {
	owner *Backend
	kind  kernels.Kind
	bytes int64
	data  []byte // nil when freed; guarded by owner.mu
}

// Alloc maps zeroed memory, aligned to a page. It fails with kernels.ErrMemory when the
// machine, or the control group this process runs in, has less left than that.
func (b *Backend) Alloc(kind kernels.Kind, bytes int64) (kernels.Memory, error) {
	if bytes < 1 || int64(int(bytes)) != bytes || (kind != kernels.Device && kind != kernels.Host) {
		return nil, fmt.Errorf("cpu: allocate %d bytes of kind %d", bytes, kind)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nil, errors.New("cpu: allocate on a closed backend")
	}
	if left, ok := availableMemory(); ok && bytes > left {
		return nil, fmt.Errorf("cpu: %d bytes wanted, %d left: %w", bytes, left, kernels.ErrMemory)
	}
	data, err := syscall.Mmap(-1, 0, int(bytes), syscall.PROT_READ|syscall.PROT_WRITE,
		syscall.MAP_PRIVATE|syscall.MAP_ANON|syscall.MAP_NORESERVE)
	if err != nil {
		return nil, fmt.Errorf("cpu: map %d bytes: %w: %w", bytes, err, kernels.ErrMemory)
	}
	if bytes >= hugeFrom {
		_ = syscall.Madvise(data, syscall.MADV_HUGEPAGE) // a wish: kernels without huge pages refuse it
	}
	b.memory++
	return &memory{owner: b, kind: kind, bytes: bytes, data: data}, nil
}

func (m *memory) Bytes() int64       { return m.bytes }
func (m *memory) Kind() kernels.Kind { return m.kind }

func (m *memory) Host() ([]byte, error) {
	if m.kind != kernels.Host {
		return nil, errors.New("cpu: host view of device memory: download it, or allocate host memory")
	}
	m.owner.mu.Lock()
	defer m.owner.mu.Unlock()
	if m.data == nil {
		return nil, errors.New("cpu: host view of memory that was freed")
	}
	return m.data, nil
}

func (m *memory) Free() error {
	m.owner.mu.Lock()
	defer m.owner.mu.Unlock()
	if m.data == nil {
		return errors.New("cpu: memory freed twice")
	}
	data := m.data
	m.data = nil
	m.owner.memory--
	if err := syscall.Munmap(data); err != nil {
		return fmt.Errorf("cpu: unmap %d bytes: %w", m.bytes, err)
	}
	return nil
}
