package train

import (
	"math"

	"github.com/zerofleet/zerofleet/kernels"
)

// Metrics are what a commit record says of its step, in float64.
type Metrics struct {
	Step         uint64
	Loss         float64 // mean over the step's loss tokens; 0 without any
	GradNorm     float64 // L2 norm of the mean gradient, before clipping
	LearningRate float64
	LossTokens   uint64
	Updated      bool // false for a step without loss tokens
}

// Metrics computes a step's figures from its commit record. optimizerStep is that of this update, 1 for the first.
func (o Options) Metrics(c Commit, optimizerStep int64) Metrics {
	m := Metrics{Step: c.Step, LossTokens: c.LossTokens, LearningRate: o.Schedule.At(optimizerStep), Updated: c.LossTokens > 0}
	if m.Updated {
		m.Loss = c.LossSum.Float64() / float64(c.LossTokens)
		m.GradNorm = math.Sqrt(c.SumSquares.Float64()) * o.mean(c)
	}
	return m
}

// mean is what turns the folded, scaled sum into the mean over the loss tokens. The constant is undone as it was
// applied: rounded to f32.
func (o Options) mean(c Commit) float64 {
	return 1 / (float64(o.lossScale()) * float64(c.LossTokens))
}

// scalars are the update's constants, each computed in float64 from the commit record and rounded once; weightDecay is
// left to the tensor. The conversions are explicit so that no compiler fuses a product with a sum.
// Clipping as torch.nn.utils.clip_grad_norm_: max/(norm+1e-6), at most 1.
func (o Options) scalars(c Commit, optimizerStep int64) kernels.AdamWScalars {
	m := o.Metrics(c, optimizerStep)
	clip := 1.0
	if o.MaxGradNorm > 0 {
		clip = min(1, o.MaxGradNorm/float64(m.GradNorm+1e-6))
	}
	a := o.Optimizer
	bias1 := 1 - pow(a.Beta1, optimizerStep)
	bias2 := 1 - pow(a.Beta2, optimizerStep)
	return kernels.AdamWScalars{
		GradScale:     float32(o.mean(c) * clip),
		LearningRate:  float32(m.LearningRate),
		Beta1:         float32(a.Beta1),
		Beta2:         float32(a.Beta2),
		OneMinusBeta1: float32(1 - a.Beta1),
		OneMinusBeta2: float32(1 - a.Beta2),
		StepSize:      float32(m.LearningRate / bias1),
		InvSqrtBias2:  float32(1 / math.Sqrt(bias2)),
		Eps:           float32(a.Eps),
		Decay:         1,
	}
}

// decay is the factor of decoupled weight decay for a tensor of the given rank.
func (o Options) decay(dims int, learningRate float64) float32 {
	if dims < 2 {
		return 1
	}
	return float32(1 - float64(learningRate*o.Optimizer.WeightDecay))
}

// pow is x^n by squaring, in float64: the same bits on every machine, which math.Pow does not promise.
func pow(x float64, n int64) float64 {
	r := 1.0
	for ; n > 0; n >>= 1 {
		if n&1 == 1 {
			r = float64(r * x)
		}
		x = float64(x * x)
	}
	return r
}
