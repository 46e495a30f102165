package gguf

import (
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"sync"

	"golang.org/x/sys/unix"
)

// mapping is a file in memory, read-only. Safe for concurrent use.
type mapping struct {
	path string

	mu   sync.RWMutex
	data []byte // nil once closed
}

// mapFile maps a regular file of at least minBytes.
func mapFile(path string, minBytes int64) (*mapping, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close() // the mapping outlives the descriptor
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s: not a regular file", path)
	}
	if info.Size() < minBytes {
		return nil, fmt.Errorf("%s: %w: %d bytes: want at least %d", path, ErrMalformed, info.Size(), minBytes)
	}
	data, err := unix.Mmap(int(f.Fd()), 0, int(info.Size()), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map %s: %w", path, err)
	}
	return &mapping{path: path, data: data}, nil
}

// view lends the file's bytes to use, which must not keep them. A file that shrank or whose
// disk fails while it is read is an error, not a crash.
func (m *mapping) view(use func(data []byte) error) (err error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if m.data == nil {
		return fmt.Errorf("%s: %w", m.path, os.ErrClosed)
	}
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			var fault interface{ Addr() uintptr }
			if e, ok := r.(error); !ok || !errors.As(e, &fault) {
				panic(r)
			}
			err = fmt.Errorf("%s: read failed: the file changed or its disk does not answer", m.path)
		}
	}()
	return use(m.data)
}

func (m *mapping) close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.data == nil {
		return nil
	}
	data := m.data
	m.data = nil
	if err := unix.Munmap(data); err != nil {
		return fmt.Errorf("unmap %s: %w", m.path, err)
	}
	return nil
}
