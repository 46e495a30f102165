package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/zerofleet/zerofleet/checkpoint"
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

// shape is a model and the sequences and tokens of a step.
type shape struct {
	name              string
	config            spec.Config
	sequences, tokens int
}

// workers is how many ranks train, in this process, with a thread each.
const workers = 2

// waits trains a shape and checkpoints every third step, and prints how long the steps stood still for it.
func waits(ctx context.Context, t io.Writer, dir string, rounds int, shapes []shape) error {
	fmt.Fprintln(t, "model\tstep s\tcheckpoint MiB a rank\twaits ms\tshare of a step\t")
	for _, s := range shapes {
		reports, err := s.train(ctx, filepath.Join(dir, s.name), 3*rounds)
		if err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		var steps, waited []float64
		for i, r := range reports {
			if i == 0 { // what is done once
				continue
			}
			steps = append(steps, r.Elapsed.Seconds())
			if (r.Step-1)%3 == 0 { // the one after a checkpoint was begun
				waited = append(waited, r.Checkpoint.Seconds())
			}
		}
		var elems int64
		for _, u := range s.config.Units() {
			elems += int64(u.Elems)
		}
		fmt.Fprintf(t, "%s\t%.3f\t%.1f\t%.2f\t%.2f %%\t\n", s.name, median(steps), float64(12*elems/workers)/(1<<20), 1000*median(waited), 100*median(waited)/median(steps))
	}
	return nil
}

// bytesEncoder makes a document of a text's bytes.
type bytesEncoder struct{ vocab int }

func (bytesEncoder) Encode(r data.Record) (data.Document, error) {
	var d data.Document
	for _, b := range []byte(r.Text) {
		d.Tokens, d.Counts = append(d.Tokens, int32(b)), append(d.Counts, true)
	}
	return d, nil
}
func (e bytesEncoder) Vocab() int { return e.vocab }
func (bytesEncoder) Pad() int32   { return 0 }

// train trains and returns what rank 0 tells of each step.
func (s shape) train(ctx context.Context, dir string, steps int) (reports []train.StepReport, err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("make a folder: %w", err)
	}
	text := filepath.Join(dir, "text.txt")
	if err := os.WriteFile(text, []byte(strings.Repeat("the quick brown fox jumps over the lazy dog\n", 4000)), 0o644); err != nil {
		return nil, fmt.Errorf("write the text: %w", err)
	}
	ds, err := data.Open(ctx, data.Options{Sources: []data.Source{{Path: text, Format: data.Text}}, SequenceLen: s.tokens, Packing: true,
		GlobalBatch: s.sequences, MicroBatch: s.sequences / workers, Steps: steps, Workers: 1}, bytesEncoder{s.config.Vocab})
	if err != nil {
		return nil, err
	}
	store := checkpoint.Dir(filepath.Join(dir, "checkpoints"))
	g, ctx := errgroup.WithContext(ctx)
	for rank, group := range local.New(workers) {
		g.Go(func() error {
			defer group.Close()
			return s.rank(ctx, group, ds, store, func(r train.StepReport) {
				if rank == 0 {
					reports = append(reports, r)
				}
			})
		})
	}
	return reports, g.Wait()
}

func (s shape) rank(ctx context.Context, group collective.Group, ds *data.Dataset, store checkpoint.Store, told func(train.StepReport)) (err error) {
	backend, err := cpu.Open(cpu.Options{Threads: 1})
	if err != nil {
		return err
	}
	defer backend.Close()
	dec, err := model.New(s.config, kernels.BF16)
	if err != nil {
		return err
	}
	t, err := train.New(ctx, train.Options{
		Stage: shard.Parameters, Compute: kernels.BF16, WireParameters: kernels.BF16, WireGradients: kernels.F32, Replicas: 1,
		GlobalBatch: s.sequences, MicroBatch: s.sequences / workers, SequenceLen: s.tokens,
		MaxGradNorm: 1, Optimizer: train.AdamW{Beta1: 0.9, Beta2: 0.999, Eps: 1e-8}, Schedule: train.LearningRate{Peak: 1e-5, Name: "constant"},
	}, dec, train.Device{Backend: backend, Fold: cpu.Accumulate}, group)
	if err != nil {
		return err
	}
	defer func() { // the group first: what is under way uses the memory
		group.Close()
		t.Close()
	}()
	err = t.Init(ctx, func(_ context.Context, _ string, lo, _ int, dst []float32) error {
		for i := range dst { // the same for whoever reads it
			dst[i] = (float32(uint32(lo+i)*2654435761)/(1<<32) - 0.5) * 0.07
		}
		return nil
	})
	if err != nil {
		return err
	}
	if err := t.CheckReplicas(ctx); err != nil {
		return err
	}
	_, err = t.Run(ctx, train.Run{
		Data: ds, Store: store, CheckpointEvery: 3, Manifest: checkpoint.Manifest{Job: "bench", Fingerprint: "none", Model: []byte("{}")},
		Instruction: func() train.Instruction { return train.Instruction{} }, StopReason: func() train.StopReason { return 0 },
		Commit: func(ctx context.Context, _ *checkpoint.Manifest, b []byte) error {
			if _, err := checkpoint.PutManifest(ctx, store, b); err != nil {
				return err
			}
			return checkpoint.Sweep(ctx, store, 1, 0, time.Now())
		},
		Troubled:  func(step int64, err error, _ bool) { fmt.Fprintf(os.Stderr, "checkpoint of step %d: %v\n", step, err) },
		Committed: told, Evaluated: func(int64, train.Evaluation) {}, Phase: func(string) {},
	})
	return err
}
