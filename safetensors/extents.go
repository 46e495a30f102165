package safetensors

import (
	"encoding/binary"
	"fmt"
	"io"
)

// Extent is where a tensor lies in a file, in bytes.
type Extent struct {
	DType         DType
	Offset, Bytes int64
}

// Extents reads the header of a safetensors object of size bytes that is not a local file: what can be read at an
// offset. The checks are those of Open.
func Extents(r io.ReaderAt, size int64) (map[string]Extent, error) {
	var head [lengthBytes]byte
	if _, err := r.ReadAt(head[:], 0); err != nil {
		return nil, fmt.Errorf("read safetensors header: %w", err)
	}
	length := binary.LittleEndian.Uint64(head[:])
	if length > MaxHeaderBytes || int64(length) > size-lengthBytes {
		return nil, fmt.Errorf("%w: header of %d bytes in an object of %d", ErrMalformed, length, size)
	}
	text := make([]byte, length)
	if _, err := r.ReadAt(text, lengthBytes); err != nil {
		return nil, fmt.Errorf("read safetensors header: %w", err)
	}
	h, err := parseText(text, size)
	if err != nil {
		return nil, err
	}
	extents := make(map[string]Extent, len(h.tensors))
	for _, t := range h.tensors {
		extents[t.Name] = Extent{DType: t.DType, Offset: t.begin, Bytes: t.Bytes()}
	}
	return extents, nil
}
