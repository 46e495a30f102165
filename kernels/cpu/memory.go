package cpu

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/zerofleet/zerofleet/kernels"
	"github.com/zerofleet/zerofleet/kernels/memfd"
)

// From this size on the kernel is asked for huge pages: fewer faults and fewer misses of the address cache.
const hugeFrom = 4 << 20

// memory is anonymous pages, none of Go's: C keeps no pointer to them, and the collector never moves or scans them.
type memory struct {
	owner *Backend
	kind  kernels.Kind
	bytes int64
	data  []byte // nil when freed; guarded by owner.mu
	fd    int    // of Host memory that others can be given to read; -1 for none
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
	data, fd, err := mapPages(kind, int(bytes))
	if err != nil {
		return nil, fmt.Errorf("cpu: map %d bytes: %w: %w", bytes, err, kernels.ErrMemory)
	}
	if fd < 0 && bytes >= hugeFrom {
		_ = unix.Madvise(data, unix.MADV_HUGEPAGE) // a wish: kernels without huge pages refuse it
	}
	b.memory++
	return &memory{owner: b, kind: kind, bytes: bytes, data: data, fd: fd}, nil
}

// mapPages maps private pages, and for Host memory pages of a file that others can be given to read, where the kernel has
// such files.
func mapPages(kind kernels.Kind, bytes int) (data []byte, fd int, err error) {
	if kind == kernels.Host {
		if data, fd, err = memfd.New("zerofleet", bytes); err == nil {
			return data, fd, nil
		}
	}
	data, err = unix.Mmap(-1, 0, bytes, unix.PROT_READ|unix.PROT_WRITE,
		unix.MAP_PRIVATE|unix.MAP_ANON|unix.MAP_NORESERVE)
	return data, -1, err
}

// File is kernels.Shareable's.
func (m *memory) File() (fd int, ok bool) { return m.fd, m.fd >= 0 }

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
	var err error
	if m.fd >= 0 {
		err = errors.Join(memfd.Unmap(data), unix.Close(m.fd))
	} else {
		err = unix.Munmap(data)
	}
	if err != nil {
		return fmt.Errorf("cpu: unmap %d bytes: %w", m.bytes, err)
	}
	return nil
}
