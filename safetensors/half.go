package safetensors

import (
	"encoding/binary"
	"math"
)

// decode widens little-endian elements of type t, F32, F16 or BF16, to f32, without
// rounding. src holds len(dst) elements.
func decode(dst []float32, src []byte, t DType) {
	switch t {
	case F32:
		for i := range dst {
			dst[i] = math.Float32frombits(binary.LittleEndian.Uint32(src[4*i:]))
		}
	case BF16:
		for i := range dst {
			dst[i] = math.Float32frombits(uint32(binary.LittleEndian.Uint16(src[2*i:])) << 16)
		}
	case F16:
		for i := range dst {
			dst[i] = fromF16(binary.LittleEndian.Uint16(src[2*i:]))
		}
	}
}

// encode rounds f32 to little-endian elements of type t, F32, F16 or BF16: to nearest,
// ties to even, beyond the range to infinity. dst holds len(src) elements.
func encode(dst []byte, src []float32, t DType) {
	switch t {
	case F32:
		for i, v := range src {
			binary.LittleEndian.PutUint32(dst[4*i:], math.Float32bits(v))
		}
	case BF16:
		for i, v := range src {
			binary.LittleEndian.PutUint16(dst[2*i:], toBF16(v))
		}
	case F16:
		for i, v := range src {
			binary.LittleEndian.PutUint16(dst[2*i:], toF16(v))
		}
	}
}

// fromF16 widens IEEE binary16: sign, 5 bits of exponent, 10 of fraction.
func fromF16(h uint16) float32 {
	sign := uint32(h&0x8000) << 16
	exp, frac := uint32(h>>10&0x1f), uint32(h&0x3ff)
	switch exp {
	case 0: // zero or subnormal: frac * 2^-24, exact in f32
		v := float32(frac) * (1.0 / (1 << 24))
		return math.Float32frombits(math.Float32bits(v) | sign)
	case 0x1f: // infinity or NaN
		return math.Float32frombits(sign | 0x7f800000 | frac<<13)
	}
	return math.Float32frombits(sign | (exp+112)<<23 | frac<<13)
}

// toF16 rounds to IEEE binary16. A NaN stays one.
func toF16(v float32) uint16 {
	bits := math.Float32bits(v)
	sign, abs := uint16(bits>>16&0x8000), bits&0x7fffffff
	switch {
	case abs > 0x7f800000: // NaN: quiet, the fraction's top bits kept
		return sign | 0x7e00 | uint16(abs>>13&0x3ff)
	case abs >= 0x477ff000: // 65520, half way from the largest to 2^16, and above
		return sign | 0x7c00
	case abs >= 0x38800000: // 2^-14, the smallest normal
		return sign | uint16((roundEven(abs, 13)-112<<10)&0x7fff)
	case abs < 0x33000000: // below 2^-25, half of the smallest subnormal
		return sign
	}
	// Subnormal: the 24-bit significand in units of 2^-24.
	shift := 126 - abs>>23
	return sign | uint16(roundEven(abs&0x7fffff|0x800000, uint(shift)))
}

// toBF16 rounds to bfloat16, the upper half of an f32. A NaN stays one.
func toBF16(v float32) uint16 {
	bits := math.Float32bits(v)
	if bits&0x7fffffff > 0x7f800000 {
		return uint16(bits>>16) | 0x40
	}
	return uint16(roundEven(bits, 16))
}

// roundEven is x / 2^shift rounded to nearest, ties to even. 1 <= shift <= 31.
func roundEven(x uint32, shift uint) uint32 {
	half := uint32(1)<<(shift-1) - 1
	return uint32((uint64(x) + uint64(half) + uint64(x>>shift&1)) >> shift)
}
