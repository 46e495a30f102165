package kerneltest

import (
	"math"

	"github.com/zerofleet/zerofleet/kernels"
)

var swigluCases = []Case{
	{"swiglu", runSwiGLU},
	{"swiglu not finite", runSwiGLUNotFinite},
}

// gates are where a sigmoid is hard: at its ends, and where its derivative times the gate vanishes.
var gates = []float64{0, math.Copysign(0, -1), 1e-30, -1.278464542761074, 17, -17, 87, -87, -87.4, 88.8, -88.8, 104, -104, 1e4, -1e4, 1e30, -1e30}

// smallest is the smallest normal number of f32 and bf16. An exponential below it may be 0.
const smallest = 0x1p-126

func runSwiGLU(r *Rig) {
	for _, s := range [][2]int{{1, 1}, {3, 7}, {5, 33}, {2, 100}, {40, 16}, {3, 1537}, {1, 16500}, {90, 300}} {
		for _, dt := range acts {
			for _, in := range []string{"apart", "GateUp"} {
				r.Begin("%dx%d %s, DGateUp %s", s[0], s[1], dt, in)
				oneSwiGLU(r, dt, s[0], s[1], in, gates)
			}
		}
	}
}

// runSwiGLUNotFinite: what an Inf or a NaN in any input makes of its own elements, and of no others.
func runSwiGLUNotFinite(r *Rig) {
	for _, dt := range acts {
		r.Begin("%s", dt)
		oneSwiGLU(r, dt, 9, 70, "apart", []float64{math.NaN(), math.Inf(1), math.Inf(-1), 1, -1})
	}
}

// oneSwiGLU puts the odd numbers among gate, up and DY, so that they meet ordinary ones.
func oneSwiGLU(r *Rig, dt kernels.DType, rows, f int, in string, odd []float64) {
	values, dvalues := r.Normal(rows*2*f, 3), r.Normal(rows*f, 1)
	for i := range values {
		if i%3 == 1 && (i/f%2 == 0 || !finite(odd[0])) {
			values[i] = odd[i/3%len(odd)]
		}
	}
	if !finite(odd[0]) {
		dvalues[2] = math.NaN()
	}
	y := kernels.SwiGLU{Rows: rows, F: f}
	b := kernels.SwiGLUBackward{Rows: rows, F: f}
	var gateUp, dy []float64
	y.GateUp, gateUp = r.In(dt, values)
	b.DY, dy = r.In(dt, dvalues)
	y.Y, b.GateUp = r.Out(dt, rows*f), y.GateUp
	b.DGateUp = b.GateUp
	if in == "apart" {
		b.DGateUp = r.Out(dt, rows*2*f)
	}
	r.Launch(y)
	r.Launch(b)
	var want, tol, dwant, dtol []float64
	if r.First() {
		want, tol, dwant, dtol = swigluReference(rows, f, gateUp, dy)
	}
	r.Within("Y", y.Y, want, func(i int) float64 { return 1.01 * (tol[i] + storeError(dt, want[i])) })
	r.Within("DGateUp", b.DGateUp, dwant, func(i int) float64 { return 1.01 * (dtol[i] + storeError(dt, dwant[i])) })
}

func finite(v float64) bool { return v-v == 0 }

// swigluReference, and first-order bounds in f32, u = 2^-24. The exponential is allowed two units in the last place, 4 u. With
// e = exp(-|g|), the sigmoid s of g and t = 1 - s are 1/(1+e) and e/(1+e): 4 u from e, one each from the sum, the
// quotient and the product, at most 8 u in all. y = g*s*up and dup = dy*g*s: two more products, 10 u. dgate =
// dy*up*s*(1 + g*t): g*t is off by 9 u |g*t|, the sum by one more u, the three products and s by 11 u of the whole: u |dy*up*s|
// (12 + 21 |g*t|). An exponential below the smallest normal number may be 0 instead.
//
//go:norace
func swigluReference(rows, f int, gateUp, dy []float64) (y, tol, d, dtol []float64) {
	y, tol = make([]float64, rows*f), make([]float64, rows*f)
	d, dtol = make([]float64, 2*rows*f), make([]float64, 2*rows*f)
	for i := range y {
		at := i/f*2*f + i%f
		g, up := gateUp[at], gateUp[at+f]
		e := math.Exp(-math.Abs(g))
		s, t := 1/(1+e), e/(1+e)
		if math.Signbit(g) {
			s, t = t, s
		}
		y[i] = g * s * up
		tol[i] = 10*halfUlpF32*math.Abs(y[i]) + smallest*(1+math.Abs(g*up))
		d[at], d[at+f] = dy[i]*up*(s*(1+g*t)), dy[i]*(g*s)
		dtol[at] = halfUlpF32*math.Abs(dy[i]*up*s)*(12+21*math.Abs(g*t)) + smallest*(1+math.Abs(dy[i]*up)*(1+math.Abs(g)))
		dtol[at+f] = 10*halfUlpF32*math.Abs(d[at+f]) + smallest*(1+math.Abs(dy[i]*g))
	}
	return y, tol, d, dtol
}
