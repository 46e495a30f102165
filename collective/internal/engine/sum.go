package engine

import (
	"encoding/binary"
	"math"
	"unsafe"

	"github.com/zerofleet/zerofleet/kernels"
)

// sum is the accumulator of a long all-reduce, and writes what it has into the buffer that the terms come from: a piece's last
// term is read before the piece is written. It holds one chunk, since chunks are folded one after the other.
type sum struct {
	own   []byte // this rank's share of the buffer, f32
	last  int    // leaf
	chunk []float32
	add   func(acc []float32, src []byte, t kernels.DType) error
}

func (s *sum) Len() int { return len(s.own) / 4 }

// Fold is collective.Accumulator's. Leaves are ranks.
func (s *sum) Fold(leaf, off int, src []byte, t kernels.DType) error {
	n := len(src) / 4
	part := s.chunk[off%len(s.chunk):][:n]
	if leaf == 0 {
		clear(part) // the sum begins with +0
	}
	if err := s.add(part, src, t); err != nil {
		return err
	}
	if leaf == s.last {
		putFloats(s.own[4*off:][:4*n], part)
	}
	return nil
}

// sumTerms writes to dst the left fold of the terms from +0. All are [n] f32.
func sumTerms(dst []byte, terms [][]byte) {
	var chunk [1 << 10]float32
	for lo := 0; lo < len(dst); lo += 4 * len(chunk) {
		hi := min(lo+4*len(chunk), len(dst))
		part := chunk[:(hi-lo)/4]
		clear(part)
		for _, t := range terms {
			addTerm(part, t[lo:hi])
		}
		putFloats(dst[lo:hi], part)
	}
}

// addF32 is Config.Fold for those who bring none: the same bits, one at a time.
func addF32(acc []float32, src []byte, _ kernels.DType) error {
	addTerm(acc, src)
	return nil
}

// addTerm adds src, which may be unaligned, onto acc.
func addTerm(acc []float32, src []byte) {
	if term, ok := floats(src); ok {
		term = term[:len(acc)]
		for i, v := range term {
			acc[i] += v
		}
		return
	}
	for i := range acc {
		acc[i] += math.Float32frombits(binary.LittleEndian.Uint32(src[4*i:]))
	}
}

func putFloats(dst []byte, src []float32) {
	if to, ok := floats(dst); ok {
		copy(to, src)
		return
	}
	for i, v := range src {
		binary.LittleEndian.PutUint32(dst[4*i:], math.Float32bits(v))
	}
}

// floats sees little-endian f32 where they are, if that is where a float32 can be.
func floats(b []byte) ([]float32, bool) {
	p := unsafe.Pointer(unsafe.SliceData(b))
	if len(b) == 0 || uintptr(p)%4 != 0 || !littleEndian {
		return nil, false
	}
	return unsafe.Slice((*float32)(p), len(b)/4), true
}

var littleEndian = binary.NativeEndian.Uint16([]byte{1, 0}) == 1
