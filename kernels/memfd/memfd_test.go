package memfd

import (
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// What an owner writes is what a borrower reads, and nobody but the owner writes.
func TestBorrowed(t *testing.T) {
	for _, n := range []int{8, os.Getpagesize(), 3<<20 + 5} {
		b, fd, err := New("test", n)
		if err != nil {
			t.Fatal(err)
		}
		read, err := Borrow(fd, uint64(n))
		if err != nil {
			t.Fatal(err)
		}
		b[0], b[n-1] = 3, 7
		if read[0] != 3 || read[n-1] != 7 || len(read) != n {
			t.Errorf("%d bytes: read %d and %d of %d", n, read[0], read[n-1], len(read))
		}
		if w, err := unix.Mmap(fd, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err == nil {
			t.Errorf("%d bytes: mapped for writing by another", n)
			_ = unix.Munmap(w)
		}
		if err := unix.Ftruncate(fd, 0); err == nil {
			t.Errorf("%d bytes: cut off under its readers", n)
		}
		for _, m := range [][]byte{b, read} {
			if err := Unmap(m); err != nil {
				t.Error(err)
			}
		}
		if err := unix.Close(fd); err != nil {
			t.Error(err)
		}
	}
}

// A file that could change under its reader is not mapped.
func TestBorrowRefuses(t *testing.T) {
	open, err := unix.MemfdCreate("test", unix.MFD_ALLOW_SEALING)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(open)
	if err := unix.Ftruncate(open, 4096); err != nil {
		t.Fatal(err)
	}
	if _, err := Borrow(open, 4096); err == nil || !strings.Contains(err.Error(), "seals 0x0: want") {
		t.Errorf("without seals: got %v", err)
	}
	disk, err := os.CreateTemp(t.TempDir(), "x")
	if err != nil {
		t.Fatal(err)
	}
	defer disk.Close()
	if _, err := Borrow(int(disk.Fd()), 1); err == nil {
		t.Error("a file on disk was mapped")
	}
	b, fd, err := New("test", 4096)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	defer Unmap(b)
	for _, n := range []uint64{0, 4095, 4097, 1 << 62} {
		if _, err := Borrow(fd, n); err == nil || !strings.Contains(err.Error(), "a file of 4096 bytes") {
			t.Errorf("%d bytes of 4096: got %v", n, err)
		}
	}
}
