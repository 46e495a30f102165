package coordinator

import (
	"math"
	"testing"
	"time"

	"github.com/zerofleet/zerofleet/membership"
	"github.com/zerofleet/zerofleet/membership/store"
	zerofleetv1 "github.com/zerofleet/zerofleet/proto/zerofleet/v1"
)

// Ten steps of one second by two workers, with six seconds lost after the fifth, then by one.
func TestAccount(t *testing.T) {
	a := account{after: 3}
	at := noon
	a.step(stepJSON{Step: 90, Generation: 3, Time: at.Add(-time.Hour), Tokens: 100, TokensPerSecond: 100, WorldSize: 8}) // another run's
	for step := range uint64(10) {
		if at = at.Add(time.Second); step == 5 {
			at = at.Add(6 * time.Second)
		}
		world := uint32(2)
		if step >= 5 {
			world = 1
		}
		a.step(stepJSON{Step: 91 + step, Generation: 4, Time: at, Tokens: 100, TokensPerSecond: 100, WorldSize: world})
	}
	var l zerofleetv1.Losses
	a.fill(&l, store.Run{Price: 1, OnDemandPrice: 4})
	hours := (5*2 + 7 + 4) / 3600.
	for what, c := range map[string][2]float64{
		"goodput": {l.Goodput, 10. / 16}, "lost seconds": {l.LostSeconds, 6}, "worker hours": {l.WorkerHours, hours},
		"spent": {l.Spent, hours}, "saved": {l.Saved, hours * (10./16*4 - 1)},
	} {
		if math.Abs(c[0]-c[1]) > 1e-9 {
			t.Errorf("%s: got %g, want %g", what, c[0], c[1])
		}
	}
}

// Clocks of two machines that differ take nothing away.
func TestAccountOfClocksThatDiffer(t *testing.T) {
	a := account{}
	for _, ahead := range []time.Duration{0, time.Hour, -time.Hour} {
		a.step(stepJSON{Generation: 1, Time: noon.Add(ahead), Tokens: 1, TokensPerSecond: 1, WorldSize: 1})
	}
	var l zerofleetv1.Losses
	a.fill(&l, store.Run{})
	if l.Goodput <= 0 || l.Goodput > 1 || l.LostSeconds < 0 || l.Spent != 0 {
		t.Errorf("got %v", &l)
	}
}

func TestRedone(t *testing.T) {
	promise := func(generation uint64, step int64, open int) map[string]membership.Promise {
		return map[string]membership.Promise{"0": {Generation: generation, OpenLeaves: open, Held: []membership.Held{{Step: step}}}}
	}
	for _, c := range []struct {
		what       string
		promises   map[string]membership.Promise
		step, told int64
		want       int64
	}{
		{"at a boundary", promise(1, 7, 0), 7, 7, 0},
		{"in the middle of step 8", promise(1, 7, 2), 7, 7, 1},
		{"in the middle of step 8, which another had committed", promise(1, 7, 2), 8, 7, 0},
		{"told of by the dead alone", promise(1, 7, 2), 7, 8, 1},
		{"back to a checkpoint", promise(1, 7, 1), 5, 7, 3},
		{"a promise of a generation before", promise(0, 7, 2), 7, 7, 0},
	} {
		if got := redone(c.promises, 2, c.step, c.told); got != c.want {
			t.Errorf("%s: got %d, want %d", c.what, got, c.want)
		}
	}
}
