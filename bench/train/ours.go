package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/zerofleet/zerofleet/collective"
	"github.com/zerofleet/zerofleet/collective/local"
	"github.com/zerofleet/zerofleet/data"
	"github.com/zerofleet/zerofleet/kernels"
	"github.com/zerofleet/zerofleet/kernels/cpu"
	"github.com/zerofleet/zerofleet/model"
	"github.com/zerofleet/zerofleet/model/spec"
	"github.com/zerofleet/zerofleet/shard"
	"github.com/zerofleet/zerofleet/train"
)

// smolLM2 is SmolLM2-135M's shape.
var smolLM2 = spec.Config{
	Architecture: spec.Llama,
	Vocab:        49152, Width: 576, Layers: 30, Heads: 9, KVHeads: 3, HeadWidth: 64, FeedForward: 1536,
	NormEps: 1e-5, RopeTheta: 100000, Tied: true, MaxPositions: 8192,
	BOS: 1, EOS: []int{2}, Pad: 2,
}

// stepper is a training job of one worker, without its files and its control plane.
type stepper struct {
	backend kernels.Backend
	group   collective.Group
	trainer *train.Trainer
	profile *profile
	shape   shape
	rng     *rand.Rand
}

func newStepper(ctx context.Context, o options, s shape) (*stepper, error) {
	b, err := cpu.Open(cpu.Options{Threads: o.threads})
	if err != nil {
		return nil, err
	}
	st := &stepper{group: local.New(1)[0], profile: newProfile(), shape: s, rng: rand.New(rand.NewPCG(1, 2))}
	st.backend = b
	if o.profile {
		st.backend = profiled{b, st.profile}
	}
	if err := st.start(ctx, o); err != nil {
		return nil, fmt.Errorf("start training: %w", err)
	}
	return st, nil
}

func (st *stepper) start(ctx context.Context, o options) error {
	dec, err := model.New(smolLM2, st.shape.act)
	if err != nil {
		return err
	}
	opt := train.Options{
		Stage: shard.Parameters, Compute: st.shape.act, WireParameters: st.shape.act, WireGradients: kernels.F32,
		GlobalBatch: st.shape.sequences, MicroBatch: st.shape.sequences, SequenceLen: st.shape.tokens, Recompute: o.recompute,
		MaxGradNorm: 1, Optimizer: train.AdamW{Beta1: 0.9, Beta2: 0.999, Eps: 1e-8, WeightDecay: 0.01},
		Schedule: train.LearningRate{Peak: 1e-5, Name: "constant"},
	}
	if st.trainer, err = train.New(ctx, opt, dec, train.Device{Backend: st.backend, Fold: cpu.Accumulate}, st.group); err != nil {
		return err
	}
	return st.trainer.Init(ctx, func(_ context.Context, _ string, _, _ int, dst []float32) error {
		for i := range dst {
			dst[i] = (st.rng.Float32() - 0.5) * 0.07 // a standard deviation of 0.02
		}
		return nil
	})
}

// leaf is the step's one leaf: random tokens, all of which count.
func (st *stepper) leaf(int) (data.Batch, error) {
	n := st.shape.sequences * st.shape.tokens
	b := data.Batch{B: st.shape.sequences, T: st.shape.tokens, LossTokens: n, Sequences: st.shape.sequences,
		Tokens: make([]int32, n), Labels: make([]int32, n), Positions: make([]int32, n), DocStart: make([]int32, n)}
	for i := range n {
		b.Tokens[i], b.Labels[i] = st.rng.Int32N(int32(smolLM2.Vocab)), st.rng.Int32N(int32(smolLM2.Vocab))
		b.Positions[i] = int32(i % st.shape.tokens)
	}
	return b, nil
}

// step trains one step and returns its seconds.
func (st *stepper) step(ctx context.Context) (float64, error) {
	start := time.Now()
	commit, err := st.trainer.Reduce(ctx, train.Leaves{Count: 1, Leaf: st.leaf}, func() train.Own { return train.Own{} })
	if err != nil {
		return 0, err
	}
	if _, err := st.trainer.Update(ctx, commit); err != nil {
		return 0, err
	}
	return time.Since(start).Seconds(), nil
}

func (st *stepper) close() error {
	if err := st.trainer.Close(); err != nil {
		return err
	}
	st.group.Close()
	return st.backend.Close()
}
