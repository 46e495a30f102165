package kerneltest

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/zerofleet/zerofleet/kernels"
)

// Unit roundoffs: the error of one rounding to the nearest is at most this times the result.
const (
	halfUlpF32  = 0x1p-24
	halfUlpBF16 = 0x1p-8
)

// roundTo rounds to the nearest number with mant bits after the leading one and exponents from minExp to maxExp,
// ties to even, gradual underflow: in float64 arithmetic, apart from any bit trick that kernels use.
//
//go:norace
func roundTo(v float64, mant, minExp, maxExp int) float64 {
	if v == 0 || math.IsNaN(v) || math.IsInf(v, 0) {
		return v
	}
	_, e := math.Frexp(v) // |v| in [2^(e-1), 2^e)
	exp := max(e-1, minExp)
	r := math.Ldexp(math.RoundToEven(math.Ldexp(v, mant-exp)), exp-mant)
	if math.Abs(r) >= math.Ldexp(1, maxExp+1) {
		return math.Inf(int(math.Copysign(1, v)))
	}
	return math.Copysign(r, v)
}

// round rounds v to a float type.
//
//go:norace
func round(dt kernels.DType, v float64) float64 {
	switch dt {
	case kernels.F32:
		return float64(float32(v))
	case kernels.BF16:
		return roundTo(v, 7, -126, 127)
	case kernels.F16:
		return roundTo(v, 10, -14, 15)
	}
	return v
}

// encode takes values to dt, and lays them out as little-endian. What an Op is given need not be the nearest number:
// bf16 is cut off, which is quick.
//
//go:norace
func encode(dt kernels.DType, values []float64) []byte {
	raw := make([]byte, 0, dt.Size(len(values)))
	if dt == kernels.Int8 {
		for at := 0; at < len(values); at += kernels.BlockElems {
			raw = appendBlock(raw, values[at:at+kernels.BlockElems])
		}
		return raw
	}
	for _, v := range values {
		switch dt {
		case kernels.F32:
			raw = binary.LittleEndian.AppendUint32(raw, math.Float32bits(float32(v)))
		case kernels.BF16:
			raw = binary.LittleEndian.AppendUint16(raw, uint16(math.Float32bits(float32(v))>>16))
		case kernels.F16:
			raw = binary.LittleEndian.AppendUint16(raw, f16bits(round(dt, v)))
		case kernels.F64:
			raw = binary.LittleEndian.AppendUint64(raw, math.Float64bits(v))
		case kernels.I32:
			raw = binary.LittleEndian.AppendUint32(raw, uint32(int32(v)))
		default:
			panic(fmt.Sprintf("kerneltest: encode %s", dt))
		}
	}
	return raw
}

//go:norace
func decode(dt kernels.DType, raw []byte) []float64 {
	v := make([]float64, dt.Len(len(raw)))
	if dt == kernels.Int8 {
		for i := range v {
			block := raw[i/kernels.BlockElems*dt.Bytes():]
			scale := math.Float32frombits(binary.LittleEndian.Uint32(block[kernels.BlockElems:]))
			v[i] = float64(float32(int8(block[i%kernels.BlockElems])) * scale)
		}
		return v
	}
	for i := range v {
		at := raw[i*dt.Bytes():]
		switch dt {
		case kernels.F32:
			v[i] = float64(math.Float32frombits(binary.LittleEndian.Uint32(at)))
		case kernels.BF16:
			v[i] = float64(math.Float32frombits(uint32(binary.LittleEndian.Uint16(at)) << 16))
		case kernels.F16:
			v[i] = f16value(binary.LittleEndian.Uint16(at))
		case kernels.F64:
			v[i] = math.Float64frombits(binary.LittleEndian.Uint64(at))
		case kernels.I32:
			v[i] = float64(int32(binary.LittleEndian.Uint32(at)))
		default:
			panic(fmt.Sprintf("kerneltest: decode %s", dt))
		}
	}
	return v
}

// f16value is IEEE binary16 by its definition.
func f16value(h uint16) float64 {
	sign, exp, man := math.Copysign(1, -float64(h>>15)), int(h>>10&0x1f), float64(h&0x3ff)
	if h>>15 == 0 {
		sign = 1
	}
	switch exp {
	case 0x1f:
		if man != 0 {
			return math.NaN()
		}
		return math.Inf(int(sign))
	case 0:
		return sign * math.Ldexp(man, -24)
	}
	return sign * math.Ldexp(1024+man, exp-25)
}

// f16bits is the inverse of f16value for a value that is a binary16.
func f16bits(v float64) uint16 {
	var sign uint16
	if math.Signbit(v) {
		sign, v = 0x8000, -v
	}
	switch {
	case math.IsNaN(v):
		return sign | 0x7e00
	case math.IsInf(v, 0):
		return sign | 0x7c00
	case v < 0x1p-14:
		return sign | uint16(math.Ldexp(v, 24))
	}
	frac, e := math.Frexp(v)
	return sign | uint16(e+14)<<10 | uint16(math.Ldexp(frac, 11))&0x3ff
}

// appendBlock rounds one block to Int8, by the format's definition.
//
//go:norace
func appendBlock(raw []byte, values []float64) []byte {
	magnitude := 0.0
	for _, v := range values {
		if v-v != 0 {
			magnitude = math.NaN()
			break
		}
		magnitude = max(magnitude, math.Abs(v))
	}
	scale, inverse := float32(magnitude)/127, 127/float32(magnitude)
	if math.IsNaN(magnitude) || magnitude < 0x1p-100 {
		scale, inverse = float32(0*magnitude), 0
	}
	for _, v := range values {
		q := 0.0
		if inverse != 0 {
			q = math.RoundToEven(float64(float32(v) * inverse))
		}
		raw = append(raw, byte(int8(q)))
	}
	return binary.LittleEndian.AppendUint32(raw, math.Float32bits(scale))
}
