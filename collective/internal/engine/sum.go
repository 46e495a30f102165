package engine

import (
	"encoding/binary"
	"math"

	"github.com/zerofleet/zerofleet/kernels"
)

// sum is the accumulator of an all-reduce: f32, from +0.
type sum []float32

func (s sum) Len() int { return len(s) }

func (s sum) Fold(_, off int, src []byte, _ kernels.DType) error {
	dst := s[off : off+len(src)/4]
	for i := range dst {
		dst[i] += math.Float32frombits(binary.LittleEndian.Uint32(src[4*i:]))
	}
	return nil
}

func (s sum) put(dst []byte) {
	for i, v := range s {
		binary.LittleEndian.PutUint32(dst[4*i:], math.Float32bits(v))
	}
}

// sumTerms writes to dst the left fold of the terms from +0. All are [n] f32.
func sumTerms(dst []byte, terms [][]byte) {
	for i := 0; i < len(dst); i += 4 {
		var v float32
		for _, t := range terms {
			v += math.Float32frombits(binary.LittleEndian.Uint32(t[i:]))
		}
		binary.LittleEndian.PutUint32(dst[i:], math.Float32bits(v))
	}
}
