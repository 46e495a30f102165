package train_test

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/zerofleet/zerofleet/collective/local"
	"github.com/zerofleet/zerofleet/data"
	"github.com/zerofleet/zerofleet/kernels"
	"github.com/zerofleet/zerofleet/kernels/cpu"
	"github.com/zerofleet/zerofleet/model"
	"github.com/zerofleet/zerofleet/model/spec"
	"github.com/zerofleet/zerofleet/safetensors"
	"github.com/zerofleet/zerofleet/shard"
	"github.com/zerofleet/zerofleet/train"
)

// Twenty steps of torch.optim.AdamW on a real transformers model, one leaf for each row of the batch, over two ranks at
// stage 3: the same losses and gradient norms. The leaves hold unlike numbers of loss tokens, so a mean of means would
// show. The goldens are tools/golden/model.py's.
func TestTwentyStepsAreTorchs(t *testing.T) {
	for _, shape := range []string{"llama", "llama3-rope", "mistral", "tied"} {
		t.Run(shape, func(t *testing.T) {
			t.Parallel()
			torchRun(t, filepath.Join("../model/testdata/golden", shape))
		})
	}
}

type torchRecord struct {
	AdamW struct {
		LR          float64    `json:"lr"`
		Betas       [2]float64 `json:"betas"`
		Eps         float64    `json:"eps"`
		WeightDecay float64    `json:"weight_decay"`
		MaxGradNorm float64    `json:"max_grad_norm"`
		Losses      []float64  `json:"losses"`
		GradNorms   []float64  `json:"grad_norms"`
	} `json:"adamw"`
}

func torchRun(t *testing.T, dir string) {
	var rec torchRecord
	readJSON(t, filepath.Join(dir, "golden.json"), &rec)
	configJSON, err := os.ReadFile(filepath.Join(dir, "config.json"))
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := spec.ParseConfig(configJSON)
	if err != nil {
		t.Fatal(err)
	}
	golden, base := open(t, filepath.Join(dir, "golden.safetensors")), open(t, filepath.Join(dir, "model.safetensors"))
	tokens, shape := ints(t, golden, "adamw.tokens")
	labels, _ := ints(t, golden, "adamw.labels")
	positions, _ := ints(t, golden, "adamw.positions")
	docStart, _ := ints(t, golden, "adamw.doc_start")
	steps, rows, T := shape[0], shape[1], shape[2]
	a := rec.AdamW
	o := train.Options{Stage: shard.Parameters, Compute: kernels.F32, WireParameters: kernels.F32, WireGradients: kernels.F32,
		GlobalBatch: rows, MicroBatch: 1, SequenceLen: T, MaxGradNorm: a.MaxGradNorm,
		Optimizer: train.AdamW{Beta1: a.Betas[0], Beta2: a.Betas[1], Eps: a.Eps, WeightDecay: a.WeightDecay},
		Schedule:  train.LearningRate{Peak: a.LR, Name: "constant", TotalSteps: steps}}
	leaf := func(step int) train.Leaves {
		return train.Leaves{Count: rows, Leaf: func(i int) (data.Batch, error) {
			lo := (step*rows + i) * T
			b := data.Batch{B: 1, T: T, Tokens: tokens[lo : lo+T], Labels: labels[lo : lo+T], Positions: positions[lo : lo+T],
				DocStart: docStart[lo : lo+T], Sequences: 1}
			for _, l := range b.Labels {
				if l >= 0 {
					b.LossTokens++
				}
			}
			return b, nil
		}}
	}
	const world = 2
	metrics := make([][]train.Metrics, world)
	errs := make([]error, world)
	var wg sync.WaitGroup
	for rank, g := range local.New(world) {
		wg.Go(func() {
			defer g.Close()
			errs[rank] = func() error {
				backend, err := cpu.Open(cpu.Options{Threads: 1})
				if err != nil {
					return err
				}
				defer backend.Close()
				dec, err := model.New(cfg, kernels.F32)
				if err != nil {
					return err
				}
				tr, err := train.New(t.Context(), o, dec, train.Device{Backend: backend, Fold: cpu.Accumulate}, g)
				if err != nil {
					return err
				}
				defer tr.Close()
				err = tr.Init(t.Context(), func(_ context.Context, name string, lo, hi int, dst []float32) error {
					return base.ReadF32(name, lo, hi, dst)
				})
				for step := 0; step < steps && err == nil; step++ {
					var c train.Commit
					if c, err = tr.Reduce(t.Context(), leaf(step), func() train.Own { return train.Own{} }); err != nil {
						break
					}
					var m train.Metrics
					m, err = tr.Update(t.Context(), c)
					metrics[rank] = append(metrics[rank], m)
				}
				return err
			}()
		})
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
	for step, m := range metrics[0] {
		t.Logf("step %d: loss %v, torch %v", step+1, m.Loss, a.Losses[step])
		if want := a.Losses[step]; !(math.Abs(m.Loss-want) <= 1e-4*want) {
			t.Errorf("step %d: loss %v, want %v", step+1, m.Loss, want)
		}
		if want := a.GradNorms[step]; !(math.Abs(m.GradNorm-want) <= 1e-3*want) {
			t.Errorf("step %d: gradient norm %v, want %v", step+1, m.GradNorm, want)
		}
	}
	if len(metrics[0]) != 20 {
		t.Errorf("%d steps, want 20", len(metrics[0]))
	}
}

func readJSON(t *testing.T, path string, v any) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(b, v)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func open(t *testing.T, path string) *safetensors.File {
	t.Helper()
	f, err := safetensors.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	})
	return f
}

func ints(t *testing.T, f *safetensors.File, name string) ([]int32, []int) {
	t.Helper()
	tensor, ok := f.Tensor(name)
	if !ok {
		t.Fatalf("no tensor %s", name)
	}
	raw := make([]byte, 4*tensor.Elems)
	if err := f.ReadBytes(name, 0, tensor.Elems, raw); err != nil {
		t.Fatal(err)
	}
	out := make([]int32, tensor.Elems)
	for i := range out {
		out[i] = int32(binary.LittleEndian.Uint32(raw[4*i:]))
	}
	return out, tensor.Shape
}
