package checkpoint

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/zeebo/xxh3"

	"github.com/zerofleet/zerofleet/safetensors"
)

// Every field of every unit is cut into chunks of chunkBytes, the last one shorter; a chunk's checksum is its xxh3 of
// sumBytes: it finds what breaks, at the speed of memory, and is no seal against who forges. A range's ends cost a chunk between them on average, and a chunk's checksum is read by
// everyone who needs anything of its part: 32 KiB keeps both below 5 % down to ranges of 1 MiB, and a head at 0.05 % of
// its part.
const (
	chunkBytes = 32 << 10
	chunkElems = chunkBytes / 4
	sumBytes   = 16
)

// sumsName is the checksums' tensor, U8 [chunks, sumBytes]: first in the file, so that it ends the part's head. No field
// has this name, since theirs have a slash.
const sumsName = "checksums"

// maxHeadBytes bounds what a reader holds of a part: 256 MiB are the checksums of half a TiB.
const maxHeadBytes = 256 << 20

func chunksOf(elems int) int { return (elems + chunkElems - 1) / chunkElems }

func chunkSum(b []byte) []byte {
	h := xxh3.Hash128(b).Bytes()
	return h[:]
}

// sumChunks is the checksums of ranges, in the order of the file.
func sumChunks(ctx context.Context, ranges []Range) ([]byte, error) {
	var sums []byte
	for _, r := range ranges {
		for _, values := range r.Fields {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			for chunk := range slices.Chunk(rawBytes(values), chunkBytes) {
				sums = append(sums, chunkSum(chunk)...)
			}
		}
	}
	return sums, nil
}

// stretch is where one field of one unit lies in a part.
type stretch struct {
	unit   Unit
	field  Field
	lo     int   // the first element, in the unit's canonical order
	elems  int   // that the part has
	offset int64 // of the first one in the file
	chunk  int   // the first one's index in the checksums
}

// span is the elements of chunk c, in the unit's canonical order.
func (s stretch) span(c int) (lo, hi int) {
	return s.lo + c*chunkElems, s.lo + min((c+1)*chunkElems, s.elems)
}

// name says which elements of which tensors chunk c holds.
func (s stretch) name(c int) string {
	lo, hi := s.span(c)
	var tensors []string
	for _, t := range s.unit.Tensors {
		if t.Offset < hi && t.Offset+t.Elems() > lo {
			tensors = append(tensors, t.Name)
		}
	}
	if n := len(tensors); n > 3 {
		tensors = []string{tensors[0], "...", tensors[n-1]}
	}
	return fmt.Sprintf("%s of %s, elements [%d,%d) (%s)", s.field, s.unit.Name, lo, hi, strings.Join(tensors, ", "))
}

// placeStretches finds a rank's fields in its part's head and checks that the file is what m says: the checksums, then
// every unit's fields, each with a checksum for every chunk.
func placeStretches(m *Manifest, rank int, head []byte) (map[string]stretch, []byte, error) {
	want := m.Parts[rank]
	extents, err := safetensors.Extents(bytes.NewReader(head), want.Bytes)
	if err != nil {
		return nil, nil, err
	}
	e, ok := extents[sumsName]
	if !ok || e.DType != safetensors.U8 || e.Offset+e.Bytes != want.HeadBytes {
		return nil, nil, fmt.Errorf("%s: %d bytes of %s that end at %d, want the head's end at %d", sumsName, e.Bytes, e.DType, e.Offset+e.Bytes, want.HeadBytes)
	}
	sums := head[e.Offset:]
	stretches := make(map[string]stretch, len(extents))
	at, chunk := want.HeadBytes, 0
	for _, u := range m.Units {
		layout, err := m.Layout(u)
		if err != nil {
			return nil, nil, err
		}
		lo, hi := layout.Owned(rank)
		for f := range Fields {
			name := tensorName(u.Name, f)
			e, ok := extents[name]
			if !ok || e.DType != safetensors.F32 || e.Offset != at || e.Bytes != 4*int64(hi-lo) {
				return nil, nil, fmt.Errorf("%s: %d bytes of %s at %d, want %d of F32 at %d", name, e.Bytes, e.DType, e.Offset, 4*(hi-lo), at)
			}
			stretches[name] = stretch{unit: u, field: f, lo: lo, elems: hi - lo, offset: at, chunk: chunk}
			at += e.Bytes
			chunk += chunksOf(hi - lo)
		}
	}
	if at != want.Bytes || len(sums) != chunk*sumBytes {
		return nil, nil, fmt.Errorf("fields to byte %d and %d bytes of checksums, want %d and %d", at, len(sums), want.Bytes, chunk*sumBytes)
	}
	return stretches, sums, nil
}
