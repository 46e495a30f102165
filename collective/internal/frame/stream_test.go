package frame

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"github.com/zerofleet/zerofleet/kernels"
)

// onStream is a frame as it stands on a stream of bytes.
func onStream(t testing.TB, f Outgoing, ref *Ref) []byte {
	t.Helper()
	if ref != nil {
		b, err := f.HeadOf(*ref)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	head, err := f.Head()
	if err != nil {
		t.Fatal(err)
	}
	return append(head, f.Data...)
}

// FuzzReader reads a stream of anything. What passes for a frame is, when it is written again, what was read; what does not is a
// FormatError or the stream's end; and no frame has more than the limits say.
func FuzzReader(f *testing.F) {
	post := onStream(f, Outgoing{Header: Header{Kind: Post, Seq: 7}, Meta: []byte("what it is")}, nil)
	data := onStream(f, Outgoing{Header: Header{Kind: Data, Type: kernels.Int8, Flags: FlagSummed, Seq: 7, Chunk: 3}, Data: make([]byte, 520)}, nil)
	lent := onStream(f, Outgoing{Header: Header{Kind: Data, Type: kernels.F32, Flags: FlagLent, Space: Row}}, &Ref{Region: 1, Off: 1 << 40, Len: 8})
	f.Add(bytes.Join([][]byte{post, data, lent}, nil))
	f.Add(data[:len(data)-1])
	f.Add(append(post, "GET / HTTP/1.1\r\n\r\n"...))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, stream []byte) {
		r := NewReader(bytes.NewReader(stream))
		at := 0
		for {
			got, err := r.Next()
			var ref *Ref
			var body []byte
			if err == nil && got.DataBytes > 0 {
				if got.MetaBytes > MaxMetaBytes || got.DataBytes > MaxDataBytes {
					t.Fatalf("a frame of %d and %d bytes", got.MetaBytes, got.DataBytes)
				}
				if got.Flags&FlagLent != 0 {
					var where Ref
					where, err = r.Ref(got)
					ref = &where
				} else {
					body = make([]byte, got.DataBytes)
					err = r.Data(got, body)
				}
			}
			var bad *FormatError
			switch {
			case errors.As(err, &bad), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
				return
			case err != nil:
				t.Fatal(err)
			}
			again := onStream(t, Outgoing{Header: got.Header, Meta: got.Meta, Data: body}, ref)
			if want := stream[at : at+len(again)]; !bytes.Equal(again, want) {
				t.Fatalf("written again a frame is\n% x, it was\n% x", again, want)
			}
			at += len(again)
		}
	})
}
