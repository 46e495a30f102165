package train

import (
	"slices"
	"testing"
	"time"

	"github.com/zerofleet/zerofleet/collective"
)

// A wait counts once, as exposed, and a rank is late for as long as this one stood waiting for it: not for what it hid, and not
// for what the transfer took after it had come.
func TestClock(t *testing.T) {
	at := func(seconds int) time.Time { return time.Unix(1000, 0).Add(time.Duration(seconds) * time.Second) }
	arrived := func(rank, seconds int) collective.Record {
		return collective.Record{Posted: at(0), Last: rank, Arrived: at(seconds), Ended: at(seconds + 1)}
	}
	for _, c := range []struct {
		name         string
		record       collective.Record
		began, ended int
		exposed      int
		late         [3]int
	}{
		{"it came while this rank waited", arrived(2, 13), 10, 15, 5, [3]int{0, 0, 3}},
		{"it came while this rank computed", arrived(2, 8), 10, 15, 5, [3]int{}},
		{"this rank was the last", collective.Record{Posted: at(0), Ended: at(12)}, 10, 12, 2, [3]int{}},
		{"nothing is known of it", collective.Record{}, 10, 12, 2, [3]int{}},
		{"it came when all was over", arrived(1, 20), 10, 12, 2, [3]int{0, 2, 0}},
	} {
		var k clock
		k.start(3, false)
		k.updated("update", mark{at: at(9)}, at(10))
		since := mark{at: at(10)}
		k.waited(c.record, at(c.began), at(c.ended))
		k.updated("publish", since, at(c.ended+4))
		got := k.timeline(100*time.Second, 20*time.Second)
		want := Timeline{Exposed: time.Duration(c.exposed) * time.Second, Update: 5 * time.Second, Checkpoint: 20 * time.Second,
			Compute: time.Duration(75-c.exposed) * time.Second}
		for _, s := range c.late {
			want.Late = append(want.Late, time.Duration(s)*time.Second)
		}
		if got.Exposed != want.Exposed || got.Update != want.Update || got.Checkpoint != want.Checkpoint || got.Compute != want.Compute || !slices.Equal(got.Late, want.Late) {
			t.Errorf("%s: got %+v, want %+v", c.name, got, want)
		}
	}
}

func TestSampled(t *testing.T) {
	var got []int64
	for step := int64(1); step <= 160; step++ {
		if sampled(step) {
			got = append(got, step)
		}
	}
	if want := []int64{2, 4, 8, 16, 32, 50, 64, 100, 128, 150}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
