package safetensors

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"unicode/utf8"
)

// MaxHeaderBytes is the longest header that is read or written, the same as the reference
// implementation's.
const MaxHeaderBytes = 100_000_000

const (
	lengthBytes = 8  // of the header's length
	maxDims     = 64 // of a tensor
	metadataKey = "__metadata__"
)

// Tensor is one entry of a header.
type Tensor struct {
	Name  string
	DType DType
	Shape []int // empty for a single number
	Elems int   // product of Shape

	begin, end int64 // range in the file, in bytes from its start
}

// Bytes is the tensor's length in the file.
func (t Tensor) Bytes() int64 { return t.end - t.begin }

// header is what stands before the tensors.
type header struct {
	tensors  []Tensor // in the order of their ranges
	metadata map[string]string
}

// parseHeader reads the header of a whole file's bytes, at least lengthBytes long.
func parseHeader(file []byte) (header, error) {
	length := binary.LittleEndian.Uint64(file)
	left := uint64(len(file) - lengthBytes)
	if length > MaxHeaderBytes {
		return header{}, fmt.Errorf("%w: header of %d bytes: want at most %d", ErrMalformed, length, MaxHeaderBytes)
	}
	if length > left {
		return header{}, fmt.Errorf("%w: header of %d bytes, but only %d follow: the file is truncated", ErrMalformed, length, left)
	}
	return parseText(file[lengthBytes:lengthBytes+length], int64(len(file)))
}

// parseText reads a header's JSON, which stands after the length in a file of fileBytes.
func parseText(text []byte, fileBytes int64) (header, error) {
	if len(text) == 0 || text[0] != '{' || !utf8.Valid(text) {
		return header{}, fmt.Errorf("%w: header is not a JSON object in UTF-8", ErrMalformed)
	}
	p := parser{dec: json.NewDecoder(bytes.NewReader(text)), base: lengthBytes + int64(len(text))}
	p.dec.UseNumber()
	h, err := p.header()
	if err != nil {
		return header{}, fmt.Errorf("%w: header: %w", ErrMalformed, err)
	}
	if rest := bytes.TrimLeft(text[p.dec.InputOffset():], " \t\r\n"); len(rest) > 0 {
		return header{}, fmt.Errorf("%w: header: %d bytes after the object", ErrMalformed, len(rest))
	}
	if err := h.place(p.base, fileBytes); err != nil {
		return header{}, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return h, nil
}

// place sorts the tensors by range and checks that the ranges fill [base, end).
func (h *header) place(base, end int64) error {
	slices.SortFunc(h.tensors, func(a, b Tensor) int {
		return cmp.Or(cmp.Compare(a.begin, b.begin), cmp.Compare(a.end, b.end), cmp.Compare(a.Name, b.Name))
	})
	at, before := base, ""
	for _, t := range h.tensors {
		switch {
		case t.end > end:
			return fmt.Errorf("tensor %q: data_offsets end at %d, but the file has %d bytes of data: the file is truncated", t.Name, t.end-base, end-base)
		case t.begin < at:
			return fmt.Errorf("tensor %q: data_offsets [%d, %d) overlap those of %q", t.Name, t.begin-base, t.end-base, before)
		case t.begin > at:
			return fmt.Errorf("tensor %q: hole of %d bytes before data_offsets [%d, %d)", t.Name, t.begin-at, t.begin-base, t.end-base)
		}
		at, before = t.end, t.Name
	}
	if at != end {
		return fmt.Errorf("%d bytes after the last tensor", end-at)
	}
	return nil
}

// parser walks the header's JSON token by token: the only way to see a name that stands
// twice.
type parser struct {
	dec  *json.Decoder
	base int64 // where the data starts in the file
}

func (p *parser) header() (header, error) {
	var h header
	seen := map[string]bool{}
	err := p.object(func(name string) error {
		if seen[name] {
			return fmt.Errorf("tensor %q stands twice", name)
		}
		seen[name] = true
		if name == metadataKey {
			return p.metadata(&h)
		}
		t, err := p.tensor(name)
		if err != nil {
			return fmt.Errorf("tensor %q: %w", name, err)
		}
		h.tensors = append(h.tensors, t)
		return nil
	})
	return h, err
}

func (p *parser) metadata(h *header) error {
	h.metadata = map[string]string{}
	return p.object(func(key string) error {
		value, err := p.text()
		if err != nil {
			return fmt.Errorf("%s: %q: %w", metadataKey, key, err)
		}
		if _, twice := h.metadata[key]; twice {
			return fmt.Errorf("%s: %q stands twice", metadataKey, key)
		}
		h.metadata[key] = value
		return nil
	})
}

func (p *parser) tensor(name string) (Tensor, error) {
	t := Tensor{Name: name, Shape: []int{}}
	var offsets []int64
	seen := map[string]bool{}
	err := p.object(func(key string) error {
		if seen[key] {
			return fmt.Errorf("%s stands twice", key)
		}
		seen[key] = true
		switch key {
		case "dtype":
			s, err := p.text()
			t.DType = DType(s)
			return err
		case "shape":
			return p.numbers(maxDims, func(n int64) { t.Shape = append(t.Shape, int(n)) })
		case "data_offsets":
			return p.numbers(2, func(n int64) { offsets = append(offsets, n) })
		}
		return fmt.Errorf("unknown key %q: want dtype, shape, data_offsets", key)
	})
	if err != nil {
		return Tensor{}, err
	}
	for _, key := range []string{"dtype", "shape", "data_offsets"} {
		if !seen[key] {
			return Tensor{}, fmt.Errorf("missing %s", key)
		}
	}
	return t, p.check(&t, offsets)
}

// check fills in the tensor's size and range and holds them against each other.
func (p *parser) check(t *Tensor, offsets []int64) error {
	width := int64(t.DType.Bytes())
	if width == 0 {
		return fmt.Errorf("unknown dtype %q", t.DType)
	}
	if len(offsets) != 2 || offsets[0] > offsets[1] || offsets[1] > math.MaxInt64-p.base {
		return fmt.Errorf("data_offsets %v: want [begin, end] with begin <= end", offsets)
	}
	elems, ok := product(t.Shape)
	if !ok || elems > math.MaxInt64/width {
		return fmt.Errorf("shape %v: too large", t.Shape)
	}
	if have := offsets[1] - offsets[0]; have != elems*width {
		return fmt.Errorf("data_offsets %v hold %d bytes, but %s %v has %d", offsets, have, t.DType, t.Shape, elems*width)
	}
	if offsets[0]%width != 0 {
		return fmt.Errorf("data_offsets %v: misaligned: want a multiple of %s's %d bytes", offsets, t.DType, width)
	}
	t.Elems = int(elems)
	t.begin, t.end = p.base+offsets[0], p.base+offsets[1]
	return nil
}

// product multiplies sizes, all >= 0; false if it overflows on the way.
func product(shape []int) (int64, bool) {
	n := int64(1)
	for _, d := range shape {
		if d != 0 && n > math.MaxInt64/int64(d) {
			return 0, false
		}
		n *= int64(d)
	}
	return n, true
}

// object reads { "key": value, ... }; each must consume the value.
func (p *parser) object(each func(key string) error) error {
	if err := p.delim('{'); err != nil {
		return err
	}
	for p.dec.More() {
		key, err := p.text()
		if err != nil {
			return err
		}
		if err := each(key); err != nil {
			return err
		}
	}
	return p.delim('}')
}

// numbers reads a list of at most max whole numbers >= 0.
func (p *parser) numbers(max int, each func(n int64)) error {
	if err := p.delim('['); err != nil {
		return err
	}
	for count := 0; p.dec.More(); count++ {
		if count == max {
			return fmt.Errorf("more than %d numbers", max)
		}
		token, err := p.next()
		if err != nil {
			return err
		}
		number, ok := token.(json.Number)
		if !ok {
			return fmt.Errorf("got %v, want a whole number", token)
		}
		n, err := strconv.ParseInt(string(number), 10, 64)
		if err != nil || n < 0 {
			return fmt.Errorf("got %s, want a whole number from 0 to 2^63-1", number)
		}
		each(n)
	}
	return p.delim(']')
}

func (p *parser) text() (string, error) {
	token, err := p.next()
	if err != nil {
		return "", err
	}
	s, ok := token.(string)
	if !ok {
		return "", fmt.Errorf("got %v, want a string", token)
	}
	return s, nil
}

func (p *parser) delim(want json.Delim) error {
	token, err := p.next()
	if err != nil {
		return err
	}
	if token != want {
		return fmt.Errorf("got %v, want %v", token, want)
	}
	return nil
}

func (p *parser) next() (json.Token, error) {
	token, err := p.dec.Token()
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return token, err
}
