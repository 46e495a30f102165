package safetensors

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strings"
	"unicode/utf8"
)

// TensorInfo announces one tensor to a Writer.
type TensorInfo struct {
	Name  string
	DType DType
	Shape []int // sizes >= 0; empty for a single number
}

// Writer writes one safetensors stream: the header when it is made, then the tensors'
// elements, which come in the order of the announcement, each in one or several calls. It
// holds a fixed buffer, never a tensor. Not safe for concurrent use.
type Writer struct {
	w       io.Writer
	tensors []Tensor // ranges from the end of the header
	next    int      // the tensor that is being written
	at      int64    // bytes of data written so far
	buf     [64 << 10]byte
}

// NewWriter writes the header of a stream of these tensors. The order is the file's; a
// tensor that would lie off its dtype's alignment is refused, so put wide dtypes before
// narrow ones. Call Finish after the last element: it tells whether all came.
func NewWriter(w io.Writer, tensors []TensorInfo, metadata map[string]string) (*Writer, error) {
	placed, err := placeAll(tensors)
	if err != nil {
		return nil, fmt.Errorf("write safetensors: %w", err)
	}
	head, err := formatHeader(placed, metadata)
	if err != nil {
		return nil, fmt.Errorf("write safetensors: %w", err)
	}
	if _, err := w.Write(head); err != nil {
		return nil, fmt.Errorf("write safetensors header: %w", err)
	}
	return &Writer{w: w, tensors: placed}, nil
}

// placeAll puts the tensors end to end from 0.
func placeAll(tensors []TensorInfo) ([]Tensor, error) {
	placed := make([]Tensor, 0, len(tensors))
	seen := make(map[string]bool, len(tensors))
	var at int64
	for _, info := range tensors {
		width := int64(info.DType.Bytes())
		elems, ok := int64(0), !slices.ContainsFunc(info.Shape, func(d int) bool { return d < 0 }) && len(info.Shape) <= maxDims
		if ok {
			elems, ok = product(info.Shape)
		}
		switch {
		case info.Name == metadataKey || seen[info.Name]:
			return nil, fmt.Errorf("tensor %q: name is reserved or stands twice", info.Name)
		case !utf8.ValidString(info.Name):
			return nil, fmt.Errorf("tensor %q: name is not UTF-8", info.Name)
		case width == 0:
			return nil, fmt.Errorf("tensor %q: unknown dtype %q", info.Name, info.DType)
		case !ok || elems > (math.MaxInt64-at)/width:
			return nil, fmt.Errorf("tensor %q: shape %v: want sizes >= 0 whose product fits a file", info.Name, info.Shape)
		case at%width != 0:
			return nil, fmt.Errorf("tensor %q: %s at byte %d is misaligned: put wide dtypes before narrow ones", info.Name, info.DType, at)
		}
		seen[info.Name] = true
		placed = append(placed, Tensor{
			Name: info.Name, DType: info.DType, Shape: slices.Clone(info.Shape), Elems: int(elems),
			begin: at, end: at + elems*width,
		})
		at += elems * width
	}
	return placed, nil
}

// formatHeader writes the JSON byte for byte as the reference implementation does, the
// order of keys included.
func formatHeader(tensors []Tensor, metadata map[string]string) ([]byte, error) {
	for key, value := range metadata {
		if !utf8.ValidString(key) || !utf8.ValidString(value) {
			return nil, fmt.Errorf("metadata %q: %q: want UTF-8", key, value)
		}
	}
	var b bytes.Buffer
	b.Write(make([]byte, lengthBytes))
	b.WriteByte('{')
	if metadata != nil {
		b.WriteString(`"` + metadataKey + `":{`)
		for i, key := range slices.Sorted(maps.Keys(metadata)) {
			if i > 0 {
				b.WriteByte(',')
			}
			writeString(&b, key)
			b.WriteByte(':')
			writeString(&b, metadata[key])
		}
		b.WriteByte('}')
	}
	for i, t := range tensors {
		if i > 0 || metadata != nil {
			b.WriteByte(',')
		}
		writeString(&b, t.Name)
		fmt.Fprintf(&b, `:{"dtype":"%s","shape":[`, t.DType)
		for j, d := range t.Shape {
			if j > 0 {
				b.WriteByte(',')
			}
			fmt.Fprintf(&b, "%d", d)
		}
		fmt.Fprintf(&b, `],"data_offsets":[%d,%d]}`, t.begin, t.end)
	}
	b.WriteByte('}')
	for b.Len()%8 != 0 {
		b.WriteByte(' ')
	}
	head := b.Bytes()
	if len(head)-lengthBytes > MaxHeaderBytes {
		return nil, fmt.Errorf("header of %d bytes: want at most %d", len(head)-lengthBytes, MaxHeaderBytes)
	}
	binary.LittleEndian.PutUint64(head, uint64(len(head)-lengthBytes))
	return head, nil
}

// writeString writes s as JSON with the fewest escapes.
func writeString(b *bytes.Buffer, s string) {
	const short = "\bb\ff\nn\rr\tt\"\"\\\\"
	b.WriteByte('"')
	for i := range len(s) {
		c := s[i]
		if at := strings.IndexByte(short, c); at >= 0 && at%2 == 0 {
			b.WriteByte('\\')
			b.WriteByte(short[at+1])
		} else if c < 0x20 {
			fmt.Fprintf(b, `\u%04x`, c)
		} else {
			b.WriteByte(c)
		}
	}
	b.WriteByte('"')
}

// WriteF32 appends elements to the tensor called name, rounding to its dtype, F32, F16 or
// BF16: to nearest, ties to even. The tensor must be the one that is being written, or the
// next when that is complete.
func (w *Writer) WriteF32(name string, src []float32) error {
	t, err := w.current(name)
	if err != nil {
		return err
	}
	if t.DType != F32 && t.DType != F16 && t.DType != BF16 {
		return fmt.Errorf("write tensor %q: dtype %s from f32: want one of F32, F16, BF16", name, t.DType)
	}
	width := t.DType.Bytes()
	if err := w.room(t, int64(len(src))*int64(width)); err != nil {
		return err
	}
	for len(src) > 0 {
		n := min(len(src), len(w.buf)/width)
		encode(w.buf[:n*width], src[:n], t.DType)
		if err := w.put(name, w.buf[:n*width]); err != nil {
			return err
		}
		src = src[n:]
	}
	return nil
}

// WriteBytes is WriteF32 for elements that are in the tensor's dtype already, little-endian.
func (w *Writer) WriteBytes(name string, src []byte) error {
	t, err := w.current(name)
	if err != nil {
		return err
	}
	if err := w.room(t, int64(len(src))); err != nil {
		return err
	}
	return w.put(name, src)
}

// current is the tensor that is being written, which must be name.
func (w *Writer) current(name string) (Tensor, error) {
	for w.next < len(w.tensors) {
		t := w.tensors[w.next]
		if t.Name == name {
			return t, nil
		}
		if w.at != t.end {
			return t, fmt.Errorf("write tensor %q: %q comes first, and %d of its %d bytes are written", name, t.Name, w.at-t.begin, t.Bytes())
		}
		w.next++
	}
	return Tensor{}, fmt.Errorf("write tensor %q: not announced, or already complete", name)
}

func (w *Writer) room(t Tensor, bytes int64) error {
	if bytes > t.end-w.at {
		return fmt.Errorf("write tensor %q: %d bytes, but %d of %d are left", t.Name, bytes, t.end-w.at, t.Bytes())
	}
	return nil
}

func (w *Writer) put(name string, b []byte) error {
	n, err := w.w.Write(b)
	w.at += int64(n)
	if err != nil {
		return fmt.Errorf("write tensor %q: %w", name, err)
	}
	return nil
}

// Finish reports the first tensor that is not complete. It does not close the stream below.
func (w *Writer) Finish() error {
	for ; w.next < len(w.tensors); w.next++ {
		if t := w.tensors[w.next]; w.at < t.end {
			return fmt.Errorf("write safetensors: tensor %q: %d of %d bytes written", t.Name, max(0, w.at-t.begin), t.Bytes())
		}
	}
	return nil
}
