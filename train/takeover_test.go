package train_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/zerofleet/zerofleet/checkpoint"
	"github.com/zerofleet/zerofleet/collective"
	"github.com/zerofleet/zerofleet/collective/local"
	"github.com/zerofleet/zerofleet/data"
	"github.com/zerofleet/zerofleet/kernels"
	"github.com/zerofleet/zerofleet/kernels/cpu"
	"github.com/zerofleet/zerofleet/kernels/deferred"
	"github.com/zerofleet/zerofleet/model"
	"github.com/zerofleet/zerofleet/model/spec"
	"github.com/zerofleet/zerofleet/shard"
	"github.com/zerofleet/zerofleet/train"
)

// fleet is a job's ranks over several generations in one process.
type fleet struct {
	t       *testing.T
	o       train.Options
	dec     *model.Decoder
	backend kernels.Backend
	data    *data.Dataset
	gen     uint64
	ranks   []*train.Trainer
	groups  []collective.Group
	sums    []string // of each step: what the update's scalars are computed from
}

func newFleet(t *testing.T, h history) *fleet {
	t.Helper()
	backend, err := cpu.Open(cpu.Options{Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	f := &fleet{t: t, o: h.options(), backend: backend}
	if h.wrap != nil {
		f.backend = h.wrap(backend)
	}
	f.o.Replicas = 1
	t.Cleanup(func() {
		for r, x := range f.ranks {
			if x != nil {
				x.Close()
				f.groups[r].Close()
			}
		}
		if err := f.backend.Close(); err != nil {
			t.Error(err)
		}
	})
	cfg, err := spec.Preset(h.preset)
	if err != nil {
		t.Fatal(err)
	}
	if f.dec, err = model.New(cfg, h.compute); err != nil {
		t.Fatal(err)
	}
	o := data.Options{Sources: []data.Source{{Path: corpus(t), Format: data.Text}}, SequenceLen: testSequence, Packing: true,
		Shuffle: true, Seed: 3, GlobalBatch: h.leaves * h.micro, MicroBatch: h.micro, Steps: h.steps, Workers: 1}
	if f.data, err = data.Open(t.Context(), o, byteEncoder{}); err != nil {
		t.Fatal(err)
	}
	return f
}

// all runs do for every rank at once.
func (f *fleet) all(do func(rank int, t *train.Trainer) error) {
	f.t.Helper()
	errs := make([]error, len(f.ranks))
	var wg sync.WaitGroup
	for r := range f.ranks {
		wg.Go(func() { errs[r] = do(r, f.ranks[r]) })
	}
	wg.Wait()
	for r, err := range errs {
		if err != nil {
			f.t.Fatalf("rank %d of %d: %v", r, len(f.ranks), err)
		}
	}
}

// form makes the ranks of the next generation, without state.
func (f *fleet) form(world int) {
	f.gen++
	f.groups = local.NewGeneration(world, f.gen)
	f.ranks = make([]*train.Trainer, world)
	f.all(func(r int, _ *train.Trainer) (err error) {
		f.ranks[r], err = train.New(f.t.Context(), f.o, f.dec, train.Device{Backend: f.backend, Fold: cpu.Accumulate}, f.groups[r])
		return err
	})
}

func (f *fleet) start(world int) {
	f.form(world)
	f.all(func(_ int, t *train.Trainer) error { return t.Init(f.t.Context(), seededWeights) })
}

// reduce computes the next step up to its commit record.
func (f *fleet) reduce(step int) train.Commit {
	f.t.Helper()
	commits := make([]train.Commit, len(f.ranks))
	f.all(func(r int, t *train.Trainer) error {
		s := f.data.Stream(data.Cursor{}, 0)
		var b *data.GlobalBatch
		for range step {
			var err error
			if b, err = s.Next(f.t.Context()); err != nil {
				return err
			}
		}
		var err error
		commits[r], err = t.Reduce(f.t.Context(), train.Leaves{Count: b.Leaves, Leaf: b.Leaf}, func() train.Own { return train.Own{Note: []byte{byte(r)}} })
		return err
	})
	c := commits[0]
	f.sums = append(f.sums, fmt.Sprintf("step %d: loss %v, squares %v, %d tokens", step, c.LossSum.Float64(), c.SumSquares.Float64(), c.LossTokens))
	return c
}

func (f *fleet) steps(from, to int) {
	f.t.Helper()
	for step := from; step <= to; step++ {
		c := f.reduce(step)
		f.all(func(_ int, t *train.Trainer) error { _, err := t.Update(f.t.Context(), c); return err })
	}
}

// state is every element of the whole training state, from its owners.
func (f *fleet) state() string {
	f.t.Helper()
	parts := make([][]checkpoint.Range, len(f.ranks))
	f.all(func(r int, t *train.Trainer) (err error) {
		parts[r], err = t.Snapshot(f.t.Context(), nil)
		return err
	})
	var whole []float32
	for u := range parts[0] {
		for field := range checkpoint.Fields {
			for _, p := range parts {
				whole = append(whole, p[u].Fields[field]...)
			}
		}
	}
	return fmt.Sprintf("%x", whole)
}

// next lets the ranks in dead vanish and forms a generation of the rest and joiners more.
func (f *fleet) next(dead []int, joiners int) {
	f.t.Helper()
	ctx := f.t.Context()
	old, world := f.ranks, len(f.ranks)
	var survivors []int
	for _, g := range f.groups {
		g.Close()
	}
	for r, t := range old {
		gone := false
		for _, d := range dead {
			gone = gone || d == r
		}
		if gone {
			t.Close()
			continue
		}
		survivors = append(survivors, r)
	}
	var h train.Handover
	for _, r := range survivors {
		if s := old[r].Step(); s > h.Step {
			h.Step, h.Records, h.OptimizerStep = s, old[r].LastRecords(), old[r].OptimizerStep()
		}
	}
	for _, r := range survivors {
		if err := old[r].Retire(ctx); err != nil {
			f.t.Fatal(err)
		}
		if err := old[r].Complete(h.Step, h.Records); err != nil {
			f.t.Fatal(err)
		}
	}
	place := map[int]int{} // old rank to new
	for at, r := range survivors {
		place[r] = at
	}
	h.World = world
	if f.o.Stage == shard.Replicated {
		h.World = 1
		for _, r := range survivors {
			h.Holders = append(h.Holders, train.Holder{Rank: place[r]})
		}
	} else {
		for r := range world {
			if at, ok := place[r]; ok {
				h.Holders = append(h.Holders, train.Holder{Rank: at})
			} else {
				h.Holders = append(h.Holders, train.Holder{Rank: place[shard.Buddy(r, world)], Replica: true})
			}
		}
	}
	f.form(len(survivors) + joiners)
	f.all(func(r int, t *train.Trainer) error {
		var mine *train.Trainer
		if r < len(survivors) {
			mine = old[survivors[r]]
		}
		if _, err := t.TakeOver(ctx, mine, h); err != nil {
			return err
		}
		return t.CheckReplicas(ctx)
	})
	for _, r := range survivors {
		if err := old[r].Close(); err != nil {
			f.t.Error(err)
		}
	}
}

// Whoever dies between two steps, or joins, the job goes on from the same bits and ends with them.
func TestRanksComeAndGoAndTheAnswerStays(t *testing.T) {
	for _, stage := range []shard.Stage{shard.Replicated, shard.Gradients, shard.Parameters} {
		for _, compute := range []kernels.DType{kernels.F32, kernels.BF16} {
			for name, wrap := range map[string]func(kernels.Backend) kernels.Backend{
				"cpu": nil, "deferred": func(b kernels.Backend) kernels.Backend { return deferred.New(b) },
			} {
				t.Run(fmt.Sprintf("stage %d %s %s", stage, compute, name), func(t *testing.T) {
					h := tiny()
					h.steps, h.leaves, h.stage, h.compute, h.wireParams = 6, 5, stage, compute, compute
					alone := newFleet(t, h)
					alone.start(1)
					alone.steps(1, 6)
					want := alone.state()

					h.wrap = wrap
					f := newFleet(t, h)
					f.start(3)
					f.steps(1, 2)
					f.next([]int{1}, 0) // one dies: two are left
					f.steps(3, 3)
					f.next(nil, 2) // two join: four
					f.steps(4, 4)
					f.next([]int{0, 2}, 0) // two that are not buddies die
					f.steps(5, 5)
					f.next([]int{1}, 0) // one is left
					f.steps(6, 6)
					if got := f.state(); got != want {
						t.Error("the state differs from that of one rank that nothing happened to")
					}
					// A sum that is a little too large changes the clip factor, but seldom its rounding: the state may hide it.
					if got, want := strings.Join(f.sums, "\n"), strings.Join(alone.sums, "\n"); got != want {
						t.Errorf("the steps' sums are\n%s\nof one rank that nothing happened to\n%s", got, want)
					}
				})
			}
		}
	}
}

// A step that one survivor knows to be committed is completed by the others, and in the dead rank's replica.
func TestACommittedStepIsCompletedByThoseWhoDidNotKnow(t *testing.T) {
	h := tiny()
	h.steps = 3
	alone := newFleet(t, h)
	alone.start(1)
	alone.steps(1, 3)
	want := alone.state()
	for knows := range 4 {
		for dead := range 4 {
			if dead == knows {
				continue
			}
			f := newFleet(t, h)
			f.start(4)
			f.steps(1, 1)
			c := f.reduce(2)
			// Only one rank applies the step; another dies.
			f.update(knows, c)
			f.next([]int{dead}, 1)
			f.steps(3, 3)
			if f.state() != want {
				t.Errorf("rank %d knew of the commit and rank %d died: another state", knows, dead)
			}
		}
	}
}

// update applies a committed step at one rank alone: at stage 3 that is local.
func (f *fleet) update(rank int, c train.Commit) {
	f.t.Helper()
	if _, err := f.ranks[rank].Update(context.Background(), c); err != nil {
		f.t.Fatal(err)
	}
}

// A survivor that commits a step after its report would give a later state than the plan was made from: two steps in one state,
// which no digest finds, since shard and replica come from the same place. It is refused where it is to take part.
func TestWhoAdvancesAfterItsReportIsRefused(t *testing.T) {
	f := newFleet(t, tiny())
	f.start(3)
	f.steps(1, 1)
	c := f.reduce(2)
	reported := train.Handover{World: 3, Step: f.ranks[0].Step(), OptimizerStep: f.ranks[0].OptimizerStep(), Records: f.ranks[0].LastRecords(),
		Holders: []train.Holder{{Rank: 0}, {Rank: 1}, {Rank: 2}}}
	f.update(1, c)
	old := f.ranks
	for r, x := range old {
		f.groups[r].Close()
		if err := x.Retire(t.Context()); err != nil {
			t.Fatal(err)
		}
		defer x.Close()
		err := x.Complete(reported.Step, reported.Records)
		if wrong := "rank 1 of 3 is at step 2"; (err != nil) != (r == 1) || err != nil && !strings.Contains(err.Error(), wrong) {
			t.Errorf("rank %d completes step 1: %v, want of rank 1 alone that %s", r, err, wrong)
		}
	}
	f.form(3)
	ended, end := context.WithCancel(t.Context()) // nothing is waited for
	end()
	_, err := f.ranks[1].TakeOver(ended, old[1], reported)
	if wrong := "rank 1 of 3 has it at step 2"; err == nil || !strings.Contains(err.Error(), wrong) {
		t.Errorf("rank 1 takes part: %v, want that %s", err, wrong)
	}
}

// The digests find a replica that is not what its owner has.
func TestADifferentReplicaIsNamed(t *testing.T) {
	h := tiny()
	f := newFleet(t, h)
	f.start(3)
	c := f.reduce(1)
	for _, r := range []int{0, 2} { // rank 1 misses the update, and with it rank 0's replica
		f.update(r, c)
	}
	errs := make([]error, 3)
	var wg sync.WaitGroup
	for r, tr := range f.ranks {
		wg.Go(func() { errs[r] = tr.CheckReplicas(context.Background()) })
	}
	wg.Wait()
	for r, err := range errs {
		if err == nil || !strings.Contains(err.Error(), "replica of rank 0 differs") {
			t.Errorf("rank %d: %v, want that the replica of rank 0 differs", r, err)
		}
	}
}
