package kerneltest

import (
	"math"

	"github.com/zerofleet/zerofleet/kernels"
)

var ropeCases = []Case{
	{"rope", runRoPE},
	{"rope refuses positions", runRoPERefuses},
}

func runRoPE(r *Rig) {
	for _, s := range []struct{ rows, heads, headDim, extra int }{
		{1, 1, 2, 0}, {3, 2, 6, 1}, {5, 1, 16, 0}, {7, 3, 34, 5}, {9, 4, 64, 64}, {300, 1, 64, 9}, {4, 2, 260, 3},
	} {
		for _, dt := range acts {
			for _, inverse := range []bool{false, true} {
				oneRoPE(r, dt, kernels.RoPE{Rows: s.rows, Heads: s.heads, HeadDim: s.headDim,
					Stride: s.heads*s.headDim + s.extra, Inverse: inverse})
			}
		}
	}
}

const ropePositions = 11

// ropeOp fills in o's buffers: angles of any size, and positions with the first and the last among them.
func ropeOp(r *Rig, dt kernels.DType, o *kernels.RoPE) (x, cos, sin []float64, pos []int32) {
	r.Begin("%d rows of %d, %d heads of %d, %s, inverse=%v", o.Rows, o.Stride, o.Heads, o.HeadDim, dt, o.Inverse)
	cos, sin = make([]float64, ropePositions*o.HeadDim/2), make([]float64, ropePositions*o.HeadDim/2)
	for i := range cos {
		sin[i], cos[i] = math.Sincos(7 * r.Float64())
	}
	pos = make([]int32, o.Rows)
	for i := range pos {
		pos[i] = int32((i + ropePositions - 1) % ropePositions)
	}
	o.X, x = r.In(dt, r.Normal(o.Rows*o.Stride, 1))
	o.Pos = r.IDs(pos)
	o.Cos, cos = r.In(kernels.F32, cos)
	o.Sin, sin = r.In(kernels.F32, sin)
	return x, cos, sin, pos
}

// oneRoPE's tolerance: each element is a sum of two products, three roundings, so that the error is at most 2 u times the
// products' magnitudes. What is not a head does not change.
func oneRoPE(r *Rig, dt kernels.DType, o kernels.RoPE) {
	x, cos, sin, pos := ropeOp(r, dt, &o)
	r.Launch(o)
	var want, tol []float64
	if r.First() {
		want, tol = ropeReference(o, x, cos, sin, pos)
	}
	r.Within("X", o.X, want, func(i int) float64 {
		if tol[i] == 0 {
			return 0
		}
		return 1.01 * (tol[i] + storeError(dt, want[i]))
	})
}

//go:norace
func ropeReference(o kernels.RoPE, x, cos, sin []float64, pos []int32) (want, tol []float64) {
	want, tol = append([]float64(nil), x...), make([]float64, len(x))
	half := o.HeadDim / 2
	for r := range o.Rows {
		for h := range o.Heads {
			for i := range half {
				a := r*o.Stride + h*o.HeadDim + i
				b := a + half
				c, s := cos[int(pos[r])*half+i], sin[int(pos[r])*half+i]
				if o.Inverse {
					s = -s
				}
				want[a], want[b] = x[a]*c-x[b]*s, x[b]*c+x[a]*s
				tol[a] = 2 * halfUlpF32 * (math.Abs(x[a]*c) + math.Abs(x[b]*s))
				tol[b] = 2 * halfUlpF32 * (math.Abs(x[b]*c) + math.Abs(x[a]*s))
			}
		}
	}
	return want, tol
}

// runRoPERefuses: a position outside the tables is an error, and X is as it was, though the other positions are good.
func runRoPERefuses(r *Rig) {
	for _, bad := range []int32{-1, ropePositions, math.MaxInt32, math.MinInt32} {
		o := kernels.RoPE{Rows: 20, Heads: 2, HeadDim: 8, Stride: 16}
		x, _, _, pos := ropeOp(r, kernels.F32, &o)
		pos[17] = bad
		o.Pos = r.IDs(pos)
		r.Fails(o)
		r.Exactly("X", o.X, x)
	}
}
