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
