package kerneltest

import (
	"math"

	"github.com/zerofleet/zerofleet/kernels"
)

var matmulCases = []Case{
	{"matmul", runMatMul},
	{"matmul one row", runMatMulVector},
	{"matmul not finite", runMatMulNotFinite},
}

// Sizes around every blocking: one, a remainder of each register block, more than one block of K, more than one tile.
var matmulSizes = [][3]int{
	{1, 1, 1}, {2, 3, 5}, {13, 31, 7}, {14, 32, 256}, {15, 33, 257}, {16, 16, 32}, {33, 47, 31}, {64, 96, 64}, {65, 130, 300},
	{97, 200, 40}, {130, 70, 515}, {256, 97, 48}, {530, 110, 33}, {120, 530, 34},
}

func runMatMul(r *Rig) {
	for _, s := range matmulSizes {
		m, n, k := s[0], s[1], s[2]
		for _, in := range acts {
			for _, form := range []struct{ ta, tb, acc bool }{
				{false, true, false}, {false, false, false}, {true, false, false}, {true, false, true},
				{true, true, false}, {false, true, true},
			} {
				oneMatMul(r, kernels.MatMul{M: m, N: n, K: k, TransA: form.ta, TransB: form.tb, Accumulate: form.acc}, in, kernels.F32)
				if in == kernels.BF16 && !form.acc && !form.ta {
					oneMatMul(r, kernels.MatMul{M: m, N: n, K: k, TransA: form.ta, TransB: form.tb}, in, in)
				}
			}
		}
	}
}

// runMatMulVector has the sizes of text generation.
func runMatMulVector(r *Rig) {
	for _, in := range acts {
		oneMatMul(r, kernels.MatMul{M: 1, N: 700, K: 576, TransB: true}, in, kernels.F32)
		oneMatMul(r, kernels.MatMul{M: 3, N: 257, K: 1536, TransB: true}, in, in)
	}
}

// oneMatMul's tolerance. A sum of K products in f32, in any order, with fused or separate multiplications, has
// an error of at most (K+1) u S to first order, with u = 2^-24 and S the sum of the products' magnitudes
// (Higham 2002, section 3.1); products of bf16 are exact. Adding onto Out is one more term, rounding to the output's type
// one half unit of the result. 1.01 covers the second order.
func oneMatMul(r *Rig, o kernels.MatMul, in, out kernels.DType) {
	r.Begin("%dx%dx%d %s to %s transA=%v transB=%v accumulate=%v", o.M, o.N, o.K, in, out, o.TransA, o.TransB, o.Accumulate)
	var a, b, c []float64
	o.A, a = r.In(in, r.Uniform(o.M*o.K))
	o.B, b = r.In(in, r.Uniform(o.K*o.N))
	if o.Accumulate {
		o.Out, c = r.In(out, r.Uniform(o.M*o.N))
	} else {
		o.Out, c = r.Out(out, o.M*o.N), make([]float64, o.M*o.N)
	}
	var want, sum []float64
	if r.First() {
		want, sum = matmulReference(o, a, b, c)
	}
	r.Launch(o)
	r.Within("Out", o.Out, want, func(i int) float64 {
		tol := 1.01 * float64(o.K+2) * halfUlpF32 * sum[i]
		if out == kernels.BF16 {
			tol += halfUlpBF16 * math.Abs(want[i])
		}
		return tol
	})
}

// matmulReference is the product in float64 and, per element, the sum of its terms' magnitudes.
//
//go:norace
func matmulReference(o kernels.MatMul, a, b, c []float64) (want, sum []float64) {
	want, sum = make([]float64, o.M*o.N), make([]float64, o.M*o.N)
	for i := range o.M {
		for j := range o.N {
			v := c[i*o.N+j]
			s := math.Abs(v)
			x, dx, y, dy := i*o.K, 1, j, o.N
			if o.TransA {
				x, dx = i, o.M
			}
			if o.TransB {
				y, dy = j*o.K, 1
			}
			for range o.K {
				p := a[x] * b[y]
				v, s = v+p, s+max(p, -p)
				x, y = x+dx, y+dy
			}
			want[i*o.N+j], sum[i*o.N+j] = v, s
		}
	}
	return want, sum
}

// runMatMulNotFinite: an Inf or NaN in one row of A is seen in that row of Out, and nowhere else.
func runMatMulNotFinite(r *Rig) {
	const m, n, k, row = 70, 50, 90, 40
	for _, in := range acts {
		r.Begin("%s with NaN in a row", in)
		values := r.Uniform(m * k)
		values[row*k+3] = math.NaN()
		o := kernels.MatMul{M: m, N: n, K: k, TransB: true}
		var a, b []float64
		o.A, a = r.In(in, values)
		o.B, b = r.In(in, r.Uniform(n*k))
		o.Out = r.Out(kernels.F32, m*n)
		want, sum := matmulReference(o, a, b, make([]float64, m*n))
		r.Launch(o)
		r.Within("Out", o.Out, want, func(i int) float64 { return 1.01 * (k + 2) * halfUlpF32 * sum[i] })
	}
}
