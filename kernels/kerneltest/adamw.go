package kerneltest

import (
	"math"

	"github.com/zerofleet/zerofleet/kernels"
)

var adamwCases = []Case{{"adamw", runAdamW}}

// The order and rounding of every operation is part of the Op, so the comparison is exact.
func runAdamW(r *Rig) {
	for _, n := range lengths {
		for _, out := range []kernels.DType{0, kernels.F32, kernels.BF16} {
			r.Begin("%d, out %s", n, out)
			o := kernels.AdamW{Scalars: adamwScalars(1 + r.IntN(1000))}
			second := r.Normal(n, 1e-4)
			for i := range second {
				second[i] = second[i] * second[i] * math.Exp2(float64(-r.IntN(120))) // down to subnormal numbers
			}
			var p, m, v, g []float64
			o.Param, p = r.In(kernels.F32, r.Normal(n, 0.02))
			o.M, m = r.In(kernels.F32, r.Normal(n, 1e-3))
			o.V, v = r.In(kernels.F32, second)
			grads := r.Normal(n, 1e-2)
			for i := range grads {
				grads[i] *= math.Exp2(float64(-r.IntN(100)))
			}
			o.Grad, g = r.In(kernels.F32, grads)
			if out != 0 {
				o.Out = r.Out(out, n)
			}
			r.Launch(o)
			adamwReference(o.Scalars, p, m, v, g)
			r.Exactly("Param", o.Param, p)
			r.Exactly("M", o.M, m)
			r.Exactly("V", o.V, v)
			r.Exactly("Grad", o.Grad, g)
			if out != 0 {
				for i := range p {
					p[i] = round(out, p[i])
				}
				r.Exactly("Out", o.Out, p)
			}
		}
	}
}

func adamwScalars(step int) kernels.AdamWScalars {
	const lr, beta1, beta2, decay = 3e-4, 0.9, 0.999, 0.01
	return kernels.AdamWScalars{
		GradScale: 0.73, LearningRate: lr, Beta1: beta1, Beta2: beta2,
		OneMinusBeta1: float32(1 - beta1), OneMinusBeta2: float32(1 - beta2),
		StepSize:     float32(lr / (1 - math.Pow(beta1, float64(step)))),
		InvSqrtBias2: float32(1 / math.Sqrt(1-math.Pow(beta2, float64(step)))),
		Eps:          1e-8, Decay: 1 - lr*decay,
	}
}

// adamwReference is the comment of kernels.AdamW, operation by operation. Go may fuse x*y + z
// where it sees no conversion, so each product has one.
//
//go:norace
func adamwReference(s kernels.AdamWScalars, p, m, v, grad []float64) {
	for i := range p {
		g := float32(float32(grad[i]) * s.GradScale)
		mi := float32(float32(m[i])*s.Beta1) + float32(g*s.OneMinusBeta1)
		vi := float32(float32(v[i])*s.Beta2) + float32(float32(g*g)*s.OneMinusBeta2)
		root := float32(math.Sqrt(float64(vi))) // exact: float64 has more than 2*24+2 bits
		d := float32(root*s.InvSqrtBias2) + s.Eps
		pi := float32(float32(p[i])*s.Decay) - float32(s.StepSize*float32(mi/d))
		p[i], m[i], v[i] = float64(pi), float64(mi), float64(vi)
	}
}
