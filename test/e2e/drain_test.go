package e2e_test

import (
	"strings"
	"syscall"
	"testing"
)

// pidOf is the process of a rank.
func (p *place) pidOf(run string, rank int) int {
	p.t.Helper()
	for _, w := range p.status(run).Workers {
		if w.Rank == rank {
			return w.PID
		}
	}
	p.t.Fatalf("no rank %d in %s", rank, run)
	return 0
}

// wantsDrained checks that a run of three workers went on with the two that nobody warned of, from memory.
func (p *place) wantsDrained(worker string, redone int) {
	p.t.Helper()
	p.wantsHash("runs/job", long)
	p.wantsSteps("runs/job", 1, long)
	p.wantsNothingLeft()
	if left := p.events("runs/job", "worker_drained"); len(left) != 1 || left[0].Fields["worker"] != worker {
		p.t.Errorf("drained: %+v, want worker %s", left, worker)
	}
	if died := p.events("runs/job", "worker_died"); len(died) > 0 {
		p.t.Errorf("died: %+v", died)
	}
	g := p.events("runs/job", "generation")
	if len(g) != 2 || !strings.Contains(g[1].What, "2 workers, starting from the state of step") {
		p.t.Errorf("generations: %+v", g)
	}
	if got := p.wantsDeal("runs/job", 2); got > redone {
		p.t.Errorf("%d steps were redone, want at most %d", got, redone)
	}
}

func TestNoticedWorkerLeavesAtABoundary(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	c := p.start(launchLong("--workers", "3")...)
	p.awaitStep("runs/job", 3)
	if err := syscall.Kill(p.pidOf("runs/job", 1), syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	c.wait().wants(t, 0, "worker 1 drains")
	p.wantsDrained("1", 0)
}

// With less time than a handover may take, the running step is abandoned.
func TestANoticeTooLateForABoundaryAbandonsTheStep(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	c := p.start(launchLong("--workers", "3", "--set", "workers.spot={provider: file, file: 'notice-{id}'}")...)
	p.awaitStep("runs/job", 3)
	p.write("notice-2", `{"deadline_seconds": 2, "why": "the machine is sold"}`)
	c.wait().wants(t, 0, "worker 2 drains", "the machine is sold: too soon for the running step")
	p.wantsDrained("2", 1)
}

// A job grows and shrinks while it runs, checkpoints when asked to, and ends with the same bits.
func TestResizeCheckpointCancel(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	c := p.start(launchLong("--set", "checkpoint.every_steps=0")...)
	p.awaitStep("runs/job", 3)
	members := func(n int) func() bool {
		return func() bool {
			g := p.events("runs/job", "generation")
			return len(strings.Fields(g[len(g)-1].Fields["workers"])) == n
		}
	}
	p.run("resize", "runs/job", "3").wants(t, 0)
	p.await("three workers", members(3))
	p.run("resize", "runs/job", "1").wants(t, 0)
	p.await("one worker", members(1))
	p.run("resize", "runs/job", "0").wants(t, 2, `"0" workers`)
	p.run("checkpoint", "runs/job").wants(t, 0)
	p.await("a checkpoint", func() bool { return len(p.events("runs/job", "checkpoint")) > 0 })
	p.run("cancel", "runs/job").wants(t, 0)
	e := c.wait()
	if e.exit == 0 { // it was quicker than the request
		p.wantsHash("runs/job", long)
		return
	}
	e.wants(t, 130, "is kept; to go on from it")
	p.run("cancel", "runs/job").wants(t, 2)
	p.run(e.resumeWords(t)...).wants(t, 0)
	p.wantsHash("runs/job", long)
	p.wantsSteps("runs/job", 1, long)
	p.wantsNothingLeft()
}
