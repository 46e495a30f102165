package frame

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"

	"github.com/zeebo/xxh3"
)

// Head gives what stands before the data on a stream of bytes: header and meta part. The data follows it as it is.
func (f *Outgoing) Head() ([]byte, error) { return f.head(f.Data) }

func (f *Outgoing) head(data []byte) ([]byte, error) {
	if len(f.Meta) > MaxMetaBytes || len(data) > MaxDataBytes {
		return nil, fmt.Errorf("encode %s frame: %d bytes of meta and %d of data: want at most %d and %d",
			f.Kind, len(f.Meta), len(data), MaxMetaBytes, MaxDataBytes)
	}
	h := f.Header
	h.MetaBytes, h.DataBytes = uint32(len(f.Meta)), uint32(len(data))
	out := make([]byte, HeaderBytes+len(f.Meta))
	b := (*[HeaderBytes]byte)(out)
	h.put(b)
	copy(out[HeaderBytes:], f.Meta)
	var dataSum uint64
	if f.Flags&FlagSummed != 0 && len(data) > 0 {
		dataSum = xxh3.Hash(data)
	}
	binary.LittleEndian.PutUint64(b[48:], sum(b, f.Meta, dataSum))
	return out, nil
}

// Ref says where lent memory is: bytes [Off, Off+Len) of one of the sender's regions.
type Ref struct{ Region, Off, Len uint64 }

const refBytes = 24

// HeadOf is Head for a lent frame, the Ref included.
func (f *Outgoing) HeadOf(r Ref) ([]byte, error) {
	var data [refBytes]byte
	le := binary.LittleEndian
	le.PutUint64(data[0:], r.Region)
	le.PutUint64(data[8:], r.Off)
	le.PutUint64(data[16:], r.Len)
	head, err := f.head(data[:])
	return append(head, data[:]...), err
}

// Reader reads frames from a stream of bytes, which is not left at a frame's border after an error.
type Reader struct {
	r    *bufio.Reader
	head [HeaderBytes]byte
}

// readerBytes holds some headers; data that is longer is read past it.
const readerBytes = 4 << 10

// NewReader reads from r.
func NewReader(r io.Reader) *Reader { return &Reader{r: bufio.NewReaderSize(r, readerBytes)} }

// Next reads a frame's header and meta part. The caller reads its data with Data before the next call. What is in the frame
// is proved by Data, if it has any.
func (r *Reader) Next() (*Frame, error) {
	if _, err := io.ReadFull(r.r, r.head[:]); err != nil {
		return nil, err
	}
	h, err := parseHeader(&r.head)
	if err != nil {
		return nil, &FormatError{err}
	}
	f := &Frame{Header: h}
	if h.MetaBytes > 0 {
		f.Meta = make([]byte, h.MetaBytes)
		if _, err := io.ReadFull(r.r, f.Meta); err != nil {
			return nil, err
		}
	}
	if h.DataBytes == 0 {
		return f, r.check(f, 0)
	}
	return f, nil
}

// ReadBare reads a frame without data, and nothing after it.
func ReadBare(r io.Reader) (*Frame, error) {
	var one Reader
	if _, err := io.ReadFull(r, one.head[:]); err != nil {
		return nil, err
	}
	h, err := parseHeader(&one.head)
	if err != nil {
		return nil, &FormatError{err}
	}
	if h.DataBytes > 0 {
		return nil, &FormatError{fmt.Errorf("%s frame with %d bytes of data: want none", h.Kind, h.DataBytes)}
	}
	f := &Frame{Header: h, Meta: make([]byte, h.MetaBytes)}
	if _, err := io.ReadFull(r, f.Meta); err != nil {
		return nil, err
	}
	return f, one.check(f, 0)
}

// WriteBare writes a frame without data.
func WriteBare(w io.Writer, f *Outgoing) error {
	head, err := f.head(nil)
	if err != nil {
		return err
	}
	_, err = w.Write(head)
	return err
}

// Begins reports whether a frame can begin with that byte.
func Begins(first byte) bool { return first == magic[0] }

// FormatError means that what was read is no frame, or not the frame that was sent.
type FormatError struct{ Err error }

func (e *FormatError) Error() string { return e.Err.Error() }

// Unwrap gives the cause.
func (e *FormatError) Unwrap() error { return e.Err }

// Data reads the data part into dst, which has its length, and checks the frame.
func (r *Reader) Data(f *Frame, dst []byte) error {
	if _, err := io.ReadFull(r.r, dst); err != nil {
		return err
	}
	var dataSum uint64
	if f.Flags&FlagSummed != 0 {
		dataSum = xxh3.Hash(dst)
	}
	return r.check(f, dataSum)
}

func (r *Reader) check(f *Frame, dataSum uint64) error {
	if err := f.check(&r.head, dataSum); err != nil {
		return &FormatError{err}
	}
	return nil
}

// Ref reads a lent frame's data part.
func (r *Reader) Ref(f *Frame) (Ref, error) {
	if f.DataBytes != refBytes {
		return Ref{}, &FormatError{fmt.Errorf("%s frame lends with %d bytes: want %d", f.Kind, f.DataBytes, refBytes)}
	}
	var b [refBytes]byte
	if err := r.Data(f, b[:]); err != nil {
		return Ref{}, err
	}
	le := binary.LittleEndian
	return Ref{le.Uint64(b[0:]), le.Uint64(b[8:]), le.Uint64(b[16:])}, nil
}
