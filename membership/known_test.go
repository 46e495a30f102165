package membership

import (
	"testing"

	zerofleetv1 "github.com/zerofleet/zerofleet/proto/zerofleet/v1"
)

// A session tells of the newest generation and of the settled one, which may be an older one, whatever it has heard first.
func TestASessionKnowsTheSettledGeneration(t *testing.T) {
	s := &Session{changed: make(chan struct{}), memory: newMemory(&zerofleetv1.RegisterRequest{Id: "0"})}
	generation := func(n uint64) *zerofleetv1.WatchResponse {
		return &zerofleetv1.WatchResponse{Change: &zerofleetv1.WatchResponse_Generation{Generation: Generation{Number: n, Why: "so"}.Proto()}}
	}
	mark := func(settled, over uint64) *zerofleetv1.WatchResponse {
		return &zerofleetv1.WatchResponse{Change: &zerofleetv1.WatchResponse_Mark{Mark: Mark{Settled: settled, Over: over}.Proto()}}
	}
	for i, c := range []struct {
		sees            *zerofleetv1.WatchResponse
		newest, settled uint64 // the generations whose records it can tell
	}{
		{generation(1), 1, 0},
		{mark(1, 0), 1, 1},
		{mark(1, 1), 1, 1},
		{generation(2), 2, 1},
		{generation(3), 3, 1}, // and hears only then that 2 had been settled
		{mark(2, 2), 3, 2},
		{generation(5), 5, 2}, // 4 came to nothing
		{mark(5, 4), 5, 5},
		{generation(3), 5, 5}, // after a reconnect
	} {
		s.see(c.sees)
		k := KnownFromProto(s.known())
		if k.Generation.Number != c.newest || k.Settled.Number != c.settled || k.Generation.Number > 0 && k.Generation.Why != "so" {
			t.Errorf("message %d: tells of generation %d and settled %d, want %d and %d", i, k.Generation.Number, k.Settled.Number, c.newest, c.settled)
		}
	}
	if len(s.memory.seen) > 1 {
		t.Errorf("it remembers %d generations, of which one is of use", len(s.memory.seen))
	}
}
