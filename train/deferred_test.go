package train_test

import (
	"context"
	"testing"

	"github.com/zerofleet/zerofleet/kernels"
	"github.com/zerofleet/zerofleet/kernels/deferred"
	"github.com/zerofleet/zerofleet/shard"
)

// A device with its own memory, on which everything happens late, trains to the same bits: no code touches device
// memory from the host, and none forgets a wait.
func TestDeferredDeviceTrainsToTheSameAnswer(t *testing.T) {
	for _, stage := range []shard.Stage{shard.Replicated, shard.Gradients, shard.Parameters} {
		for _, compute := range []kernels.DType{kernels.F32, kernels.BF16} {
			h := tiny()
			h.steps, h.world, h.stage, h.compute, h.wireParams, h.evalEvery, h.every = 2, 2, stage, compute, compute, 1, 1
			want := h.play(t)
			h.wrap = func(b kernels.Backend) kernels.Backend { return deferred.New(b) }
			if got := h.play(t); got.hash != want.hash {
				t.Errorf("%s: hash %.16s on the deferred device, %.16s on its CPU", h, got.hash, want.hash)
			}
		}
	}
}

// forgetful is a device whose n-th wait of the first step is left out, as if the code had forgotten it.
type forgetful struct {
	kernels.Backend
	n int
}

func (f forgetful) NewStream(name string) (kernels.Stream, error) {
	s, err := f.Backend.NewStream(name)
	if name != "train" {
		return s, err
	}
	return &forgetfulStream{Stream: s, n: f.n}, err
}

type forgetfulStream struct {
	kernels.Stream
	n     int
	began bool // the first forward was launched
}

func (s *forgetfulStream) Launch(op kernels.Op) error {
	if _, ok := op.(kernels.Embedding); ok {
		s.began = true
	}
	return s.Stream.Launch(op)
}

func (s *forgetfulStream) Sync(ctx context.Context) error {
	if s.began {
		if s.n--; s.n == 0 {
			return nil
		}
	}
	return s.Stream.Sync(ctx)
}

// Leaving out a wait is noticed: the device refuses what follows, or the bits differ. Each of the first waits of a step is
// left out once; some follow another at once and have nothing to wait for.
func TestDeferredDeviceNoticesAForgottenWait(t *testing.T) {
	h := tiny()
	h.steps, h.leaves, h.wireParams, h.wireGrads = 1, 1, kernels.BF16, kernels.BF16
	want := h.play(t).hash
	const waits = 24
	noticed := 0
	for n := 1; n <= waits; n++ {
		h.wrap = func(b kernels.Backend) kernels.Backend { return forgetful{deferred.New(b), n} }
		got, err := h.try(t)
		if err != nil || got.hash != want {
			noticed++
			t.Logf("wait %d left out: %v", n, err)
		}
	}
	if noticed < waits/3 {
		t.Errorf("noticed %d of %d forgotten waits, want %d at least", noticed, waits, waits/3)
	}
}
