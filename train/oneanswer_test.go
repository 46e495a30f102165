package train_test

import (
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/zerofleet/zerofleet/checkpoint"
	"github.com/zerofleet/zerofleet/collective"
	"github.com/zerofleet/zerofleet/data"
	"github.com/zerofleet/zerofleet/kernels"
	"github.com/zerofleet/zerofleet/shard"
	"github.com/zerofleet/zerofleet/train"
)

// One job, one answer: for each job, every place it can run gives one hash. ZEROFLEET_TABLE=full runs all places
// and prints the table; otherwise each job runs at a spread of them.
func TestOneAnswer(t *testing.T) {
	full := os.Getenv("ZEROFLEET_TABLE") == "full"
	for _, preset := range []string{"preset://tiny", "preset://tiny-untied"} {
		for _, leaves := range []int{8, 7} {
			for _, wire := range []kernels.DType{kernels.F32, kernels.BF16} {
				job := tiny()
				job.preset, job.leaves, job.wireParams, job.wireGrads = preset, leaves, wire, wire
				t.Run(fmt.Sprintf("%s/%d/%s", preset[len("preset://"):], leaves, wire), func(t *testing.T) {
					t.Parallel()
					want := job.play(t)
					if len(want.losses) != job.steps || !(want.losses[job.steps-1] < want.losses[0]) {
						t.Fatalf("losses %v: want %d falling ones", want.losses, job.steps)
					}
					places := 1
					for stage := shard.Replicated; stage <= shard.Parameters; stage++ {
						for world := 1; world <= 4; world++ {
							for _, recompute := range []bool{false, true} {
								if !full && (int(stage)+world+leaves)%4 != 0 {
									continue
								}
								h := job
								h.stage, h.world, h.recompute, h.threads = stage, world, recompute, 1+world%2
								if got := h.play(t); got.hash != want.hash {
									t.Errorf("%s: hash %.16s, want %.16s\nlosses %v, want %v", h, got.hash, want.hash, got.losses, want.losses)
								}
								places++
							}
						}
					}
					t.Logf("%-14s %d leaves, %-4s wire: %.16s at all of %d places", preset[len("preset://"):], leaves, wire, want.hash, places)
				})
			}
		}
	}
}

// bf16 computing is exact in the same sense.
func TestOneAnswerInBF16(t *testing.T) {
	job := tiny()
	job.compute, job.wireParams = kernels.BF16, kernels.BF16
	want := job.play(t)
	for _, h := range []history{{world: 3, stage: shard.Parameters}, {world: 2, stage: shard.Gradients, recompute: true}, {world: 2, stage: shard.Replicated}} {
		g := job
		g.world, g.stage, g.recompute = h.world, h.stage, h.recompute
		if got := g.play(t); got.hash != want.hash {
			t.Errorf("%s: hash %.16s, want %.16s", g, got.hash, want.hash)
		}
	}
}

// So are every wire format and order of the sum, each with its own answer. 11 leaves leave the tree's last group unfilled, and 4
// workers its last round.
func TestOneAnswerOfEveryFormat(t *testing.T) {
	full := os.Getenv("ZEROFLEET_TABLE") == "full"
	answers := map[string]string{}
	for _, wire := range []kernels.DType{kernels.F32, kernels.BF16, kernels.Int8} {
		for _, reduction := range []train.Reduction{train.Fold, train.Tree8} {
			for _, compute := range []kernels.DType{kernels.F32, kernels.BF16} {
				if compute == kernels.BF16 && (reduction != train.Fold || wire != kernels.Int8) {
					continue
				}
				job := tiny()
				job.steps, job.leaves, job.compute, job.wireParams, job.wireGrads, job.reduction = 2, 11, compute, wire, wire, reduction
				want := job.play(t)
				name := fmt.Sprintf("%s computing, %s wire, reduction %d", compute, wire, reduction)
				// Sums of 11 numbers of bf16's 8 bits are mostly exact in f32: whatever the order.
				if other, twice := answers[want.hash]; twice && wire != kernels.BF16 {
					t.Errorf("%s and %s have one hash: %.16s", name, other, want.hash)
				}
				answers[want.hash] = name
				places := 1
				for stage := shard.Replicated; stage <= shard.Parameters; stage++ {
					for _, world := range []int{1, 3, 4, 8} {
						if !full && (int(stage)+world)%4 != 3 {
							continue
						}
						h := job
						h.stage, h.world = stage, world
						if got := h.play(t); got.hash != want.hash {
							t.Errorf("%s: hash %.16s, want %.16s\nlosses %v, want %v", h, got.hash, want.hash, got.losses, want.losses)
						}
						places++
					}
				}
				t.Logf("%s: %.16s at all of %d places", name, want.hash, places)
			}
		}
	}
}

// faultyGroup plants a mistake in the reduction.
type faultyGroup struct {
	collective.Group
	fault string
}

func (g faultyGroup) ReduceScatter(ctx context.Context, name string, acc collective.Accumulator, src collective.Buffer, first, contributors int) *collective.Pending {
	switch g.fault {
	case "fold in arrival order":
		acc = &lastFirst{Accumulator: acc, first: first, contributors: contributors}
	case "zeros added by an idle rank":
		if contributors < g.Size() {
			if src.IsZero() {
				src = collective.Buffer{Bytes: make([]byte, 4*acc.Len()*g.Size()), Type: kernels.F32}
			}
			contributors = g.Size()
		}
	}
	return g.Group.ReduceScatter(ctx, name, acc, src, first, contributors)
}

// lastFirst folds a round's leaves in the opposite order, as if they had arrived so.
type lastFirst struct {
	collective.Accumulator
	first, contributors int
	kept                []func() error
}

func (l *lastFirst) Fold(leaf, off int, src []byte, t kernels.DType) error {
	own := append([]byte(nil), src...)
	l.kept = append(l.kept, func() error { return l.Accumulator.Fold(leaf, off, own, t) })
	if leaf != l.first+l.contributors-1 {
		return nil
	}
	for i := len(l.kept) - 1; i >= 0; i-- {
		if err := l.kept[i](); err != nil {
			return err
		}
	}
	l.kept = nil
	return nil
}

// Each mistake that the hash is there to catch does change it.
func TestPlantedFaultsChangeTheHash(t *testing.T) {
	job := tiny()
	job.leaves, job.world = 7, 4
	want := job.play(t).hash
	h := job
	h.group = func(g collective.Group) collective.Group { return faultyGroup{g, "fold in arrival order"} }
	if got := h.play(t).hash; got == want {
		t.Errorf("fold in arrival order: the hash did not change: %.16s", got)
	} else {
		t.Logf("fold in arrival order: %.16s, without %.16s", got, want)
	}
	// Zeros change no bit of a sum that starts at +0, so no hash can tell of them: the count of what was folded does.
	h.group = func(g collective.Group) collective.Group { return faultyGroup{g, "zeros added by an idle rank"} }
	if _, err := h.try(t); err == nil || !strings.Contains(err.Error(), "7 leaves") {
		t.Errorf("zeros added by an idle rank: %v, want a fold of more than 7 leaves", err)
	} else {
		t.Logf("zeros added by an idle rank: %v", err)
	}
}

// So does a leaf that is folded in another's place, or a sample that is left out.
func TestPlantedLeafFaultsChangeTheState(t *testing.T) {
	state := func(alter func(data.Batch, func(int) (data.Batch, error), int) (data.Batch, error)) string {
		job := tiny()
		var sum string
		job.manual = func(ctx context.Context, tr *train.Trainer, ds *data.Dataset) error {
			stream := ds.Stream(data.Cursor{}, 0)
			for range job.steps {
				b, err := stream.Next(ctx)
				if err != nil {
					return err
				}
				leaves := train.Leaves{Count: b.Leaves, Leaf: func(i int) (data.Batch, error) {
					leaf, err := b.Leaf(i)
					if err != nil {
						return leaf, err
					}
					return alter(leaf, b.Leaf, i)
				}}
				c, err := tr.Reduce(ctx, leaves, func() train.Own { return train.Own{} })
				if err != nil {
					return err
				}
				if _, err := tr.Update(ctx, c); err != nil {
					return err
				}
			}
			ranges, err := tr.Snapshot(ctx, nil)
			sum = fmt.Sprintf("%x", sha256.Sum256(fmt.Appendf(nil, "%x", ranges)))
			return err
		}
		if _, err := job.try(t); err != nil {
			t.Fatal(err)
		}
		return sum
	}
	none := func(b data.Batch, _ func(int) (data.Batch, error), _ int) (data.Batch, error) { return b, nil }
	want := state(none)
	if got := state(none); got != want {
		t.Fatalf("the same steps twice: %.16s and %.16s", got, want)
	}
	for fault, alter := range map[string]func(data.Batch, func(int) (data.Batch, error), int) (data.Batch, error){
		"two leaves swapped": func(b data.Batch, leaf func(int) (data.Batch, error), i int) (data.Batch, error) {
			if i == 2 || i == 5 {
				return leaf(7 - i)
			}
			return b, nil
		},
		"one sample skipped": func(b data.Batch, _ func(int) (data.Batch, error), i int) (data.Batch, error) {
			if i == 3 {
				for k := range b.Labels {
					b.Labels[k] = -1
				}
				b.LossTokens = 0
			}
			return b, nil
		},
	} {
		if got := state(alter); got == want {
			t.Errorf("%s: the state did not change: %.16s", fault, got)
		} else {
			t.Logf("%s: %.16s, without %.16s", fault, got, want)
		}
	}
}

// A run that is stopped and resumed at another world size and stage ends with the same bits.
func TestResumeElsewhereGivesTheSameAnswer(t *testing.T) {
	job := tiny()
	job.steps, job.evalEvery = 6, 2
	want := job.play(t)
	first := job
	first.world, first.stage, first.stopAt, first.every = 3, shard.Parameters, 3, 2
	half := first.play(t)
	if half.out.Done || half.final.Step != 3 {
		t.Fatalf("stopped at step %d, done %v: want 3 and not done", half.final.Step, half.out.Done)
	}
	second := job
	second.world, second.stage, second.recompute = 2, shard.OptimizerState, true
	second.store, second.resume = half.store, half.final
	got := second.play(t)
	if got.hash != want.hash {
		t.Errorf("resumed: hash %.16s, want %.16s", got.hash, want.hash)
	}
	if n := len(want.evals); got.evals[len(got.evals)-1] != want.evals[n-1] {
		t.Errorf("last evaluation %+v, want %+v", got.evals[len(got.evals)-1], want.evals[n-1])
	}
	list, err := checkpoint.List(context.Background(), half.store)
	if err != nil || len(list) != 3 { // steps 2, 3 and 6
		t.Errorf("%d checkpoints, %v: want 3", len(list), err)
	}
}
