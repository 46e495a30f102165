package shard

import (
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestEveryElementMovesOnceFromItsOldOwnerToItsNewOne(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		elems := rapid.IntRange(0, 20000).Draw(t, "elems")
		from, err := NewLayout(elems, rapid.IntRange(1, 9).Draw(t, "from"))
		if err != nil {
			t.Fatal(err)
		}
		to, err := NewLayout(elems, rapid.IntRange(1, 9).Draw(t, "to"))
		if err != nil {
			t.Fatal(err)
		}
		moves, err := Reshard(from, to)
		if err != nil {
			t.Fatal(err)
		}
		next := 0
		for _, m := range moves {
			if m.Lo != next || m.Hi <= m.Lo {
				t.Fatalf("move %+v: want it to start at %d and not be empty", m, next)
			}
			next = m.Hi
			for what, side := range map[string]struct {
				l Layout
				r int
			}{"source": {from, m.From}, "target": {to, m.To}} {
				if lo, hi := side.l.Owned(side.r); m.Lo < lo || m.Hi > hi {
					t.Fatalf("move %+v: %s rank %d owns [%d,%d)", m, what, side.r, lo, hi)
				}
			}
		}
		if next != elems {
			t.Fatalf("moved %d of %d elements", next, elems)
		}
	})
}

func TestPartsCoverTheUnitInBlocks(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l, err := NewLayout(rapid.IntRange(0, 1<<20).Draw(t, "elems"), rapid.IntRange(1, 64).Draw(t, "world"))
		if err != nil {
			t.Fatal(err)
		}
		owned := 0
		for r := range l.World() {
			lo, hi := l.Part(r)
			if lo%BlockElems != 0 || hi-lo != l.PartElems() {
				t.Fatalf("rank %d: part [%d,%d) of %d", r, lo, hi, l.PartElems())
			}
			lo, hi = l.Owned(r)
			owned += hi - lo
		}
		if owned != l.Elems() {
			t.Fatalf("parts own %d of %d elements", owned, l.Elems())
		}
		if waste := l.PaddedElems() - l.Elems(); waste >= l.World()*BlockElems {
			t.Fatalf("padding %d is a whole quantum", waste)
		}
	})
}

func TestLayoutRefuses(t *testing.T) {
	for _, c := range []struct{ elems, world int }{{-1, 1}, {1, 0}} {
		if _, err := NewLayout(c.elems, c.world); err == nil {
			t.Errorf("NewLayout(%d, %d): want an error", c.elems, c.world)
		}
	}
	a, _ := NewLayout(1, 1)
	b, _ := NewLayout(2, 1)
	if _, err := Reshard(a, b); err == nil {
		t.Error("Reshard of different units: want an error")
	}
}

// The formulas of the ZeRO paper's table, per parameter.
func TestPersistentBytesPerParameter(t *testing.T) {
	for _, c := range []struct {
		stage          Stage
		world          int
		bf16, f32      float64
		mastersAreThem bool
	}{
		{Replicated, 4, 18, 16, true},
		{OptimizerState, 4, 2 + 16.0/4, 4 + 12.0/4, true},
		{Gradients, 2, 2 + 16.0/2, 4 + 12.0/2, true},
		{Parameters, 4, 18.0 / 4, 16.0 / 4, true},
		{Parameters, 1, 18, 16, true},
	} {
		l, err := NewLayout(4*BlockElems*c.world, c.world)
		if err != nil {
			t.Fatal(err)
		}
		per := func(b Bytes) float64 { return float64(b.Total()) / float64(l.Elems()) }
		if got := per(PersistentBytes(l, c.stage, times(2), false)); got != c.bf16 {
			t.Errorf("stage %d world %d bf16: got %v bytes per parameter, want %v", c.stage, c.world, got, c.bf16)
		}
		if got := per(PersistentBytes(l, c.stage, times(4), true)); got != c.f32 {
			t.Errorf("stage %d world %d f32: got %v bytes per parameter, want %v", c.stage, c.world, got, c.f32)
		}
	}
}

func show(actions []Action) string {
	var b strings.Builder
	for _, a := range actions {
		fmt.Fprintf(&b, "%c%d ", a.Do.String()[0], a.Unit)
	}
	return strings.TrimSpace(b.String())
}

func TestScheduleGathersAheadAndKeepsWhatStays(t *testing.T) {
	const (
		whole  = "f0 f1 f2 f3 b4 r4 b3 r3 b2 r2 b1 r1 b0 r0"
		first  = "g0 a0 g1 f0 a1 g2 f1 a2 g3 f2 a3 g4 f3 a4 b4 r4 b3 r3 g1 b2 r2 a1 b1 r1 b0 r0"
		second = "f0 f1 g3 f2 a3 f3 b4 r4 b3 r3 g1 b2 r2 a1 b1 r1 b0 r0"
	)
	for _, c := range []struct {
		name          string
		tied          bool
		stage         Stage
		first, second string
	}{
		{"stage 2 gathers nothing", true, Gradients, whole, whole},
		{"stage 3", false, Parameters, first, second},
		{"stage 3, tied: the embedding is still there for the head", true, Parameters, first, second},
	} {
		s := NewSchedule(5, c.tied, c.stage)
		for round, want := range []string{c.first, c.second} {
			if got := show(s.Train()); got != want {
				t.Errorf("%s, round %d:\ngot  %s\nwant %s", c.name, round, got, want)
			}
		}
		s.ParametersChanged()
		if got := show(s.Train()); got != c.first {
			t.Errorf("%s, after an update:\ngot  %s\nwant %s", c.name, got, c.first)
		}
	}
}

// Whatever the model's depth and the history of rounds: a unit is awaited in its slot before it is used, nothing is
// gathered over a unit that computes, and every backward is followed by its reduction.
func TestScheduleNeverComputesWithoutParameters(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		units := rapid.IntRange(2, 12).Draw(t, "units")
		tied := rapid.Bool().Draw(t, "tied")
		s := NewSchedule(units, tied, Parameters)
		ready := map[int]int{} // slot -> unit
		pending := map[int]bool{}
		for range rapid.IntRange(1, 4).Draw(t, "rounds") {
			var acts []Action
			train := rapid.Bool().Draw(t, "train")
			if train {
				acts = s.Train()
			} else {
				acts = s.Evaluate()
			}
			reduced := 0
			for i, a := range acts {
				switch a.Do {
				case Gather:
					delete(ready, s.Slot(a.Unit))
					pending[a.Unit] = true
				case Await:
					if !pending[a.Unit] {
						t.Fatalf("%s: await of unit %d without a gather", show(acts), a.Unit)
					}
					delete(pending, a.Unit)
					ready[s.Slot(a.Unit)] = a.Unit
				case Forward, Backward:
					for _, u := range s.needs(a) {
						if got, ok := ready[s.Slot(u)]; !ok || got != u {
							t.Fatalf("%s: action %d uses unit %d, which is not in its slot", show(acts), i, u)
						}
					}
				case Reduce:
					reduced++
				}
			}
			if train && reduced != units {
				t.Fatalf("reduced %d of %d units", reduced, units)
			}
			if len(pending) != 0 {
				t.Fatalf("%s: gathers never awaited: %v", show(acts), pending)
			}
			if rapid.Bool().Draw(t, "update") {
				s.ParametersChanged()
				clear(ready)
			}
		}
	})
}

func times(width int64) func(int64) int64 { return func(n int64) int64 { return n * width } }
