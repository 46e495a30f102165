package frame

import (
	"encoding/binary"
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
	if len(f.Meta) > MaxMetaBytes || len(f.Data) > MaxDataBytes {
		return nil, fmt.Errorf("encode %s frame: %d bytes of meta and %d of data: want at most %d and %d",
			f.Kind, len(f.Meta), len(f.Data), MaxMetaBytes, MaxDataBytes)
	}
	h := f.Header
	h.MetaBytes, h.DataBytes = uint32(len(f.Meta)), uint32(len(f.Data))
	head := make([]byte, HeaderBytes+len(f.Meta))
	b := (*[HeaderBytes]byte)(head)
	h.put(b)
	copy(head[HeaderBytes:], f.Meta)
	out := append(make(mem.BufferSlice, 0, 2), mem.SliceBuffer(head))
	var dataSum uint64
	if len(f.Data) > 0 {
		data := mem.Copy(f.Data, pool)
		if f.Flags&FlagSummed != 0 {
			dataSum = xxh3.Hash(data.ReadOnlyData()) // the copy: what is sent is what was summed
		}
		out = append(out, data)
	}
	binary.LittleEndian.PutUint64(b[48:], sum(b, f.Meta, dataSum))
	return out, nil
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
	if got := sum(&b, f.Meta, dataSum); got != h.Sum {
		f.Free()
		return nil, fmt.Errorf("%s frame %d.%d: %w: %016x, want %016x", h.Kind, h.Seq, h.Chunk, ErrChecksum, got, h.Sum)
	}
	return f, nil
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
