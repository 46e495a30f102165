package e2e_test

import (
	"math"
	"testing"

	"github.com/zerofleet/zerofleet/kernels/cuda"
	"github.com/zerofleet/zerofleet/kernels/cudaemu"
)

// A job on GPUs, which are the emulator's two: one worker, and two on a device each, give the same bits; their losses are the CPU's
// but for the order of sums.
func TestCUDA(t *testing.T) {
	library, err := cudaemu.Build(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	p := newPlace(t)
	launch := []string{"launch", "job.yaml", "--set", "train.steps=4", "--set", "checkpoint.every_steps=0"}
	on := func(run string, more ...string) []step {
		t.Helper()
		p.run(append(append(launch, "--set", "output.dir=runs/"+run), more...)...).wants(t, 0, "done after step 4")
		return p.steps("runs/" + run)
	}
	// Nothing is beside the worker: auto is the CPU, and cuda is refused.
	want := on("cpu", "--workers", "1")
	p.run(append(launch, "--set", "output.dir=runs/none", "--set", "workers.device=cuda", "--workers", "1")...).wants(t, 1, "no CUDA device")

	t.Setenv(cuda.LibraryVariable, library)
	got := on("one", "--workers", "1", "--set", "workers.device=cuda", "--set", "sharding.stage=0")
	for i, s := range got {
		// An f32 sum of a few hundred terms in another order is off by some 1e-6; four steps of training multiply that.
		if math.Abs(*s.Loss-*want[i].Loss) > 1e-4**want[i].Loss {
			t.Errorf("step %d: loss %v, on the CPU %v", s.Step, *s.Loss, *want[i].Loss)
		}
	}
	one, _ := p.hash("runs/one")
	on("two", "--workers", "2", "--set", "workers.device=cuda", "--set", "sharding.stage=3")
	if two, _ := p.hash("runs/two"); two != one {
		t.Errorf("two workers: hash %.12s, one: %.12s", two, one)
	}
	if onCPU, _ := p.hash("runs/cpu"); onCPU == one {
		t.Error("the hash is the CPU's: the job did not run on the library")
	}
	p.wantsNothingLeft()
}
