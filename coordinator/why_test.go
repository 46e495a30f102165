package coordinator

import (
	"math"
	"strings"
	"testing"
	"time"

	zerofleetv1 "github.com/zerofleet/zerofleet/proto/zerofleet/v1"
)

// fleet is the status of a run with so many workers, worker i of rank i.
func fleet(state string, n int) *Status {
	s := &Status{Job: "job", RunDir: "runs/job", State: state}
	for i := range n {
		s.Workers = append(s.Workers, &zerofleetv1.WorkerStatus{Id: string(rune('a' + i)), Rank: int32(i), Pid: int64(100 + i), Host: "host",
			Phase: zerofleetv1.Phase_PHASE_TRAINING})
	}
	return s
}

// waitsFor has a rank wait for others at an operation.
func waitsFor(s *Status, rank int, operation string, waited time.Duration, what string, others ...int) {
	stall := &zerofleetv1.Stall{Operation: operation, WaitedNanos: int64(waited)}
	for _, o := range others {
		stall.Causes = append(stall.Causes, &zerofleetv1.StallCause{Rank: uint32(o), Worker: string(rune('a' + o)), What: what, SilentNanos: int64(5 * time.Second)})
	}
	s.Workers[rank].Stall = stall
}

// took gives a worker's newest steps: their number, one's time, the share of it that was exposed, and the share that went by
// until other ranks had arrived.
func took(s *Status, rank int, steps uint32, second, exposed float64, late map[int]float64) {
	total := float64(steps) * second
	t := &zerofleetv1.StepTimes{Steps: steps, Seconds: map[string]float64{"compute": total * (1 - exposed), "exposed_communication": total * exposed}, WaitedFor: map[string]float64{}}
	for r, share := range late {
		t.WaitedFor[string(rune('a'+r))] = total * share
	}
	s.Workers[rank].Times = t
}

func TestExplain(t *testing.T) {
	const gather, reduce = "all-gather #41 block.3 [8192 f32]", "reduce-scatter #40 block.4 of leaves 0 to 3 [8192 f32]"
	const notArrived = "has not arrived at"
	for _, c := range []struct {
		name   string
		status func() *Status
		events []eventJSON
		steps  []stepJSON
		want   []string // lines, whole or their beginning and end around "..."
	}{
		{"a rank is stopped", func() *Status {
			s := fleet("training", 4)
			for _, r := range []int{3, 0, 1} {
				waitsFor(s, r, gather, time.Duration(10+r)*time.Second, notArrived, 2)
			}
			s.Workers[2].SilentNanos = int64(11 * time.Second)
			return s
		}, nil, nil, []string{"job: training",
			"rank 2 (worker c, process 102 on host) has not arrived at " + gather + " for 13 s: it was last heard of 11 s ago; ranks 0, 1, 3 wait for it"}},
		{"who waits is no cause", func() *Status {
			s := fleet("training", 3)
			waitsFor(s, 0, gather, 3*time.Second, notArrived, 1, 2)
			waitsFor(s, 1, reduce, 4*time.Second, "does not finish its part of", 2)
			return s
		}, nil, nil, []string{"job: training",
			"rank 2 (worker c, process 102 on host) does not finish its part of " + reduce + " for 4.0 s: it was last heard of 5.0 s ago; ranks 0, 1 wait for it"}},
		{"two wait for each other", func() *Status {
			s := fleet("training", 2)
			waitsFor(s, 0, gather, 3*time.Second, notArrived, 1)
			waitsFor(s, 1, reduce, 2*time.Second, notArrived, 0)
			return s
		}, nil, nil, []string{"job: training",
			"rank 1 (worker b, process 101 on host) has not arrived at " + gather + "...rank 0 waits for it",
			"rank 0 (worker a, process 100 on host) has not arrived at " + reduce + "...rank 1 waits for it"}},
		{"a straggler", func() *Status {
			s := fleet("training", 3)
			took(s, 0, 20, 2, 0.5, map[int]float64{1: 0.4, 2: 0.02})
			took(s, 1, 20, 2, 0.0, nil)
			took(s, 2, 20, 2, 0.4, map[int]float64{1: 0.3})
			return s
		}, nil, nil, []string{"job: training",
			"a step takes 2.000 s: 70 % computing, 30 % waiting for other workers...",
			"rank 1 (worker b, process 101 on host) holds the others up: they wait for it to arrive for 35 % of each step"}},
		{"no straggler", func() *Status {
			s := fleet("training", 2)
			took(s, 0, 5, 1, 0.1, map[int]float64{1: 0.04})
			took(s, 1, 5, 1, 0.1, map[int]float64{0: 0.049})
			return s
		}, nil, nil, []string{"job: training", "a step takes 1.000 s: 90 % computing...", "nobody waits for a worker that is late, and nothing has gone wrong"}},
		{"all are apart", func() *Status {
			s := fleet("training", 2)
			took(s, 0, 5, 1, 0.5, map[int]float64{1: 0.3})
			took(s, 1, 5, 1, 0.5, map[int]float64{0: 0.16})
			return s
		}, nil, nil, []string{"job: training", "a step takes 1.000 s: 50 % computing...", "nobody waits for a worker that is late, and nothing has gone wrong"}},
		{"nothing is left but the record", func() *Status { return fleet("ended", 2) }, nil, []stepJSON{
			{Step: 1, Generation: 1, Worker: "a", Seconds: map[string]float64{"compute": 1}, WaitedFor: map[string]float64{"b": 1}},
			{Step: 2, Generation: 2, Worker: "a", Seconds: map[string]float64{"compute": 1, "exposed_communication": 3}, WaitedFor: map[string]float64{"b": 2}},
		}, []string{"job: ended", "a step takes 4.000 s: 25 % computing, 75 % waiting...", "rank 1 (worker b, process 101 on host) holds the others up...for 50 % of each step"}},
		{"one loads", func() *Status {
			s := fleet("loading", 3)
			s.Workers[1].Phase, s.Workers[2].Phase, s.Workers[2].Rank = zerofleetv1.Phase_PHASE_LOADING, zerofleetv1.Phase_PHASE_LOADING, -1
			return s
		}, nil, nil, []string{"job: loading", "rank 1 (worker b, process 101 on host) is loading"}},
		{"suspended", func() *Status {
			s := fleet("suspended", 0)
			s.Message = "1 of 2 workers"
			return s
		}, []eventJSON{
			{Type: "worker_joined", What: "worker a joined"},
			{Type: "worker_removed", What: "worker b is removed", Why: "it does not answer"},
			{Type: "generation_over", What: "generation 1 is over", Why: "worker b is gone", Fields: map[string]string{"stalled": "rank 1 has not arrived"}},
		}, nil, []string{"job: suspended: 1 of 2 workers",
			"0001-01-01T00:00:00Z  worker b is removed: it does not answer",
			"0001-01-01T00:00:00Z  generation 1 is over: worker b is gone; at its end rank 1 has not arrived"}},
		{"failed", func() *Status {
			s := fleet("failed", 1)
			s.Message = "step 7: loss is NaN"
			s.CheckpointFailing = "of step 6: disk full"
			return s
		}, nil, nil, []string{"job: failed: step 7: loss is NaN", "no newer checkpoint: of step 6: disk full"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := explain(c.status(), c.events, c.steps).Lines
			if len(got) != len(c.want) {
				t.Fatalf("got %d lines, want %d:\n%s", len(got), len(c.want), strings.Join(got, "\n"))
			}
			for i, want := range c.want {
				head, tail, part := strings.Cut(want, "...")
				if !part && got[i] != want || !strings.HasPrefix(got[i], head) || !strings.HasSuffix(got[i], tail) {
					t.Errorf("line %d:\n got %s\nwant %s", i, got[i], want)
				}
			}
		})
	}
}

func TestStepWindow(t *testing.T) {
	var w stepWindow
	if w.sum() != nil {
		t.Error("no steps have a sum")
	}
	add := func(step, generation uint64) {
		w.add(&zerofleetv1.StepLine{Step: step, Generation: generation, Seconds: map[string]float64{"compute": float64(step)}, WaitedFor: map[string]float64{"b": 1}})
	}
	for step := uint64(1); step <= windowSteps+5; step++ {
		add(step, 1)
		add(step, 1) // reports come at least once
	}
	sum := w.sum()
	if want := float64(windowSteps) * (5.5 + windowSteps/2); sum.GetSteps() != windowSteps || math.Abs(sum.GetSeconds()["compute"]-want) > 1e-9 || sum.GetWaitedFor()["b"] != windowSteps {
		t.Errorf("got %v, want %d steps of %g s", sum, windowSteps, want)
	}
	add(3, 2)
	if sum := w.sum(); sum.GetSteps() != 1 || sum.GetSeconds()["compute"] != 3 {
		t.Errorf("got %v, want the new generation's one step", sum)
	}
}
