package train_test

import (
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/zerofleet/zerofleet/shard"
	"github.com/zerofleet/zerofleet/train"
)

// The parts of every step add up to it, and what took time is in one of them.
func TestTimelineAddsUp(t *testing.T) {
	for _, stage := range []shard.Stage{shard.Replicated, shard.Gradients, shard.Parameters} {
		h := tiny()
		h.stage, h.world, h.steps = stage, 2, 5
		for _, r := range h.play(t).reports {
			if sum := r.Data + r.Compute + r.Exposed + r.Update + r.Checkpoint; sum != r.Elapsed {
				t.Errorf("%s: step %d: the parts of %+v add up to %s, want %s", h, r.Step, r.Timeline, sum, r.Elapsed)
			}
			if r.Data <= 0 || r.Compute <= 0 || r.Exposed <= 0 || r.Update <= 0 {
				t.Errorf("%s: step %d: %+v has a part without time", h, r.Step, r.Timeline)
			}
			var late time.Duration
			for _, d := range r.Late {
				late += d
			}
			if len(r.Late) != 2 || r.Late[0] != 0 || late > r.Exposed {
				t.Errorf("%s: step %d: rank 0 waited %v for ranks to arrive, of %s in all, want none for itself", h, r.Step, r.Late, r.Exposed)
			}
		}
	}
}

// What a sampled step did lies within it, and in the lane of computing one thing ends before the next begins, or is within it.
func TestSpansNest(t *testing.T) {
	h := tiny()
	h.world, h.steps = 2, 5
	var mu sync.Mutex
	got := map[int64][][]train.Span{}
	h.traced = func(_ int, step int64, spans []train.Span) {
		mu.Lock()
		defer mu.Unlock()
		got[step] = append(got[step], spans)
	}
	h.play(t)
	if steps := slices.Sorted(maps.Keys(got)); !slices.Equal(steps, []int64{2, 4}) {
		t.Fatalf("steps %v were sampled, want 2 and 4", steps)
	}
	for step, ranks := range got {
		if len(ranks) != h.world {
			t.Errorf("step %d was sampled by %d ranks, want %d", step, len(ranks), h.world)
		}
		for _, spans := range ranks {
			wantsNested(t, spans)
			var names []string
			for _, s := range spans {
				names = append(names, s.Name)
			}
			all := strings.Join(names, ", ")
			for _, want := range []string{"forward block.0", "backward block.1", "reduce head", "update", "publish", "data",
				"all-gather block.0", "reduce-scatter block.1", "exchange", "wait for exchange"} {
				if !slices.Contains(names, want) {
					t.Errorf("step %d has no span %q: %s", step, want, all)
				}
			}
		}
	}
}

func wantsNested(t *testing.T, spans []train.Span) {
	t.Helper()
	whole := spans[len(spans)-1]
	if !strings.HasPrefix(whole.Name, "step ") {
		t.Errorf("the last span is %q, want the step", whole.Name)
	}
	var computing []train.Span
	for _, s := range spans {
		if s.Start.Before(whole.Start) || s.End.After(whole.End) || s.End.Before(s.Start) {
			t.Errorf("%q from %s to %s is not within %q from %s to %s", s.Name, s.Start, s.End, whole.Name, whole.Start, whole.End)
		}
		if !s.Collective {
			computing = append(computing, s)
		}
	}
	for i, a := range computing {
		for _, b := range computing[i+1:] {
			apart := !a.End.After(b.Start) || !b.End.After(a.Start)
			within := !a.Start.Before(b.Start) && !a.End.After(b.End) || !b.Start.Before(a.Start) && !b.End.After(a.End)
			if !apart && !within {
				t.Errorf("%q and %q overlap", a.Name, b.Name)
			}
		}
	}
}
