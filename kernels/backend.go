// Package kernels is the border between the trainer and the device that
// computes. It holds no kernel itself: a Backend owns memory and streams, an Op
// says what to compute on which buffers, and a Stream runs Ops in order.
// kernels/cpu implements it with C; kernels/deferred wraps any Backend and fails
// when code forgets a wait or touches device memory from the host.
//
// Call cpu.Open first, plan memory with an Arena, then Launch Ops on a Stream
// and Sync before reading a result.
package kernels

import (
	"context"
	"errors"
	"fmt"
)

// ErrMemory is returned when a device has not the memory that was asked for:
// the job is refused before its first step.
var ErrMemory = errors.New("not enough device memory")

// Kind says who may touch an allocation.
type Kind uint8

const (
	// Device memory is touched by Ops and copies only.
	Device Kind = iota + 1
	// Host memory is pinned: Ops and copies use it like Device memory, and the
	// host reads and writes it through Memory.Host while no operation that was
	// enqueued on it is unfinished.
	Host
)

func (k Kind) String() string {
	if k == Host {
		return "host"
	}
	return "device"
}

// Memory is one allocation of a Backend, zeroed, aligned to 64 bytes at least.
type Memory interface {
	Bytes() int64
	Kind() Kind
	// Host is the memory itself. It fails for Device memory. The caller
	// must have synchronised the streams that used the bytes that it touches.
	Host() ([]byte, error)
	// Free gives the memory back. No operation on it may be unfinished.
	Free() error
}

// Shareable is Memory that other processes can be given to read: all of a file that is sealed, mapped from its start.
type Shareable interface {
	Memory
	// File is its descriptor, false where there is none. It is the Memory's: Free closes it.
	File() (fd int, ok bool)
}

// Caps tells what a Backend is, for plans, logs and the choice of staging.
type Caps struct {
	Name string // "cpu", "deferred"
	ISA  string // "avx512", "avx2", "portable"
	// Products names the matrix product library and its version.
	Products string
	Threads  int
	// Unified is true when Host memory is as fast for Ops as Device memory, so
	// that buffers which cross the wire need no staging copy.
	Unified bool
}

// Backend is one device. Its methods may be called concurrently.
type Backend interface {
	Caps() Caps
	Alloc(kind Kind, bytes int64) (Memory, error)
	NewStream(name string) (Stream, error)
	// Close frees the device. Streams and memory must have been closed before.
	Close() error
}

// Event is a point in a stream that another stream can wait for.
type Event interface{}

// Stream runs what is enqueued on it in order. One goroutine at a time uses it.
//
// Every method checks its arguments at once; what goes wrong while an
// operation runs is returned by that call or by a later one, Sync at the latest.
type Stream interface {
	Launch(op Op) error
	// Upload copies host bytes to dst. src has been read when Upload returns.
	Upload(dst Buffer, src []byte) error
	// Download copies src to host bytes. dst is written when Sync returns.
	Download(dst []byte, src Buffer) error
	// Copy copies src to dst: same element type and length, no overlap.
	Copy(dst, src Buffer) error
	Record() (Event, error)
	Wait(e Event) error
	// Sync returns when all that was enqueued is done, or with its first error.
	Sync(ctx context.Context) error
	Close() error
}

// Buffer is a range of a Memory seen as elements of one type: a value, copied
// freely. The zero Buffer stands for "none" where an Op allows it.
type Buffer struct {
	mem  Memory
	off  int64 // bytes
	n    int   // elements
	kind DType
}

// NewBuffer sees n elements of type t, whole blocks of it, offBytes into m. offBytes must be a
// multiple of the element's alignment and the range must lie inside m.
func NewBuffer(m Memory, offBytes int64, n int, t DType) (Buffer, error) {
	if t.Bytes() == 0 || n < 0 || n%t.Block() != 0 || offBytes < 0 || offBytes%int64(t.Align()) != 0 || offBytes+int64(t.Size(n)) > m.Bytes() {
		return Buffer{}, fmt.Errorf("buffer: %d %s at byte %d of an allocation of %d bytes", n, t, offBytes, m.Bytes())
	}
	return Buffer{mem: m, off: offBytes, n: n, kind: t}, nil
}

// Len is the number of elements.
func (b Buffer) Len() int { return b.n }

// Type is the format of the elements, 0 for the zero Buffer.
func (b Buffer) Type() DType { return b.kind }

// Bytes is the length in bytes.
func (b Buffer) Bytes() int64 { return int64(b.kind.Size(b.n)) }

// Mem is the allocation the buffer lies in, nil for the zero Buffer.
func (b Buffer) Mem() Memory { return b.mem }

// Offset is the buffer's first byte in its allocation.
func (b Buffer) Offset() int64 { return b.off }

// IsZero reports whether b is the zero Buffer.
func (b Buffer) IsZero() bool { return b.kind == 0 }

// Slice is elements [lo, hi) of b, whole blocks of its type. Like a Go slice expression it panics when
// the range is not inside b: ranges come from layouts, never from outside input.
func (b Buffer) Slice(lo, hi int) Buffer {
	if lo < 0 || hi < lo || hi > b.n || lo%b.kind.Block() != 0 || hi%b.kind.Block() != 0 {
		panic(fmt.Sprintf("kernels: slice [%d:%d) of a buffer of %d %s", lo, hi, b.n, b.kind))
	}
	return Buffer{mem: b.mem, off: b.off + int64(b.kind.Size(lo)), n: hi - lo, kind: b.kind}
}

// rangeHost is a Memory that knows which of its bytes unfinished operations use.
type rangeHost interface {
	HostRange(off, n int64) ([]byte, error)
}

// Host is the bytes of a buffer in Host memory. No operation on the buffer may be unfinished; others may be, on
// other buffers of its Memory.
func (b Buffer) Host() ([]byte, error) {
	if b.mem == nil {
		return nil, errors.New("host view of a buffer without memory")
	}
	if m, ok := b.mem.(rangeHost); ok {
		return m.HostRange(b.off, b.Bytes())
	}
	all, err := b.mem.Host()
	if err != nil {
		return nil, err
	}
	return all[b.off : b.off+b.Bytes() : b.off+b.Bytes()], nil
}

// Overlaps reports whether a and b share a byte.
func (b Buffer) Overlaps(c Buffer) bool {
	return b.mem != nil && b.mem == c.mem && b.off < c.off+c.Bytes() && c.off < b.off+b.Bytes()
}
