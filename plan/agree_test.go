package plan

import (
	"fmt"
	"testing"

	"github.com/zerofleet/zerofleet/job"
	"github.com/zerofleet/zerofleet/kernels"
	"github.com/zerofleet/zerofleet/model"
	"github.com/zerofleet/zerofleet/model/spec"
	"github.com/zerofleet/zerofleet/shard"
	"github.com/zerofleet/zerofleet/train"
)

// unified stands for a device whose host memory is as good as its own, as the CPU's. Nothing is taken from it.
type unified struct{ kernels.Backend }

func (unified) Caps() kernels.Caps { return kernels.Caps{Unified: true} }

func parse(t *testing.T, sets ...string) *job.Job {
	t.Helper()
	text := "model: {base: preset://tiny}\ndata: {train: [{path: a.txt}]}\ntrain: {steps: 1}\n"
	j, err := job.Parse("job.yaml", []byte(text), sets)
	if err != nil {
		t.Fatal(err)
	}
	return j
}

// smollm2 is SmolLM2-135M's shape.
var smollm2 = spec.Config{Architecture: spec.Llama, Vocab: 49152, Width: 576, Layers: 30, Heads: 9, KVHeads: 3, HeadWidth: 64,
	FeedForward: 1536, NormEps: 1e-5, RopeTheta: 1e5, Tied: true, MaxPositions: 8192, BOS: -1, Pad: -1}

func models(t *testing.T) map[string]spec.Config {
	t.Helper()
	out := map[string]spec.Config{"smollm2": smollm2}
	for _, name := range []string{"preset://tiny", "preset://tiny-untied"} {
		cfg, err := spec.Preset(name)
		if err != nil {
			t.Fatal(err)
		}
		out[name] = cfg
	}
	odd := smollm2
	odd.Tied, odd.Layers, odd.Vocab, odd.FeedForward, odd.HeadWidth = false, 3, 1009, 100, 50
	odd.Architecture, odd.Heads, odd.KVHeads = spec.Mistral, 12, 4
	out["odd"] = odd
	return out
}

var kinds = map[string]kernels.DType{"f32": kernels.F32, "bf16": kernels.BF16, "int8": kernels.Int8}

var reductions = map[string]train.Reduction{"fold": train.Fold, "tree8": train.Tree8}

// What the plan says is what the trainer's allocator hands out, kind by kind, to the byte.
func TestThePlanIsWhatTheAllocatorTakes(t *testing.T) {
	for name, cfg := range models(t) {
		for _, numeric := range [][]string{
			{"train.precision=f32"},
			{"train.precision=bf16"},
			{"train.precision=f32", "sharding.wire.parameters=bf16"},
			{"train.precision=bf16", "sharding.wire={parameters: f32, gradients: bf16}"},
			{"train.precision=f32", "sharding.wire={parameters: int8, gradients: int8}", "sharding.reduction=tree8"},
			{"train.precision=bf16", "sharding.wire={parameters: int8, gradients: bf16}"},
		} {
			for stage := shard.Replicated; stage <= shard.Parameters; stage++ {
				for _, world := range []int{1, 2, 3} {
					for _, recompute := range []bool{false, true} {
						replicas := (int(stage) + world) % 2
						j := parse(t, append(numeric, "train.micro_batch_size=2", "data.sequence_len=96", fmt.Sprintf("recovery.replicas=%d", replicas))...)
						dec, err := model.New(cfg, kinds[j.Train.Precision])
						if err != nil {
							t.Fatal(err)
						}
						o := train.Options{Stage: stage, Compute: kinds[j.Train.Precision], WireParameters: kinds[j.Sharding.Wire.Parameters],
							WireGradients: kinds[j.Sharding.Wire.Gradients], GlobalBatch: 16, MicroBatch: 2, SequenceLen: 96, Recompute: recompute, Replicas: replicas,
							Reduction: reductions[j.Sharding.Reduction]}
						u, err := train.Measure(o, dec, train.Device{Backend: unified{}}, world-1, world)
						if err != nil {
							t.Fatal(err)
						}
						got, err := newShape(j, cfg, world, stage, recompute).bytes()
						if err != nil {
							t.Fatal(err)
						}
						got.Receive, got.Checkpoint, got.Process = 0, 0, 0
						want := Bytes{Parameters: u[kernels.Parameters], Gradients: u[kernels.Gradients], Optimizer: u[kernels.Optimizer],
							Gathered: u[kernels.Gathered], LeafGradients: u[kernels.LeafGrads], Activations: u[kernels.Activations],
							Workspace: u[kernels.Workspace], Staging: u[kernels.Staging], Replica: u[kernels.Replica]}
						if got != want {
							t.Fatalf("%s", fmt.Sprintf("%s %v stage %d world %d recompute %v:\ngot  %+v\nwant %+v", name, numeric, stage, world, recompute, got, want))
						}
					}
				}
			}
		}
	}
}
