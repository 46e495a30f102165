// Package memfd takes host memory that other processes may be given to read.
package memfd

import (
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Seals are what a file of memory is sealed against before anybody else has it: it neither shrinks nor grows, so a reader
// meets no page that is not there, and nobody maps it for writing after its owner.
const Seals = unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_FUTURE_WRITE

// huge is the size and alignment of the pages that the kernel is asked for, where a mapping has room for one.
const huge = 2 << 20

// New makes a sealed file of memory, zero, and maps it for writing, once and for all. The caller calls Unmap and closes the
// file.
func New(name string, bytes int) (b []byte, fd int, err error) {
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
	if b, err = mapFile(fd, bytes, unix.PROT_READ|unix.PROT_WRITE); err != nil {
		return nil, -1, fmt.Errorf("map memfd %s of %d bytes: %w", name, bytes, err)
	}
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, Seals|unix.F_SEAL_SEAL); err != nil {
		return nil, -1, errors.Join(fmt.Errorf("seal memfd %s: %w", name, err), Unmap(b))
	}
	return b, fd, nil
}

// Borrow maps for reading what another process made with New, all of it: a file that is not sealed so is refused.
func Borrow(fd int, bytes uint64) ([]byte, error) {
	seals, err := unix.FcntlInt(uintptr(fd), unix.F_GET_SEALS, 0)
	if err != nil {
		return nil, fmt.Errorf("seals: %w", err)
	}
	if seals&Seals != Seals {
		return nil, fmt.Errorf("seals %#x: want %#x", seals, Seals)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, err
	}
	if bytes < 1 || uint64(st.Size) != bytes {
		return nil, fmt.Errorf("a file of %d bytes: want %d", st.Size, bytes)
	}
	return mapFile(fd, int(bytes), unix.PROT_READ)
}

// Unmap ends a mapping of New or Borrow.
func Unmap(b []byte) error {
	return unix.MunmapPtr(unsafe.Pointer(unsafe.SliceData(b)), uintptr(len(b)))
}

// mapFile maps a file from its start to an address at which huge pages can be: fewer faults, and fewer misses of the
// address cache.
func mapFile(fd, bytes, prot int) ([]byte, error) {
	n := uintptr(bytes)
	if n < huge {
		p, err := unix.MmapPtr(fd, 0, nil, n, prot, unix.MAP_SHARED)
		return unsafe.Slice((*byte)(p), bytes), err
	}
	// Address space for it and its alignment, of which the file takes the aligned part.
	space, err := unix.MmapPtr(-1, 0, nil, n+huge, unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANON|unix.MAP_NORESERVE)
	if err != nil {
		return nil, err
	}
	page := uintptr(unix.Getpagesize())
	before := -uintptr(space) & (huge - 1)
	end := before + (n+page-1)/page*page
	at := unsafe.Add(space, before)
	if _, err := unix.MmapPtr(fd, 0, at, n, prot, unix.MAP_SHARED|unix.MAP_FIXED); err != nil {
		return nil, errors.Join(err, unix.MunmapPtr(space, n+huge))
	}
	if before > 0 {
		err = unix.MunmapPtr(space, before)
	}
	if end < n+huge {
		err = errors.Join(err, unix.MunmapPtr(unsafe.Add(space, end), n+huge-end))
	}
	b := unsafe.Slice((*byte)(at), bytes)
	_ = unix.Madvise(b, unix.MADV_HUGEPAGE) // a wish: kernels without huge pages refuse it
	return b, err
}
