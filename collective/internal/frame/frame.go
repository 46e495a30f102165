package frame

import (
	"errors"
	"fmt"

	"github.com/zeebo/xxh3"
	"google.golang.org/grpc/mem"
)

// ErrChecksum means that a frame's bytes are not those that were sent.
var ErrChecksum = errors.New("bad checksum")

// Outgoing is a frame to be sent. Encoding sets its lengths and checksum, and leaves it unchanged. With FlagLent, Data is
// memory that the peer reads itself: what is sent is a Ref to it, which only links that lend can make.
type Outgoing struct {
	Header
	Meta []byte
	Data []byte
}

// Encode gives the frame as buffers, Data copied into one from pool.
func (f *Outgoing) Encode(pool mem.BufferPool) (mem.BufferSlice, error) {
	if len(f.Data) == 0 {
		head, err := f.head(nil)
		return mem.BufferSlice{mem.SliceBuffer(head)}, err
	}
	data := mem.Copy(f.Data, pool)
	head, err := f.head(data.ReadOnlyData()) // the copy: what is sent is what was summed
	if err != nil {
		data.Free()
		return nil, err
	}
	return mem.BufferSlice{mem.SliceBuffer(head), data}, nil
}

// Frame is a frame that was received. Data refers to the received buffers, in pieces that
// may cut an element; Free gives them back. With FlagLent, Lent is the peer's memory instead.
type Frame struct {
	Header
	Meta []byte
	Data mem.BufferSlice
	Lent []byte
}

// Decode reads a whole frame from src and checks it. The Frame holds references of its own
// to src's buffers.
func Decode(src mem.BufferSlice) (*Frame, error) {
	total := src.Len()
	if total < HeaderBytes {
		return nil, fmt.Errorf("frame of %d bytes: want at least %d", total, HeaderBytes)
	}
	var b [HeaderBytes]byte
	src.CopyTo(b[:])
	h, err := parseHeader(&b)
	if err != nil {
		return nil, err
	}
	if want := HeaderBytes + int(h.MetaBytes) + int(h.DataBytes); total != want {
		return nil, fmt.Errorf("%s frame of %d bytes: its header wants %d", h.Kind, total, want)
	}
	f := &Frame{Header: h}
	if h.MetaBytes > 0 {
		f.Meta = make([]byte, h.MetaBytes)
		copyAt(f.Meta, src, HeaderBytes)
	}
	f.Data = tail(src, HeaderBytes+int(h.MetaBytes))
	var dataSum uint64
	if h.Flags&FlagSummed != 0 && h.DataBytes > 0 {
		dataSum = sumPieces(f.Data)
	}
	if err := f.check(&b, dataSum); err != nil {
		f.Free()
		return nil, err
	}
	return f, nil
}

// check holds the frame to its checksum: b is its header as it was read.
func (f *Frame) check(b *[HeaderBytes]byte, dataSum uint64) error {
	if got := sum(b, f.Meta, dataSum); got != f.Sum {
		return fmt.Errorf("%s frame %d.%d: %w: %016x, want %016x", f.Kind, f.Seq, f.Chunk, ErrChecksum, got, f.Sum)
	}
	return nil
}

// Free gives the received buffers back. It may be called more than once.
func (f *Frame) Free() {
	f.Data.Free()
	f.Data = nil
}

// CopyData copies the data part into dst, which must have its length.
func (f *Frame) CopyData(dst []byte) { f.Data.CopyTo(dst) }

func sumPieces(s mem.BufferSlice) uint64 {
	if len(s) == 1 {
		return xxh3.Hash(s[0].ReadOnlyData())
	}
	h := hashers.Get().(*xxh3.Hasher)
	defer hashers.Put(h)
	h.Reset()
	for _, b := range s {
		h.Write(b.ReadOnlyData()) // never fails
	}
	return h.Sum64()
}

// copyAt fills dst from s's bytes [off, off+len(dst)).
func copyAt(dst []byte, s mem.BufferSlice, off int) {
	for _, b := range s {
		p := b.ReadOnlyData()
		if off >= len(p) {
			off -= len(p)
			continue
		}
		n := copy(dst, p[off:])
		dst, off = dst[n:], 0
		if len(dst) == 0 {
			return
		}
	}
}

// tail is s from byte off on, with references of its own.
func tail(s mem.BufferSlice, off int) mem.BufferSlice {
	out := make(mem.BufferSlice, 0, len(s))
	for _, b := range s {
		n := b.Len()
		switch {
		case off >= n:
			off -= n
		case off > 0:
			out = append(out, b.Slice(off, n))
			off = 0
		default:
			b.Ref()
			out = append(out, b)
		}
	}
	return out
}
