package kerneltest

import (
	"math"

	"github.com/zerofleet/zerofleet/kernels"
)

var rmsnormCases = []Case{
	{"rmsnorm", runRMSNorm},
	{"rmsnorm backward", runRMSNormBackward},
	{"rmsnorm not finite", runRMSNormNotFinite},
}

// Rows and columns: one, remainders of each vector width, more rows and more columns than one tile.
var normSizes = [][2]int{{1, 1}, {3, 7}, {5, 33}, {17, 16}, {2, 576}, {40, 100}, {130, 48}, {1100, 20}, {3, 1030}, {70, 519}}

// storeError is what storing v as dt adds to the error of arithmetic in f32.
func storeError(dt kernels.DType, v float64) float64 {
	if dt == kernels.BF16 {
		return halfUlpBF16 * math.Abs(v)
	}
	return 0
}

// normInput is rows of unlike magnitudes, the last of them zero.
//
//go:norace
func normInput(r *Rig, rows, cols int) []float64 {
	x := r.Normal(rows*cols, 1)
	for i := range x {
		x[i] *= math.Exp2(float64(i/cols%9 - 4))
		if i/cols > 0 && i/cols == rows-1 {
			x[i] = 0
		}
	}
	return x
}

func runRMSNorm(r *Rig) {
	for _, s := range normSizes {
		for _, dt := range acts {
			for _, sum := range []string{"", "apart", "X", "Residual"} {
				oneRMSNorm(r, dt, s[0], s[1], sum)
			}
		}
	}
}

func oneRMSNorm(r *Rig, dt kernels.DType, rows, cols int, sum string) {
	r.Begin("%dx%d %s, Sum %q", rows, cols, dt, sum)
	o := kernels.RMSNorm{Rows: rows, Cols: cols, Eps: 1e-5}
	var x, w, residual []float64
	o.X, x = r.In(dt, normInput(r, rows, cols))
	o.W, w = r.In(dt, r.Normal(cols, 1))
	o.Y, o.Rstd = r.Out(dt, rows*cols), r.Out(kernels.F32, rows)
	if sum != "" {
		o.Residual, residual = r.In(dt, normInput(r, rows, cols))
	}
	switch sum {
	case "apart":
		o.Sum = r.Out(dt, rows*cols)
	case "X":
		o.Sum = o.X
	case "Residual":
		o.Sum = o.Residual
	}
	r.Launch(o)
	if sum != "" {
		x = roundedSum(dt, x, residual)
		r.Exactly("Sum", o.Sum, x)
	}
	checkRMSNorm(r, o, dt, x, w)
}

// roundedSum is x + y, rounded to f32 and to dt.
//
//go:norace
func roundedSum(dt kernels.DType, x, y []float64) []float64 {
	s := make([]float64, len(x))
	for i := range s {
		s[i] = round(dt, float64(float32(x[i]+y[i])))
	}
	return s
}

// checkRMSNorm's tolerances, with n columns and u = 2^-24. The sum of squares has n terms of one rounding each and n-1
// additions, in any order: all are positive, so its relative error is at most n u (Higham 2002, section 3.1). Division by n and
// adding Eps are one u each, the square root halves what came before and adds one, the reciprocal adds one: (n/2+3) u. Y
// has two more products. 1.01 covers the second order.
func checkRMSNorm(r *Rig, o kernels.RMSNorm, dt kernels.DType, x, w []float64) {
	var rstd, y []float64
	if r.First() {
		rstd, y = rmsnormReference(o, x, w)
	}
	rel := 1.01 * (float64(o.Cols)/2 + 3) * halfUlpF32
	r.Within("Rstd", o.Rstd, rstd, func(i int) float64 { return rel * rstd[i] })
	r.Within("Y", o.Y, y, func(i int) float64 {
		return (rel+2.02*halfUlpF32)*math.Abs(y[i]) + 1.01*storeError(dt, y[i])
	})
}

//go:norace
func rmsnormReference(o kernels.RMSNorm, x, w []float64) (rstd, y []float64) {
	rstd, y = make([]float64, o.Rows), make([]float64, len(x))
	for r := range o.Rows {
		var s float64
		for _, v := range x[r*o.Cols : (r+1)*o.Cols] {
			s += v * v
		}
		rstd[r] = 1 / math.Sqrt(s/float64(o.Cols)+float64(o.Eps))
		for c := range o.Cols {
			y[r*o.Cols+c] = x[r*o.Cols+c] * rstd[r] * w[c]
		}
	}
	return rstd, y
}

func runRMSNormBackward(r *Rig) {
	for _, s := range normSizes {
		for _, dt := range acts {
			for _, in := range []string{"apart", "DY", "apart, DAdd", "DAdd", "DY, DAdd apart"} {
				oneRMSNormBackward(r, dt, s[0], s[1], in)
			}
		}
	}
}

func oneRMSNormBackward(r *Rig, dt kernels.DType, rows, cols int, in string) {
	r.Begin("%dx%d %s, DX %s", rows, cols, dt, in)
	o := kernels.RMSNormBackward{Rows: rows, Cols: cols}
	t := normTensors{dadd: make([]float64, rows*cols)}
	o.X, t.x = r.In(dt, normInput(r, rows, cols))
	o.W, t.w = r.In(dt, r.Normal(cols, 1))
	o.DY, t.dy = r.In(dt, r.Normal(rows*cols, 1))
	t.rstd, _ = rmsnormReference(kernels.RMSNorm{Rows: rows, Cols: cols, Eps: 1e-5}, t.x, t.w)
	o.Rstd, t.rstd = r.In(kernels.F32, t.rstd)
	o.DW = r.Out(kernels.F32, cols)
	if in != "apart" && in != "DY" {
		o.DAdd, t.dadd = r.In(dt, r.Normal(rows*cols, 1))
	}
	switch in {
	case "DAdd":
		o.DX = o.DAdd
	case "DY", "DY, DAdd apart":
		o.DX = o.DY
	default:
		o.DX = r.Out(dt, rows*cols)
	}
	r.Launch(o)
	checkRMSNormBackward(r, o, dt, t)
}

type normTensors struct{ x, w, dy, rstd, dadd []float64 }

func checkRMSNormBackward(r *Rig, o kernels.RMSNormBackward, dt kernels.DType, t normTensors) {
	var dx, dw, tolX, tolW []float64
	if r.First() {
		dx, dw, tolX, tolW = rmsnormBackwardReference(o, t)
	}
	r.Within("DX", o.DX, dx, func(i int) float64 { return 1.01 * (tolX[i] + storeError(dt, dx[i])) })
	r.Within("DW", o.DW, dw, func(i int) float64 { return 1.01 * tolW[i] })
}

// rmsnormBackwardReference, with h = x*rstd, g = dy, n columns: dx = dadd + rstd*(g*w - h*mean(g*w*h)), dw = sum of g*h, and
// first-order bounds of their errors in f32, u = 2^-24, sums in any order.
//
// mean: a term g*w*h has three roundings, the sum n-1, the division one: (n+3) u M, with M the mean of |g*w*h|. In dx, g*w has
// one rounding, h one, h*mean one, the difference one and the product with rstd one, and adding to dadd one: in all at
// most u (rstd (4|g*w| + (n+8) |h| M) + |dadd|). A term of dw has two roundings, the sum rows-1: (rows+1) u times the
// sum of |g*h|.
//
//go:norace
func rmsnormBackwardReference(o kernels.RMSNormBackward, t normTensors) (dx, dw, tolX, tolW []float64) {
	n := o.Cols
	dx, tolX = make([]float64, o.Rows*n), make([]float64, o.Rows*n)
	dw, tolW = make([]float64, n), make([]float64, n)
	for r := range o.Rows {
		x, dy, rstd := t.x[r*n:(r+1)*n], t.dy[r*n:(r+1)*n], t.rstd[r]
		var mean, magnitude float64
		for c := range n {
			v := dy[c] * t.w[c] * x[c] * rstd
			mean, magnitude = mean+v/float64(n), magnitude+math.Abs(v)/float64(n)
		}
		for c := range n {
			i, gw, h := r*n+c, dy[c]*t.w[c], x[c]*rstd
			dx[i] = rstd*(gw-h*mean) + t.dadd[i]
			tolX[i] = halfUlpF32 * (rstd*(4*math.Abs(gw)+float64(n+8)*math.Abs(h)*magnitude) + math.Abs(t.dadd[i]))
			dw[c] += dy[c] * h
			tolW[c] += float64(o.Rows+1) * halfUlpF32 * math.Abs(dy[c]*h)
		}
	}
	return dx, dw, tolX, tolW
}

// runRMSNormNotFinite: a NaN or an Inf is seen in its row of the outputs, and in DW, and nowhere else.
func runRMSNormNotFinite(r *Rig) {
	const rows, cols, at = 40, 70, 33*70 + 67
	for _, dt := range acts {
		for _, odd := range []float64{math.NaN(), math.Inf(1), math.Inf(-1)} {
			r.Begin("%s with %v", dt, odd)
			o := kernels.RMSNorm{Rows: rows, Cols: cols, Eps: 1e-5}
			values := r.Normal(rows*cols, 1)
			values[at] = odd
			var x, w []float64
			o.X, x = r.In(dt, values)
			o.W, w = r.In(dt, r.Normal(cols, 1))
			o.Y, o.Rstd = r.Out(dt, rows*cols), r.Out(kernels.F32, rows)
			r.Launch(o)
			checkRMSNorm(r, o, dt, x, w)

			b := kernels.RMSNormBackward{Rows: rows, Cols: cols, X: o.X, W: o.W, Rstd: o.Rstd}
			t := normTensors{x: x, w: w, rstd: r.Read(o.Rstd), dadd: make([]float64, rows*cols)}
			b.DY, t.dy = r.In(dt, r.Normal(rows*cols, 1))
			b.DX, b.DW = r.Out(dt, rows*cols), r.Out(kernels.F32, cols)
			r.Launch(b)
			checkRMSNormBackward(r, b, dt, t)
		}
	}
}
