package kerneltest

import (
	"math"

	"github.com/zerofleet/zerofleet/kernels"
)

// A conversion rounds once: the comparison is exact.
var convertCases = []Case{
	{"convert", runConvert},
	{"convert every short number", runConvertAll},
	{"convert int8 blocks", runConvertBlocks},
}

var floats = []kernels.DType{kernels.F32, kernels.BF16, kernels.F16}

func runConvert(r *Rig) {
	for _, n := range lengths {
		for _, from := range floats {
			for _, to := range floats {
				r.Begin("%d of %s to %s", n, from, to)
				var o kernels.Convert
				var src []float64
				o.Src, src = r.In(from, edges(r, n, to))
				o.Dst = r.Out(to, n)
				want := make([]float64, n)
				for i := range want {
					want[i] = round(to, src[i])
				}
				r.Launch(o)
				r.Exactly("Dst", o.Dst, want)
			}
		}
	}
}

// edges are numbers on, and one unit of f32 beside, the midpoints between neighbours of type to, over its whole range and beyond.
//
//go:norace
func edges(r *Rig, n int, to kernels.DType) []float64 {
	mant, lo, hi := 10, -28, 18
	if to != kernels.F16 {
		mant, lo, hi = 7, -140, 128
	}
	v := make([]float64, n)
	for i := range v {
		e := lo + r.IntN(hi-lo)
		x := math.Ldexp(1+float64(r.IntN(1<<(mant+1)))/math.Ldexp(1, mant+1), e)
		switch r.IntN(4) {
		case 1:
			x *= 1 + 0x1p-23
		case 2:
			x *= 1 - 0x1p-23
		case 3:
			x = hard[r.IntN(len(hard))]
		}
		if r.IntN(2) == 1 {
			x = -x
		}
		v[i] = x
	}
	return v
}

// runConvertAll widens every f16 and bf16 there is, and takes it back: all but NaNs return as they were.
func runConvertAll(r *Rig) {
	for _, dt := range []kernels.DType{kernels.F16, kernels.BF16} {
		r.Begin("every %s", dt)
		raw := make([]byte, 2<<16)
		for i := range 1 << 16 {
			raw[2*i], raw[2*i+1] = byte(i), byte(i>>8)
		}
		want := decode(dt, raw)
		src, _ := r.In(dt, want)
		wide, back := r.Out(kernels.F32, 1<<16), r.Out(dt, 1<<16)
		r.Launch(kernels.Convert{Dst: wide, Src: src})
		r.Launch(kernels.Convert{Dst: back, Src: wide})
		r.Exactly("wide", wide, want)
		r.Exactly("back", back, want)
	}
}

// blockLengths are whole blocks: fewer and more than a warp's or a thread's.
var blockLengths = []int{256, 512, 3 * 256, 65 * 256, 16384 + 256}

// blocks are n numbers, of which each block has its own size; the first blocks hold what is special.
//
//go:norace
func blocks(r *Rig, n int) []float64 {
	v := r.Normal(n, 1)
	for b := range n / kernels.BlockElems {
		block := v[b*kernels.BlockElems:][:kernels.BlockElems]
		size := math.Exp2(float64(r.IntN(60) - 30))
		for i := range block {
			block[i] *= size
		}
		at := r.IntN(len(block))
		switch b {
		case 1:
			block[at] = math.NaN()
		case 2:
			block[at] = math.Inf(-1)
		case 3:
			clear(block)
		case 4: // all below what has a scale
			for i := range block {
				block[i] = math.Ldexp(1, -101-r.IntN(48))
			}
		case 5: // one that has
			clear(block)
			block[at] = -0x1p-100
		case 6: // ties: halves of a scale of 1
			for i := range block {
				block[i] = float64(r.IntN(255)-127) / 2
			}
			block[at] = 127
		case 7:
			block[at] = math.MaxFloat32
		}
	}
	return v
}

func runConvertBlocks(r *Rig) {
	for _, n := range blockLengths {
		for _, other := range acts {
			r.Begin("%d of %s to int8 and back", n, other)
			src, x := r.In(other, blocks(r, n))
			short, back := r.Out(kernels.Int8, n), r.Out(other, n)
			r.Launch(kernels.Convert{Dst: short, Src: src})
			r.Launch(kernels.Convert{Dst: back, Src: short})
			want := decode(kernels.Int8, encode(kernels.Int8, x))
			r.Exactly("short", short, want)
			for i := range want {
				want[i] = round(other, want[i])
			}
			r.Exactly("back", back, want)
		}
	}
}
