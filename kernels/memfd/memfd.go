// Package memfd takes host memory that other processes may be given to read.
package memfd

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Seals are what a file of memory is sealed against before anybody else has it: it neither shrinks nor grows, so a reader
// meets no page that is not there, and nobody maps it for writing after its owner.
const Seals = unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_FUTURE_WRITE

// Map makes a sealed file of memory, zero, and maps it for writing, once and for all. The caller unmaps it and closes the
// file.
func Map(name string, bytes int) (b []byte, fd int, err error) {
	fd, err = unix.MemfdCreate(name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, -1, fmt.Errorf("memfd %s: %w", name, err)
	}
	defer func() {
		if err != nil {
			_ = unix.Close(fd)
		}
	}()
	if err := unix.Ftruncate(fd, int64(bytes)); err != nil {
		return nil, -1, fmt.Errorf("memfd %s of %d bytes: %w", name, bytes, err)
	}
	if b, err = unix.Mmap(fd, 0, bytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != nil {
		return nil, -1, fmt.Errorf("map memfd %s of %d bytes: %w", name, bytes, err)
	}
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, Seals|unix.F_SEAL_SEAL); err != nil {
		return nil, -1, errors.Join(fmt.Errorf("seal memfd %s: %w", name, err), unix.Munmap(b))
	}
	return b, fd, nil
}
