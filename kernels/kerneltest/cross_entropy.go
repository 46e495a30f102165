package kerneltest

import (
	"math"

	"github.com/zerofleet/zerofleet/kernels"
)

var crossEntropyCases = []Case{
	{"cross entropy", runCrossEntropy},
	{"cross entropy not finite", runCrossEntropyNotFinite},
	{"cross entropy refuses labels", runCrossEntropyRefuses},
}

// rising and falling rows have a new maximum in every chunk and in none after the first; wide ones have one number that counts.
var logitShapes = []struct {
	name  string
	logit func(r *Rig, i, v int) float64
}{
	{"normal", func(r *Rig, _, _ int) float64 { return 2 * r.NormFloat64() }},
	{"rising", func(r *Rig, i, v int) float64 { return 30*float64(i)/float64(v) + r.Float64() }},
	{"falling", func(r *Rig, i, v int) float64 { return -200*float64(i)/float64(v) + r.Float64() }},
	{"wide", func(r *Rig, _, _ int) float64 { return 1e4 * r.NormFloat64() }},
	{"masked", func(r *Rig, i, v int) float64 {
		if i < v/2 {
			return math.Inf(-1)
		}
		return r.NormFloat64()
	}},
}

func runCrossEntropy(r *Rig) {
	for _, v := range []int{1, 2, 7, 33, 100, 1024, 1031, 4099} {
		for _, shape := range logitShapes {
			for _, d := range []string{"none", "f32", "bf16", "Logits"} {
				const rows = 6
				values := make([]float64, rows*v)
				for i := range values {
					values[i] = shape.logit(r, i%v, v)
				}
				oneCrossEntropy(r, shape.name, d, rows, v, values)
			}
		}
	}
}

// runCrossEntropyNotFinite: a row with a NaN or +Inf has no finite loss and gradient, the other rows have.
func runCrossEntropyNotFinite(r *Rig) {
	for _, v := range []int{5, 70, 2100} {
		for _, odd := range []float64{math.NaN(), math.Inf(1), math.Inf(-1)} {
			for _, d := range []string{"f32", "bf16", "Logits"} {
				values := r.Normal(6*v, 1)
				values[v+v-1] = odd
				values[2*v] = odd
				for i := 4 * v; i < 5*v; i++ {
					values[i] = odd
				}
				oneCrossEntropy(r, "with odd numbers", d, 6, v, values)
			}
		}
	}
}

func oneCrossEntropy(r *Rig, name, d string, rows, v int, values []float64) {
	r.Begin("%dx%d %s, DLogits %s", rows, v, name, d)
	labels := make([]int32, rows)
	for i := range labels {
		labels[i] = []int32{int32(v - 1), 0, int32(r.IntN(v)), -1}[i%4]
	}
	o := kernels.CrossEntropy{Rows: rows, V: v, Scale: 0.37, Loss: r.Out(kernels.F32, rows), Labels: r.IDs(labels)}
	var x []float64
	o.Logits, x = r.In(kernels.F32, values)
	switch d {
	case "f32":
		o.DLogits = r.Out(kernels.F32, rows*v)
	case "bf16":
		o.DLogits = r.Out(kernels.BF16, rows*v)
	case "Logits":
		o.DLogits = o.Logits
	}
	r.Launch(o)
	var loss, ltol, dl, dtol []float64
	if r.First() {
		loss, ltol, dl, dtol = crossEntropyReference(o, x, labels)
	}
	r.Within("Loss", o.Loss, loss, func(i int) float64 { return 1.01 * ltol[i] })
	if !o.DLogits.IsZero() {
		r.Within("DLogits", o.DLogits, dl, func(i int) float64 { return 1.01 * (dtol[i] + storeError(o.DLogits.Type(), dl[i])) })
	}
	if d != "Logits" {
		r.Exactly("Logits", o.Logits, x)
	}
}

// rescales is how often a running sum may be brought to a larger maximum: once per 512 numbers of the longest row here.
const rescales = 8

// crossEntropyReference, and first-order bounds in f32, u = 2^-24, with m the maximum, z = sum(exp(x-m)), p = exp(x-m)/z.
//
// The exponential is allowed two units in the last place, 4 u, and its argument has an error of u |x-m|, which is a relative error
// of the exponential, also when a running maximum splits it in two. A sum of positive terms in any order has V u, a running
// sum that is rescaled 5 u each time. So z is off by a relative Z = u (V + 4 + 5 rescales + sum(p |x-m|)). The loss is
// log(z) + (m - x[label]): Z, two units in the last place of the logarithm, three roundings: Z + u (5 |log z| + 2 |m-x[label]| + 1).
// The gradient scale*(p - [label]): p is off by p (Z + u (|x-m| + 8)), the difference at the label by two roundings. A number
// below the smallest normal one may be 0.
//
//go:norace
func crossEntropyReference(o kernels.CrossEntropy, x []float64, labels []int32) (loss, ltol, d, dtol []float64) {
	loss, ltol = make([]float64, o.Rows), make([]float64, o.Rows)
	d, dtol = make([]float64, len(x)), make([]float64, len(x))
	for r, label := range labels {
		if label < 0 {
			continue
		}
		row, drow, tol := x[r*o.V:(r+1)*o.V], d[r*o.V:(r+1)*o.V], dtol[r*o.V:(r+1)*o.V]
		m, z, spread := math.Inf(-1), 0.0, 0.0
		for _, v := range row {
			m = math.Max(m, v)
		}
		for _, v := range row {
			e := math.Exp(v - m)
			z += e
			if e != 0 {
				spread += e * (m - v)
			}
		}
		relZ := halfUlpF32 * (float64(o.V) + 4 + 5*rescales + spread/z)
		loss[r] = math.Log(z) + (m - row[label])
		ltol[r] = relZ + halfUlpF32*(5*math.Log(z)+2*(m-row[label])+1)
		scale := float64(o.Scale)
		for i, v := range row {
			p := math.Exp(v-m) / z
			drow[i] = scale * p
			tol[i] = 2 * smallest
			if p != 0 {
				tol[i] += scale * p * (relZ + halfUlpF32*(m-v+8))
			}
			if i == int(label) {
				drow[i] = scale * (p - 1)
				tol[i] += 2 * halfUlpF32 * math.Abs(drow[i])
			}
		}
	}
	return loss, ltol, d, dtol
}

func runCrossEntropyRefuses(r *Rig) {
	const rows, v = 20, 11
	for _, bad := range []int32{-2, v, math.MaxInt32, math.MinInt32} {
		r.Begin("label %d", bad)
		labels := someIDs(r, rows, v)
		labels[rows-1] = bad
		o := kernels.CrossEntropy{Rows: rows, V: v, Scale: 1, Loss: r.Out(kernels.F32, rows), Labels: r.IDs(labels)}
		o.Logits, _ = r.In(kernels.F32, r.Normal(rows*v, 1))
		o.DLogits = o.Logits
		r.Fails(o)
	}
}
