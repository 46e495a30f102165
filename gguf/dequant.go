package gguf

import (
	"encoding/binary"
	"math"
)

// maxBlockElems is the longest block of a type that ReadF32 knows.
const maxBlockElems = 32

// decode writes elements [lo, lo+len(dst)) of a tensor of type t to dst. src is the whole
// tensor's bytes. Blocks that the range cuts are decoded whole, in a small buffer.
func decode(dst []float32, src []byte, t Type, lo int) {
	f := formats[t]
	var cut [maxBlockElems]float32
	for len(dst) > 0 {
		block, skip := lo/f.blockElems, lo%f.blockElems
		whole := len(dst) / f.blockElems
		if skip == 0 && whole > 0 {
			n := whole * f.blockElems
			decodeBlocks(dst[:n], src[block*f.blockBytes:(block+whole)*f.blockBytes], t)
			dst, lo = dst[n:], lo+n
			continue
		}
		decodeBlocks(cut[:f.blockElems], src[block*f.blockBytes:(block+1)*f.blockBytes], t)
		n := copy(dst, cut[skip:f.blockElems])
		dst, lo = dst[n:], lo+n
	}
}

// decodeBlocks decodes whole blocks. All arithmetic is in f32, each operation rounded on
// its own (the conversions keep a product and a sum apart), as in ggml's reference, so the
// values are the same on every machine.
func decodeBlocks(dst []float32, src []byte, t Type) {
	switch t {
	case F32:
		for i := range dst {
			dst[i] = math.Float32frombits(binary.LittleEndian.Uint32(src[4*i:]))
		}
	case F16:
		for i := range dst {
			dst[i] = half(src[2*i:])
		}
	case BF16:
		for i := range dst {
			dst[i] = math.Float32frombits(uint32(binary.LittleEndian.Uint16(src[2*i:])) << 16)
		}
	case Q8_0: // d: f16, q: 32 x i8; x = d*q
		for ; len(dst) > 0; dst, src = dst[32:], src[34:] {
			d := half(src)
			for i, q := range src[2:34] {
				dst[i] = d * float32(int8(q))
			}
		}
	case Q4_0: // d: f16, q: 16 bytes, elements 0-15 in their low halves, 16-31 in the high; x = d*(q-8)
		for ; len(dst) > 0; dst, src = dst[32:], src[18:] {
			d := half(src)
			for i, q := range src[2:18] {
				dst[i] = d * float32(int8(q&15)-8)
				dst[i+16] = d * float32(int8(q>>4)-8)
			}
		}
	case Q4_1: // d, m: f16, q as in Q4_0; x = d*q + m
		for ; len(dst) > 0; dst, src = dst[32:], src[20:] {
			d, m := half(src), half(src[2:])
			for i, q := range src[4:20] {
				dst[i] = float32(d*float32(q&15)) + m
				dst[i+16] = float32(d*float32(q>>4)) + m
			}
		}
	}
}

// half widens the little-endian IEEE binary16 at the start of b: sign, 5 bits of exponent,
// 10 of fraction.
func half(b []byte) float32 {
	h := binary.LittleEndian.Uint16(b)
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
