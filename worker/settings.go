package worker

import (
	"fmt"

	"github.com/zerofleet/zerofleet/job"
	"github.com/zerofleet/zerofleet/kernels"
	"github.com/zerofleet/zerofleet/shard"
	"github.com/zerofleet/zerofleet/train"
)

// trainOptions is what a resolved job says about computing. steps is the job's total.
func trainOptions(j *job.Job, steps int) (train.Options, error) {
	stage, ok := j.Sharding.Stage.Number()
	if !ok {
		return train.Options{}, fmt.Errorf("sharding.stage: %s was not settled when the job was submitted", j.Sharding.Stage)
	}
	recompute, ok := j.Train.GradientCheckpointing.Bool()
	if !ok {
		return train.Options{}, fmt.Errorf("train.gradient_checkpointing: %s was not settled when the job was submitted", j.Train.GradientCheckpointing)
	}
	t := j.Train
	o := train.Options{
		Stage:       shard.Stage(stage),
		GlobalBatch: t.GlobalBatchSize, MicroBatch: t.MicroBatchSize, SequenceLen: j.Data.SequenceLen,
		Recompute:   recompute,
		Replicas:    j.Recovery.Replicas,
		Serial:      !j.Collective.Overlap,
		AnyOrder:    anyOrder(j),
		MaxGradNorm: t.MaxGradNorm,
		Optimizer:   train.AdamW{Beta1: t.Optimizer.Betas[0], Beta2: t.Optimizer.Betas[1], Eps: t.Optimizer.Eps, WeightDecay: t.Optimizer.WeightDecay},
		Schedule: train.LearningRate{Peak: t.Optimizer.LearningRate, Name: t.Schedule.Name, WarmupSteps: t.Schedule.WarmupSteps,
			MinRatio: t.Schedule.MinLearningRateRatio, TotalSteps: steps},
	}
	for _, f := range []struct {
		field, name string
		to          *kernels.DType
	}{
		{"train.precision", t.Precision, &o.Compute},
		{"sharding.wire.parameters", j.Sharding.Wire.Parameters, &o.WireParameters},
		{"sharding.wire.gradients", j.Sharding.Wire.Gradients, &o.WireGradients},
	} {
		switch f.name {
		case "f32":
			*f.to = kernels.F32
		case "bf16":
			*f.to = kernels.BF16
		case "int8":
			*f.to = kernels.Int8
		default:
			return train.Options{}, fmt.Errorf("%s: %q, want f32, bf16 or int8", f.field, f.name)
		}
	}
	switch j.Sharding.Reduction {
	case "fold":
		o.Reduction = train.Fold
	case "tree8":
		o.Reduction = train.Tree8
	default:
		return train.Options{}, fmt.Errorf("sharding.reduction: %q, want fold or tree8", j.Sharding.Reduction)
	}
	return o, o.Validate()
}

// anyOrder says whether sums may be taken in any order. A tree has one, whatever is promised.
func anyOrder(j *job.Job) bool { return j.Sharding.Exact == "off" && j.Sharding.Reduction == "fold" }
