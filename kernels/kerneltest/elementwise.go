package kerneltest

import (
	"math"

	"github.com/zerofleet/zerofleet/kernels"
)

// Everything here is one rounding of an exact result, so the comparison is exact: a sum of two f32
// is rounded once from float64 to f32 (float64 has more than 2*24+2 bits, so the double rounding is
// the same: Figueroa 1995).
var elementwiseCases = []Case{
	{"add", runAdd},
	{"fill", runFill},
	{"accumulate", runAccumulate},
}

// lengths have a remainder for every vector width, and more than one range for the threads.
var lengths = []int{1, 7, 16, 17, 100, 255, 257, 16385, 40001}

// hard are numbers at the edges of f32 and bf16.
var hard = []float64{
	0, math.Copysign(0, -1), 1, -1, math.MaxFloat32, -math.MaxFloat32, 0x1p-126, -0x1p-126, 0x1p-149, 0x1p-140,
	math.Inf(1), math.Inf(-1), math.NaN(), 1 + 0x1p-8, 1 + 0x1p-7 + 0x1p-8, 1 + 0x1p-8 + 0x1p-23, 0x1.fep127, 0x1.ffp127, 0x1p-133, 0x1.8p-133,
}

// mixed is n numbers of wide range with every pair of hard ones among them, as far as they fit.
//
//go:norace
func mixed(r *Rig, n, turn int) []float64 {
	v := make([]float64, n)
	for i := range v {
		v[i] = r.NormFloat64() * math.Exp2(float64(r.IntN(40)-20))
		if j := i / 3; i%3 == 1 && j < len(hard)*len(hard) {
			v[i] = hard[[2]int{j % len(hard), j / len(hard)}[turn]]
		}
	}
	return v
}

func runAdd(r *Rig) {
	for _, n := range lengths {
		for _, dt := range acts {
			for _, in := range []string{"apart", "A", "B"} {
				r.Begin("%d of %s, Out %s", n, dt, in)
				var o kernels.Add
				var a, b []float64
				o.A, a = r.In(dt, mixed(r, n, 0))
				o.B, b = r.In(dt, mixed(r, n, 1))
				want := make([]float64, n)
				for i := range want {
					want[i] = round(dt, float64(float32(a[i]+b[i])))
				}
				switch in {
				case "apart":
					o.Out = r.Out(dt, n)
				case "A":
					o.Out = o.A
				case "B":
					o.Out = o.B
				}
				r.Launch(o)
				r.Exactly("Out", o.Out, want)
			}
		}
	}
}

func runFill(r *Rig) {
	for _, n := range lengths {
		for _, dt := range acts {
			r.Begin("%d of %s", n, dt)
			o := kernels.Fill{Dst: r.Out(dt, n), Value: float32(r.NormFloat64())}
			want := make([]float64, n)
			for i := range want {
				want[i] = round(dt, float64(o.Value))
			}
			r.Launch(o)
			r.Exactly("Dst", o.Dst, want)
		}
	}
}

func runAccumulate(r *Rig) {
	for _, n := range lengths {
		for _, dt := range acts {
			r.Begin("%d of %s", n, dt)
			var o kernels.Accumulate
			var acc, src []float64
			o.Acc, acc = r.In(kernels.F32, mixed(r, n, 0))
			o.Src, src = r.In(dt, mixed(r, n, 1))
			want := make([]float64, n)
			for i := range want {
				want[i] = float64(float32(acc[i] + src[i]))
			}
			r.Launch(o)
			r.Exactly("Acc", o.Acc, want)
		}
	}
	for _, n := range blockLengths {
		r.Begin("%d of int8", n)
		var o kernels.Accumulate
		var acc, src []float64
		o.Acc, acc = r.In(kernels.F32, mixed(r, n, 0))
		o.Src, src = r.In(kernels.Int8, blocks(r, n))
		want := make([]float64, n)
		for i := range want {
			want[i] = float64(float32(acc[i] + src[i]))
		}
		r.Launch(o)
		r.Exactly("Acc", o.Acc, want)
	}
}
