package grouptest

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"sync"

	"github.com/zerofleet/zerofleet/collective"
	"github.com/zerofleet/zerofleet/kernels"
)

// sizes are lengths of a part in elements: none, one, some, and some that no chunk divides.
func sizes(rng *rand.Rand) []int {
	return []int{0, 1, 256, 1 + rng.IntN(5000), 5000 + rng.IntN(5000)}
}

// values makes n elements whose sums depend on the order of addition: signs and exponents
// vary widely, zeros of both signs occur.
func values(rng *rand.Rand, n int, t kernels.DType) collective.Buffer {
	b := collective.Buffer{Bytes: make([]byte, t.Size(n)), Type: t}
	if t == kernels.Int8 {
		for i := range b.Bytes {
			b.Bytes[i] = byte(rng.Uint32())
		}
		for at := kernels.BlockElems; at < len(b.Bytes); at += t.Bytes() { // the scale
			binary.LittleEndian.PutUint32(b.Bytes[at:], math.Float32bits(float32(math.Ldexp(rng.Float64(), rng.IntN(40)-20))))
		}
		return b
	}
	for i := range n {
		v := float32(math.Ldexp(rng.Float64()*2-1, rng.IntN(40)-20))
		switch rng.IntN(20) {
		case 0:
			v = float32(math.Copysign(0, -1))
		case 1:
			v = 0
		}
		switch t {
		case kernels.F32:
			binary.LittleEndian.PutUint32(b.Bytes[4*i:], math.Float32bits(v))
		case kernels.BF16:
			binary.LittleEndian.PutUint16(b.Bytes[2*i:], uint16(math.Float32bits(v)>>16))
		default:
			for k := range t.Bytes() {
				b.Bytes[i*t.Bytes()+k] = byte(rng.Uint32())
			}
		}
	}
	return b
}

// slice is elements [lo, hi) of b.
func slice(b collective.Buffer, lo, hi int) collective.Buffer {
	end := b.Type.Size(hi)
	return collective.Buffer{Bytes: b.Bytes[b.Type.Size(lo):end:end], Type: b.Type}
}

func element(src []byte, i int, t kernels.DType) float32 {
	switch t {
	case kernels.Int8:
		block := src[i/kernels.BlockElems*t.Bytes():]
		return float32(int8(block[i%kernels.BlockElems])) * math.Float32frombits(binary.LittleEndian.Uint32(block[kernels.BlockElems:]))
	case kernels.BF16:
		return math.Float32frombits(uint32(binary.LittleEndian.Uint16(src[2*i:])) << 16)
	}
	return math.Float32frombits(binary.LittleEndian.Uint32(src[4*i:]))
}

// foldInto adds the elements of src to acc, in order.
func foldInto(acc []float32, src []byte, t kernels.DType) {
	for i := range acc {
		acc[i] += element(src, i, t)
	}
}

// Accumulator is a plain accumulator that checks the contract of collective.Accumulator:
// one call at a time, leaves in order for each element, whole elements, in bounds.
type Accumulator struct {
	Sum []float32

	mu   sync.Mutex
	next []int // by element: the least leaf that may come
}

// NewAccumulator is an accumulator of n elements, all +0.
func NewAccumulator(n int) *Accumulator {
	return &Accumulator{Sum: make([]float32, n), next: make([]int, n)}
}

// Len is collective.Accumulator's.
func (a *Accumulator) Len() int { return len(a.Sum) }

// Fold is collective.Accumulator's.
func (a *Accumulator) Fold(leaf, off int, src []byte, t kernels.DType) error {
	if !a.mu.TryLock() {
		return fmt.Errorf("fold called twice at a time")
	}
	defer a.mu.Unlock()
	if t.Bytes() == 0 || len(src)%t.Bytes() != 0 || off < 0 || off+t.Len(len(src)) > len(a.Sum) {
		return fmt.Errorf("fold of %d bytes of %s at element %d of %d", len(src), t, off, len(a.Sum))
	}
	n := t.Len(len(src))
	for i := off; i < off+n; i++ {
		if leaf < a.next[i] {
			return fmt.Errorf("element %d: leaf %d after leaf %d", i, leaf, a.next[i]-1)
		}
		a.next[i] = leaf + 1
	}
	foldInto(a.Sum[off:off+n], src, t)
	return nil
}

// sameBits compares floats bit by bit.
func sameBits(got, want []float32) error {
	if len(got) != len(want) {
		return fmt.Errorf("got %d elements, want %d", len(got), len(want))
	}
	for i := range got {
		if math.Float32bits(got[i]) != math.Float32bits(want[i]) {
			return fmt.Errorf("element %d of %d: got %v (%08x), want %v (%08x)", i, len(got),
				got[i], math.Float32bits(got[i]), want[i], math.Float32bits(want[i]))
		}
	}
	return nil
}

func floats(b []byte) []float32 {
	out := make([]float32, len(b)/4)
	for i := range out {
		out[i] = element(b, i, kernels.F32)
	}
	return out
}
