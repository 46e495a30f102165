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

// forgetful is a device whose n-th wait is left out, as if the code had forgotten it.
type forgetful struct {
	kernels.Backend
	skip *int
}

func (f forgetful) NewStream(name string) (kernels.Stream, error) {
	s, err := f.Backend.NewStream(name)
	return forgetfulStream{s, f.skip}, err
}

type forgetfulStream struct {
	kernels.Stream
	skip *int
}

func (s forgetfulStream) Sync(ctx context.Context) error {
	if *s.skip--; *s.skip == 0 {
		return nil
	}
	return s.Stream.Sync(ctx)
}

// Leaving out a wait is noticed: the device refuses what follows, or the bits differ. Each of the first waits of a step is
// left out once; those before a collective that sends what was just computed must all be noticed.
func TestDeferredDeviceNoticesAForgottenWait(t *testing.T) {
	h := tiny()
	h.steps, h.leaves, h.wireParams, h.wireGrads = 1, 1, kernels.BF16, kernels.BF16
	want := h.play(t).hash
	noticed, harmless := 0, 0
	for n := 1; n <= 60; n++ {
		skip := n
		h.wrap = func(b kernels.Backend) kernels.Backend { return forgetful{deferred.New(b), &skip} }
		got, err := h.try(t)
		switch {
		case err != nil || got.hash != want:
			noticed++
		default:
			harmless++ // nothing was enqueued since the wait before
		}
	}
	t.Logf("%d of 60 waits left out one at a time were noticed, %d had nothing to wait for", noticed, harmless)
	if noticed < 20 {
		t.Errorf("noticed %d of 60 forgotten waits, want at least 20", noticed)
	}
}
