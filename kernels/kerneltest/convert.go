package kerneltest

import (
	"math"

	"github.com/zerofleet/zerofleet/kernels"
)

// A conversion rounds once: the comparison is exact.
var convertCases = []Case{
	{"convert", runConvert},
	{"convert every short number", runConvertAll},
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
