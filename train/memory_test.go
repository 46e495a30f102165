package train_test

import (
	"testing"

	"github.com/zerofleet/zerofleet/kernels"
	"github.com/zerofleet/zerofleet/model/spec"
	"github.com/zerofleet/zerofleet/shard"
)

// What the allocator hands out is what the stage's formula says, at every stage and world size.
func TestAllocatedBytesAreTheFormulas(t *testing.T) {
	cfg, err := spec.Preset("preset://tiny")
	if err != nil {
		t.Fatal(err)
	}
	for _, precision := range []struct {
		compute kernels.DType
		bytes   int
		alias   bool
	}{{kernels.F32, 4, true}, {kernels.BF16, 2, false}} {
		for stage := shard.Replicated; stage <= shard.Parameters; stage++ {
			for _, world := range []int{1, 2, 4} {
				h := tiny()
				h.steps, h.leaves, h.stage, h.world = 1, 4, stage, world
				h.compute, h.wireParams = precision.compute, precision.compute
				var want shard.Bytes
				for _, u := range cfg.Units() {
					l, err := shard.NewLayout(u.Elems, world)
					if err != nil {
						t.Fatal(err)
					}
					want = want.Add(shard.PersistentBytes(l, stage, func(n int64) int64 { return n * int64(precision.bytes) }, precision.alias))
				}
				for rank, got := range h.play(t).usage {
					have := shard.Bytes{Parameters: got[kernels.Parameters], Gradients: got[kernels.Gradients], Optimizer: got[kernels.Optimizer]}
					if have != want {
						t.Errorf("%s rank %d: allocated %+v, want %+v", h, rank, have, want)
					}
				}
			}
		}
	}
}
