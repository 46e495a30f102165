package coordinator

import (
	"fmt"
	"testing"
	"time"

	"github.com/zerofleet/zerofleet/membership"
	"github.com/zerofleet/zerofleet/membership/store"
)

var noon = time.Date(2030, 1, 2, 12, 0, 0, 0, time.UTC)

// running is a situation in which workers 0 to n-1 train in generation 1.
func running(n int) situation {
	s := situation{now: noon, missing: map[string]time.Time{}, View: store.View{
		Run: store.Run{Min: 1, Max: n, Replicas: 1}, Workers: map[string]store.Worker{}, Registrations: map[string]store.Worker{},
		Processes: map[string]store.Process{}, States: map[string]store.State{}, Finished: map[string]store.Finished{},
		Promises: map[string]membership.Promise{}, Shares: map[string]store.Share{}, Drains: map[string]membership.Drain{},
		Generation: membership.Generation{Number: 1}, Mark: membership.Mark{Settled: 1},
	}}
	for i := range n {
		id := fmt.Sprint(i)
		w := store.Worker{ID: id, Incarnation: 1, PID: 100 + i, Registered: noon.Add(-time.Hour)}
		s.Workers[id], s.Registrations[id] = w, w
		s.Processes[id] = store.Process{ID: id, PID: w.PID}
		s.States[id] = store.State{Incarnation: 1, Phase: membership.Training}
		s.Generation.Members = append(s.Generation.Members, membership.Member{ID: id, Incarnation: 1, Rank: i})
	}
	s.Settled = s.Generation
	return s
}

// jumps are what the coordinator's clock does between what was written down and now.
var jumps = []time.Duration{-24 * time.Hour, -time.Second, 0, time.Second, 24 * time.Hour}

// A clock that jumps removes nobody whose lease lives, and asks for nothing.
func TestAClockThatJumpsRemovesNobody(t *testing.T) {
	for _, jump := range jumps {
		s := running(3)
		s.now = noon.Add(jump)
		if d := decide(s); d.mark != nil || d.generation != nil || d.outcome != nil || d.reconfigure || len(d.started) > 0 {
			t.Errorf("clock set by %s: %+v", jump, d)
		}
	}
}

// A failure that was written down before the clock was set back is decided about at once, not when the clock is there again.
func TestAFailureIsToldWhateverTheClockDoes(t *testing.T) {
	for _, jump := range jumps {
		s := running(2)
		s.Finished["1"] = store.Finished{Incarnation: 1, Outcome: membership.OutcomeFailed, Message: "no memory", Time: noon}
		s.now = noon.Add(jump)
		d := decide(s)
		if wait := d.again.Sub(s.now); d.outcome == nil && (d.again.IsZero() || wait > settleTime) {
			t.Errorf("clock set by %s: waits %s to tell a failure", jump, wait)
		}
		if jump != 0 && (d.outcome == nil || d.culprit != "1") {
			t.Errorf("clock set by %s: %+v, want the failure of worker 1", jump, d)
		}
	}
}

// A coordinator that hears of nobody removes nobody: it may be what is cut off. When one is heard of the others are gone.
func TestACoordinatorThatIsCutOffRemovesNobody(t *testing.T) {
	s := running(2)
	for _, m := range s.Generation.Members {
		s.missing[m.ID] = noon.Add(-time.Hour)
		delete(s.Workers, m.ID)
	}
	if d := decide(s); !d.unheard || d.mark != nil || d.outcome != nil || d.generation != nil {
		t.Errorf("nobody is heard of: %+v", d)
	}
	s.missing["1"] = noon.Add(-time.Second) // its lease ended later
	if d := decide(s); !d.unheard {
		t.Errorf("nobody is heard of, of one not for long: %+v", d)
	}
	s.missing["1"] = noon.Add(-time.Hour)
	s.Workers["0"] = s.Registrations["0"]
	delete(s.missing, "0")
	if d := decide(s); d.mark == nil || d.mark.Over != 1 {
		t.Errorf("one is heard of: %+v, want that the generation is over", d)
	}
	delete(s.Workers, "0")
	s.missing["0"] = noon
	s.Processes["1"] = store.Process{ID: "1", Exited: true, Status: "killed by SIGKILL", Time: noon.Add(-time.Minute)}
	if d := decide(s); d.unheard || d.mark == nil {
		t.Errorf("one is known to be dead: %+v, want that the generation is over", d)
	}
}

// A job that stops asks for no other members meanwhile: the one would be asked for in place of the other, for ever.
func TestAStoppingRunIsNotReconfigured(t *testing.T) {
	s := running(2)
	s.Run.Max = 3
	w := store.Worker{ID: "2", Incarnation: 1, Registered: noon}
	s.Workers["2"], s.Registrations["2"], s.Processes["2"] = w, w, store.Process{ID: "2"}
	s.States["2"] = store.State{Incarnation: 1, Phase: membership.Waiting}
	if d := decide(s); !d.reconfigure {
		t.Fatalf("with a worker that waits: %+v, want that it is taken in", d)
	}
	s.Instruction = membership.Instruction{Sequence: 9, Kind: membership.Stop}
	s.interrupts = 1
	if d := decide(s); d.reconfigure || d.stop != "" {
		t.Errorf("while it stops: %+v, want nothing", d)
	}
}
