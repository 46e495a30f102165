package model

import (
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/zerofleet/zerofleet/membership"
)

// raced says that the race detector is on. The model has one goroutine, so that the larger worlds only cost time then.
var raced bool

// explore checks one world, and says what it took.
func explore(t *testing.T, w World, f Fault) (Result, error) {
	t.Helper()
	began := time.Now()
	r, err := Check(w, f, 0)
	t.Logf("%s: %d states, %d views of the coordinator, %d generations, %.2f s", w, r.States, r.Plans, r.Generations, time.Since(began).Seconds())
	return r, err
}

// Whatever dies and whenever: no committed step is lost unless a rank and its buddy are, copies end at the same step,
// nobody runs before a generation is settled, and there is always something left to do until all run or are too few.
func TestNothingIsLost(t *testing.T) {
	for _, c := range []struct {
		World
		restored, suspended bool // some history goes back to an older step; some is suspended
		large               bool
	}{
		{World: World{Workers: 2, Crashes: 1}},
		{World: World{Workers: 2, Crashes: 2}, suspended: true},
		{World: World{Workers: 3, Crashes: 1}},
		{World: World{Workers: 3, Crashes: 2}, restored: true},
		{World: World{Workers: 3, Crashes: 3}, restored: true, suspended: true, large: true},
		{World: World{Workers: 4, Crashes: 1}},
		{World: World{Workers: 4, Crashes: 2}, restored: true, large: true},
		{World: World{Workers: 3, Crashes: 1, Steps: 2}},
		{World: World{Workers: 3, Crashes: 2, Min: 2}, suspended: true},
		{World: World{Workers: 3, Crashes: 1, Stalls: 1}, large: true},
		// Joiners: in the place of one that died, at a boundary, and as the next life of one.
		{World: World{Workers: 1, Joiners: 1, Crashes: 1, Grow: true}, restored: true, suspended: true},
		{World: World{Workers: 2, Joiners: 1, Crashes: 1}},
		{World: World{Workers: 2, Joiners: 1, Crashes: 1, Min: 2}, suspended: true},
		{World: World{Workers: 2, Joiners: 1, Crashes: 1, Grow: true}},
		{World: World{Workers: 2, Joiners: 1, Crashes: 2, Grow: true}, restored: true, suspended: true, large: true},
		{World: World{Workers: 2, Joiners: 1, Crashes: 2, Rejoin: true}, restored: true, suspended: true},
		{World: World{Workers: 3, Joiners: 1, Crashes: 1, Rejoin: true}},
		// A job that may use fewer workers. What a rank that leaves had is in one place until the next generation is settled.
		{World: World{Workers: 2, Crashes: 1, Shrink: 1}, suspended: true},
		{World: World{Workers: 3, Crashes: 1, Shrink: 1}},
		{World: World{Workers: 3, Crashes: 1, Shrink: 2}, suspended: true},
		{World: World{Workers: 4, Crashes: 1, Shrink: 2}, large: true},
		{World: World{Workers: 3, Shrink: 1, Lonely: true}},
		{World: World{Workers: 3, Crashes: 1, Shrink: 1, Lonely: true}, restored: true},
		// A job that waits: what is in memory is in a checkpoint first.
		{World: World{Workers: 2, Crashes: 1, Pause: true}, suspended: true},
		{World: World{Workers: 3, Crashes: 1, Pause: true}, suspended: true},
		{World: World{Workers: 3, Crashes: 2, Pause: true}, restored: true, suspended: true, large: true},
		{World: World{Workers: 3, Crashes: 1, Pause: true, Min: 3, Joiners: 1, Rejoin: true}, suspended: true, large: true},
		{World: World{Workers: 2, Crashes: 1, Stalls: 1, Pause: true, Min: 2}, suspended: true},
		{World: World{Workers: 3, Pause: true, Whole: true, Crashes: 1}, suspended: true},
		{World: World{Workers: 3, Crashes: 1, Shrink: 1, Whole: true}},
		{World: World{Workers: 3, Crashes: 2, Whole: true}},
		{World: World{Workers: 3, Crashes: 1, Lonely: true}, restored: true},
	} {
		t.Run(c.String(), func(t *testing.T) {
			if c.large && (raced || testing.Short()) {
				t.Skip("a large world")
			}
			r, err := explore(t, c.World, Fault{})
			if err != nil {
				t.Fatal(err)
			}
			if r.Restored != c.restored || r.Suspended != c.suspended {
				t.Errorf("got restored %v, suspended %v, want %v, %v", r.Restored, r.Suspended, c.restored, c.suspended)
			}
		})
	}
}

// Worlds that take minutes: ZEROFLEET_MODEL=big.
func TestNothingIsLostInLargeWorlds(t *testing.T) {
	if os.Getenv("ZEROFLEET_MODEL") != "big" {
		t.Skip("set ZEROFLEET_MODEL=big")
	}
	for _, w := range []World{
		{Workers: 3, Joiners: 1, Crashes: 1, Grow: true},
		{Workers: 3, Crashes: 2, Steps: 2},
		{Workers: 3, Crashes: 2, Shrink: 2},
		{Workers: 4, Crashes: 1, Stalls: 1},
		{Workers: 4, Crashes: 2, Whole: true},
		{Workers: 5, Crashes: 1},
		{Workers: 4, Crashes: 3},
		{Workers: 5, Crashes: 2},
	} {
		t.Run(w.String(), func(t *testing.T) {
			if _, err := explore(t, w, Fault{}); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// A rank sends its record when it has its ward's gradient and its own is with its buddy. Of the two one is enough: a
// commit needs the records of all, and when each says the one, each could say the other.
func TestOneOfReceiptAndWardsGradientIsEnough(t *testing.T) {
	for _, f := range []Fault{{NoReceipt: true}, {NoWard: true}} {
		if _, err := explore(t, World{Workers: 3, Crashes: 2}, f); err != nil {
			t.Errorf("%+v: %v", f, err)
		}
	}
}

// altered is the planner with a mistake in its answer.
func altered(change func(v membership.View, ready bool, g *membership.Generation)) func(membership.View, bool) membership.Decision {
	return func(v membership.View, ready bool) membership.Decision {
		d := membership.Next(v, time.Time{})
		if d.Next != nil && d.Next.Handover != nil {
			change(v, ready, d.Next)
		}
		return d
	}
}

func TestPlantedMistakesAreFound(t *testing.T) {
	three := World{Workers: 3, Crashes: 1}
	for _, c := range []struct {
		name string
		World
		Fault
		want string
	}{
		{"a record without the gradient in two places", three, Fault{NoReceipt: true, NoWard: true}, "its ward's"},
		{"a write before the commit", three, Fault{Early: true}, "step"},
		{"old state freed before the mark", World{Workers: 3, Crashes: 1, Stalls: 1}, Fault{FreeEarly: true}, "though no rank of generation"},
		{"a run before the mark", three, Fault{RunEarly: true}, "which is not settled"},
		{"completed without a record", three, Fault{Plan: altered(func(v membership.View, ready bool, g *membership.Generation) {
			if h := g.Handover; ready && len(h.Records) == 0 {
				h.Step++
				h.OptimizerStep++
				h.Cursor.Sample++
				h.Records = [][]byte{{byte(h.Step)}}
			}
		})}, "gradient or its ward's is not whole"},
		{"planned from what is not settled", World{Workers: 3, Crashes: 2}, Fault{Plan: func(v membership.View, _ bool) membership.Decision {
			v.Mark.Settled, v.Settled = v.Current.Number, v.Current
			return membership.Next(v, time.Time{})
		}}, "and 1 is the settled one"},
		{"an owner in the place of a replica", three, Fault{Plan: altered(func(_ membership.View, _ bool, g *membership.Generation) {
			for i := range g.Handover.Holders {
				g.Handover.Holders[i].Replica = false
			}
		})}, "said to hold"},
		{"a joiner as the holder", World{Workers: 2, Joiners: 1, Crashes: 1}, Fault{Plan: altered(func(_ membership.View, _ bool, g *membership.Generation) {
			for i := range g.Handover.Holders {
				if g.Handover.Holders[i].Replica {
					g.Handover.Holders[i] = membership.Holder{Rank: len(g.Members) - 1}
				}
			}
		})}, "said to hold"},
		{"no replica at all", three, Fault{Plan: func(v membership.View, _ bool) membership.Decision {
			v.Replicas = 0
			return membership.Next(v, time.Time{})
		}}, "though no rank of generation"},
		{"the first report in the place of the newest", three, Fault{Plan: altered(func(v membership.View, _ bool, g *membership.Generation) {
			first := v.Promises[g.Members[0].ID].Held[0]
			g.Handover.Step, g.Handover.OptimizerStep, g.Handover.Records, g.Handover.Cursor = first.Step, first.OptimizerStep, first.Records, first.Cursor
		})}, "is at step"},
		{"no records in the handover", three, Fault{Plan: altered(func(_ membership.View, _ bool, g *membership.Generation) {
			g.Handover.Records = nil
		})}, "0 records"},
		{"the silent taken for dead", three, Fault{Plan: func(v membership.View, _ bool) membership.Decision {
			if len(v.Gone) > 0 {
				for _, x := range v.Current.Members {
					if _, ok := v.Promises[x.ID]; !ok {
						v.Gone[x.ID] = "silent"
					}
				}
			}
			return membership.Next(v, time.Time{})
		}}, "without the promise"},
		{"the newest step of those that stay alone", World{Workers: 3, Shrink: 1}, Fault{Plan: altered(func(v membership.View, _ bool, g *membership.Generation) {
			h := g.Handover
			h.Step = -1
			for _, x := range g.Members {
				for _, k := range v.Promises[x.ID].Held {
					if k.Generation == h.Settled && k.Step > h.Step {
						h.Step, h.OptimizerStep, h.Records, h.Cursor = k.Step, k.OptimizerStep, k.Records, k.Cursor
					}
				}
			}
		})}, "has committed step"},
		{"a state freed before its checkpoint", World{Workers: 2, Crashes: 1, Pause: true}, Fault{ReleaseEarly: true}, "has freed its state"},
		{"a job that waits without a checkpoint", World{Workers: 2, Pause: true}, Fault{Plan: func(v membership.View, _ bool) membership.Decision {
			d := membership.Next(v, time.Time{})
			if d.Next != nil && d.Next.Save {
				return membership.Decision{Suspended: true}
			}
			return d
		}}, "is in no checkpoint"},
		{"a leaver that is forgotten", World{Workers: 3, Crashes: 1, Shrink: 1}, Fault{Plan: func(v membership.View, _ bool) membership.Decision {
			v.Workers = slices.DeleteFunc(slices.Clone(v.Workers), func(c membership.Candidate) bool {
				_, member := v.Current.Rank(c.ID, c.Incarnation)
				return !member && !c.Ready
			})
			return membership.Next(v, time.Time{})
		}}, "though no rank of generation"},
		{"the generation is never over", World{Workers: 3, Crashes: 2}, Fault{Plan: func(v membership.View, _ bool) membership.Decision {
			d := membership.Next(v, time.Time{})
			d.Over = false
			return d
		}}, "nothing more can happen"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := explore(t, c.World, c.Fault)
			var v *Violation
			if !errors.As(err, &v) {
				t.Fatalf("got %v, want a violation", err)
			}
			if !strings.Contains(v.Wrong, c.want) {
				t.Errorf("got %q, want it to say %q", v.Wrong, c.want)
			}
			if len(v.History) == 0 {
				t.Error("no history")
			}
			t.Log(v)
		})
	}
}
