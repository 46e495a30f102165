// Package train is one rank's side of a step: it walks the units forward and backward,
// reduces their gradients to their owners, agrees with the other ranks on the commit
// record, and updates. Run is the whole life of a rank in one generation.
//
// What a job ends with does not depend on the world size, the stage, or when it was
// stopped and resumed. The rules that make it so stand where they are kept:
// leaves are dealt in turn and folded in order (round), a leaf's gradient is
// rounded to the wire's format before it is folded (reduce), parameters are
// rounded before they are computed with (publish), sums over shards are exact
// (gradientSquares), and a step's scalars come from the commit record alone (scalars).
package train

import (
	"errors"
	"fmt"
	"math"

	"github.com/zerofleet/zerofleet/kernels"
	"github.com/zerofleet/zerofleet/shard"
)

// Options are what a step computes with. All but Stage, Recompute, Replicas and Serial can change a bit of the result.
type Options struct {
	Stage shard.Stage
	// Compute is the type of activations and of the parameters that products read: f32 or bf16.
	Compute kernels.DType
	// WireParameters and WireGradients are numeric formats, f32, bf16 or int8: parameters are rounded to the one before
	// they are computed with, leaf gradients to the other before they are folded, at every world size.
	WireParameters, WireGradients kernels.DType
	// Reduction is the order in which leaves are added.
	Reduction Reduction
	// GlobalBatch is sequences a step, MicroBatch sequences a leaf, SequenceLen tokens a sequence.
	GlobalBatch, MicroBatch, SequenceLen int
	// Recompute keeps only the blocks' inputs and computes the rest again in the backward.
	Recompute bool
	// Replicas is how many other ranks keep each shard, so that no committed step is lost with a rank: 0 or 1. Stage 0 and
	// one rank alone have none, whatever it says.
	Replicas int
	// AnyOrder says that the Group adds leaves in no order, and perhaps several at once before they come to their owner: they are
	// not counted then.
	AnyOrder bool
	// Serial waits for each gather and each reduction where it begins: what overlapping them with computing saves is the
	// difference. All ranks must say the same.
	Serial bool
	// MaxGradNorm clips the L2 norm of the gradient; 0 does not.
	MaxGradNorm float64
	Optimizer   AdamW
	Schedule    LearningRate
}

// AdamW are the optimizer's constants. WeightDecay is applied to matrices, not to vectors (norms),
// as Hugging Face's Trainer does.
type AdamW struct {
	Beta1, Beta2, Eps, WeightDecay float64
}

// LearningRate is the learning rate as a function of the optimizer step.
type LearningRate struct {
	Peak        float64
	Name        string // constant, linear or cosine: what follows the warm-up
	WarmupSteps int
	MinRatio    float64 // of Peak, reached after TotalSteps
	TotalSteps  int
}

// At is the rate of optimizer step t, 1 for the first. Warm-up is linear from Peak/WarmupSteps.
func (l LearningRate) At(t int64) float64 {
	if w := int64(l.WarmupSteps); t <= w {
		return l.Peak * (float64(t) / float64(w))
	}
	span := float64(l.TotalSteps - l.WarmupSteps)
	done := 1.0
	if span > 0 {
		done = min(1, float64(t-1-int64(l.WarmupSteps))/span)
	}
	switch l.Name {
	case "linear":
		return l.Peak * (1 - done*(1-l.MinRatio))
	case "cosine":
		return l.Peak * (l.MinRatio + (1-l.MinRatio)*0.5*(1+cosPi(done)))
	}
	return l.Peak
}

// cosPi is cos(pi*x) for x in [0,1]. math.Cos is Go code, the same on every amd64 and arm64.
func cosPi(x float64) float64 { return math.Cos(float64(math.Pi * x)) }

// Validate reports every fault at once.
func (o Options) Validate() error {
	var faults []error
	bad := func(format string, a ...any) { faults = append(faults, fmt.Errorf(format, a...)) }
	if err := o.Stage.Validate(); err != nil {
		bad("%w", err)
	}
	for _, t := range []struct {
		name string
		t    kernels.DType
	}{{"compute type", o.Compute}, {"wire.parameters", o.WireParameters}, {"wire.gradients", o.WireGradients}} {
		if t.t != kernels.F32 && t.t != kernels.BF16 && (t.t != kernels.Int8 || t.name == "compute type") {
			bad("%s: %s, want f32 or bf16, or int8 on the wire", t.name, t.t)
		}
	}
	if o.Reduction > Tree8 {
		bad("reduction %d: want %d or %d", o.Reduction, Fold, Tree8)
	}
	if o.GlobalBatch < 1 || o.MicroBatch < 1 || o.SequenceLen < 2 {
		bad("global batch %d, micro-batch %d, sequence %d: want at least 1, 1 and 2", o.GlobalBatch, o.MicroBatch, o.SequenceLen)
	}
	if o.Replicas < 0 || o.Replicas > 1 {
		bad("replicas %d: want 0 or 1", o.Replicas)
	}
	return errors.Join(faults...)
}

// lossScale is the constant that every token's loss is multiplied with: a leaf's gradient then has about the mean's size,
// whatever the leaf holds. What is missing to the mean over the loss tokens is applied in the update (scalars).
func (o Options) lossScale() float32 {
	return float32(1 / (float64(o.GlobalBatch) * float64(o.SequenceLen)))
}

// mastersAreParameters says whether the f32 masters are themselves what is computed with and gathered.
func (o Options) mastersAreParameters(unified bool) bool {
	return unified && o.Compute == kernels.F32 && o.WireParameters == kernels.F32
}
