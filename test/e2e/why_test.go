package e2e_test

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// explanation is what a program reads of coordinator why.
type explanation struct {
	State string `json:"state"`
	Waits []struct {
		Rank      int    `json:"rank"`
		Worker    string `json:"worker"`
		Operation string `json:"operation"`
		Waiting   []int  `json:"waiting_ranks"`
	} `json:"waits"`
	Steps *struct {
		Shares map[string]float64 `json:"shares"`
	} `json:"steps"`
	Lines []string `json:"lines"`
}

func (p *place) why(run string) (x explanation) {
	p.t.Helper()
	e := p.run("why", run, "-o", "json")
	if e.exit != 0 { // its coordinator is starting
		return x
	}
	if err := json.Unmarshal([]byte(e.out), &x); err != nil {
		p.t.Fatalf("%v: %s", err, e.out)
	}
	return x
}

// A worker that stands still is named with the operation that the others wait for it at: while they do, and afterwards, when
// they have gone on without it.
func TestWhyNamesAStoppedWorker(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	c := p.start(launchLong("--workers", "3")...)
	p.awaitStep("runs/job", 3)
	pid := p.pidOf("runs/job", 1)
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	named := regexp.MustCompile(fmt.Sprintf(`rank 1 \(worker 1, process %d on [^)]+\) (has not arrived at|does not (read|finish) its part of) (all-gather|reduce-scatter|exchange|send|recv) #\d+ .*ranks? [02](, 2)? waits? for it`, pid))
	var said []string
	p.await("why to name worker 1", func() bool {
		x := p.why("runs/job")
		said = append(said, strings.Join(x.Lines, "\n"))
		return slices.ContainsFunc(x.Lines, named.MatchString)
	})
	if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	c.wait().wants(t, 0)
	p.wantsHash("runs/job", long)
	p.wantsSteps("runs/job", 1, long)
	p.wantsNothingLeft()
	t.Logf("asked %d times; it said\n%s", len(said), said[len(said)-1])
}

// What has ended is explained from its folder, and every line of metrics says where its step's time went.
func TestWhyOfAnEndedRun(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	p.run("why", "runs/job").wants(t, 2, "runs/job")
	p.run("launch", "job.yaml", "--workers", "2").wants(t, 0)
	p.run("why", "runs/job").wants(t, 0, "job: done", "a step takes ", " % computing, ")
	p.run("why", "runs/job", "-o", "yaml").wants(t, 2, "yaml")
	if x := p.why("runs/job"); x.State != "done" || len(x.Waits) != 0 || x.Steps == nil || x.Steps.Shares["compute"] <= 0 || x.Steps.Shares["exposed_communication"] <= 0 {
		t.Errorf("got %+v, want where the time of a run that is done went", x)
	}
	for _, line := range strings.Split(strings.TrimSpace(p.read("runs/job/metrics.jsonl")), "\n") {
		var step struct {
			Tokens          float64            `json:"tokens"`
			TokensPerSecond float64            `json:"tokens_per_second"`
			Worker          string             `json:"worker"`
			Seconds         map[string]float64 `json:"seconds"`
		}
		if err := json.Unmarshal([]byte(line), &step); err != nil {
			t.Fatal(err)
		}
		var sum float64
		for _, s := range step.Seconds {
			sum += s
		}
		if want := step.Tokens / step.TokensPerSecond; len(step.Seconds) != 5 || sum < 0.99*want || sum > 1.01*want || step.Worker == "" {
			t.Errorf("the seconds %v of worker %q add up to %g, want %g: %s", step.Seconds, step.Worker, sum, want, line)
		}
	}
}

// A trace has every worker's sampled steps, with units and collectives by name, in the form that Perfetto reads.
func TestTrace(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	p.run("trace", "runs/job").wants(t, 2, "runs/job")
	p.run("launch", "job.yaml", "--workers", "2").wants(t, 0)
	p.run("trace", "runs/job", "-o", "trace.json").wants(t, 0)
	text := p.read("trace.json")
	if out := p.run("trace", "runs/job").wants(t, 0).out; out != text {
		t.Errorf("standard output has %d bytes, the file %d others", len(out), len(text))
	}
	var events []struct {
		Name  string `json:"name"`
		Phase string `json:"ph"`
		PID   int    `json:"pid"`
		TID   int    `json:"tid"`
		Args  struct {
			Step int64 `json:"step"`
		} `json:"args"`
	}
	if err := json.Unmarshal([]byte(text), &events); err != nil {
		t.Fatal(err)
	}
	type place struct {
		pid  int
		step int64
		name string
	}
	got := map[place]int{}
	for _, e := range events {
		if e.Phase == "X" {
			got[place{e.PID, e.Args.Step, e.Name}]++
			if (strings.HasPrefix(e.Name, "all-gather ") || strings.HasPrefix(e.Name, "reduce-scatter ")) && e.TID == 0 {
				t.Errorf("%q is in the lane of computing", e.Name)
			}
		}
	}
	for pid := range 2 {
		for _, step := range []int64{2, 4, 8} {
			for _, name := range []string{fmt.Sprintf("step %d", step), "forward embed", "backward block.0", "reduce-scatter block.1", "all-gather head", "update"} {
				if got[place{pid, step, name}] == 0 {
					t.Errorf("worker %d has no %q in step %d", pid, name, step)
				}
			}
		}
	}
}
