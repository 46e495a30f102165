package kernels

import (
	"encoding/binary"
	"math"
)

// Sampler is an Op some of whose arguments do not take every number. Sample is, for such an
// argument, what turns random bits into a value that its element i may have, and nil for the others, which
// take anything in [-1, 1).
type Sampler interface {
	Sample(arg string) func(i int, r uint64) float64
}

// sampleIDs are in [lo, hi) for the argument that holds ids.
func sampleIDs(arg, ids string, lo, hi int) func(i int, r uint64) float64 {
	if arg != ids {
		return nil
	}
	return func(_ int, r uint64) float64 { return float64(lo + int(r%uint64(hi-lo))) }
}

// bitsOf is the splitmix64 finaliser (Steele, Lea and Flood 2014) of a counter: the random
// bits of element i of stream seed.
func bitsOf(seed, i uint64) uint64 {
	z := seed*0xd1342543de82ef95 + (i+1)*0x9e3779b97f4a7c15
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

// uniform is in [-1, 1), a multiple of 2^-23: exact in f32.
func uniform(r uint64) float64 { return float64(int64(r>>40)-1<<23) / (1 << 23) }

// samplePeriod is how many elements are drawn before they repeat: a prime, so that no row length divides it.
const samplePeriod = 65521

// sampleBytes is n elements of type t for one argument, little-endian; nil for a type that no Op reads floats or ids from.
func sampleBytes(t DType, n int, seed uint64, f func(i int, r uint64) float64) []byte {
	if t == Int8 {
		return sampleBlocks(n, seed)
	}
	raw := make([]byte, 0, t.Size(n))
	drawn := n
	if f == nil {
		drawn = min(n, samplePeriod)
		f = func(_ int, r uint64) float64 { return uniform(r) }
	}
	for i := range drawn {
		v := f(i, bitsOf(seed, uint64(i)))
		switch t {
		case F32:
			raw = binary.LittleEndian.AppendUint32(raw, math.Float32bits(float32(v)))
		case BF16: // truncated: any value will do
			raw = binary.LittleEndian.AppendUint16(raw, uint16(math.Float32bits(float32(v))>>16))
		case F16: // any value of [1/2, 1) and its negatives
			raw = binary.LittleEndian.AppendUint16(raw, 0x3800|uint16(bitsOf(seed, uint64(i))&0x83ff))
		case F64:
			raw = binary.LittleEndian.AppendUint64(raw, math.Float64bits(v))
		case I32:
			raw = binary.LittleEndian.AppendUint32(raw, uint32(int32(v)))
		case U8:
			raw = append(raw, byte(int64(v*128)))
		}
	}
	for len(raw) < cap(raw) { // doubles what is there, whole periods first
		raw = append(raw, raw[:min(len(raw), cap(raw)-len(raw))]...)
	}
	return raw
}

// sampleBlocks are n elements of Int8, whose scales are in [2^-8, 2^-7).
func sampleBlocks(n int, seed uint64) []byte {
	raw := make([]byte, 0, Int8.Size(n))
	for i := range n {
		raw = append(raw, byte(max(-127, int8(bitsOf(seed, uint64(i))>>56))))
		if i%BlockElems == BlockElems-1 {
			raw = binary.LittleEndian.AppendUint32(raw, 0x3b800000|uint32(bitsOf(seed, uint64(n+i))&0x7fffff))
		}
	}
	return raw
}
