package deferred

import (
	"errors"
	"fmt"
	"syscall"

	"github.com/zerofleet/zerofleet/kernels"
)

const poison = 0xff // as f32, bf16, f16 and f64 it repeats to a NaN, as i32 to -1

// memory is one allocation. Operations run on data, whose pages are closed at all other times; the host sees view.
type memory struct {
	b     *Backend
	kind  kernels.Kind
	inner kernels.Memory
	data  []byte // inner's own bytes
	view  []byte // Host memory's face, nil for Device memory

	pending []*access // of unfinished operations, in the order in which they were enqueued
	freed   bool
}

// Alloc takes Host memory of the inner Backend for both kinds, so that its pages can be closed.
func (b *Backend) Alloc(kind kernels.Kind, bytes int64) (kernels.Memory, error) {
	if kind != kernels.Device && kind != kernels.Host {
		return nil, fmt.Errorf("deferred: allocate memory of kind %d", kind)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	inner, err := b.inner.Alloc(kernels.Host, bytes)
	if err != nil {
		return nil, fmt.Errorf("deferred: %w", err)
	}
	m := &memory{b: b, kind: kind, inner: inner}
	if err := m.prepare(); err != nil {
		return nil, errors.Join(fmt.Errorf("deferred: allocate %d bytes: %w", bytes, err), inner.Free())
	}
	b.memory++
	return m, nil
}

func (m *memory) prepare() (err error) {
	if m.data, err = m.inner.Host(); err != nil {
		return err
	}
	if err := m.protect(closed); err != nil {
		return err
	}
	if m.kind == kernels.Host {
		m.view, err = syscall.Mmap(-1, 0, len(m.data), syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_PRIVATE|syscall.MAP_ANON)
	}
	return err
}

// protect opens or closes the pages that operations run on.
func (m *memory) protect(prot int) error {
	if err := syscall.Mprotect(m.data, prot); err != nil {
		return fmt.Errorf("protect %d bytes: %w", len(m.data), err)
	}
	return nil
}

const (
	open   = syscall.PROT_READ | syscall.PROT_WRITE
	closed = syscall.PROT_NONE
)

func (m *memory) Bytes() int64       { return int64(len(m.data)) }
func (m *memory) Kind() kernels.Kind { return m.kind }

func (m *memory) Host() ([]byte, error) { return m.HostRange(0, m.Bytes()) }

// HostRange is a part of the host's view, which no unfinished operation may touch.
func (m *memory) HostRange(off, n int64) ([]byte, error) {
	m.b.mu.Lock()
	defer m.b.mu.Unlock()
	switch {
	case m.freed:
		return nil, errors.New("deferred: host view of memory that was freed")
	case m.kind != kernels.Host:
		return nil, errors.New("deferred: host view of device memory: download it, or allocate host memory")
	}
	for _, p := range m.pending {
		if p.overlaps(off, off+n) {
			return nil, fmt.Errorf("deferred: host view of bytes [%d, %d) while %s is queued: missing Sync", off, off+n, p.t)
		}
	}
	return m.view[off : off+n : off+n], nil
}

func (m *memory) Free() error {
	m.b.mu.Lock()
	defer m.b.mu.Unlock()
	if m.freed {
		return errors.New("deferred: memory freed twice")
	}
	if len(m.pending) > 0 {
		return fmt.Errorf("deferred: free of memory while %s is queued: missing Sync", m.pending[0].t)
	}
	m.freed = true
	m.b.memory--
	var err error
	if m.view != nil {
		err = syscall.Munmap(m.view)
		m.view = nil
	}
	return errors.Join(err, m.inner.Free())
}

// memoryOf is a buffer's memory when it is this Backend's and alive.
func (b *Backend) memoryOf(name string, buf kernels.Buffer) (*memory, error) {
	m, ok := buf.Mem().(*memory)
	switch {
	case !ok || m.b != b:
		return nil, fmt.Errorf("%s is not memory of this backend", name)
	case m.freed:
		return nil, fmt.Errorf("%s lies in memory that was freed", name)
	}
	return m, nil
}
