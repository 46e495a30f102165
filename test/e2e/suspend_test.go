package e2e_test

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// noCheckpoints leaves the state to memory: what is in a checkpoint is there because somebody saved it.
var noCheckpoints = []string{"--set", "checkpoint.every_steps=0"}

func (p *place) launchLong(more ...string) *command {
	p.t.Helper()
	return p.start(launchLong(append(more, noCheckpoints...)...)...)
}

// awaitSuspended waits for a suspended run, and checks that its checkpoint is of the last committed step.
func (p *place) awaitSuspended(run string) {
	p.t.Helper()
	p.await("it to be suspended", func() bool { return p.status(run).State == "suspended" })
	steps := p.steps(run)
	if s := p.status(run); s.CheckpointStep != steps[len(steps)-1].Step {
		p.t.Errorf("suspended with the checkpoint of step %d; step %d is committed", s.CheckpointStep, steps[len(steps)-1].Step)
	}
}

// wantsWhole checks that a run came to its end with the undisturbed answer, each step committed once and none made again.
func (p *place) wantsWhole(redone int) {
	p.t.Helper()
	p.wantsHash("runs/job", long)
	p.wantsSteps("runs/job", 1, long)
	p.wantsNothingLeft()
	if n := p.wantsDeal("runs/job", 2); n > redone {
		p.t.Errorf("%d steps were made again, want at most %d", n, redone)
	}
}

func (p *place) pids(run string) []int {
	p.t.Helper()
	var pids []int
	for _, w := range p.status(run).Workers {
		pids = append(pids, w.PID)
	}
	return pids
}

func TestSuspendAndResume(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	c := p.launchLong("--workers", "3")
	p.awaitStep("runs/job", 3)
	before := p.pids("runs/job")
	p.run("suspend", "runs/job").wants(t, 0)
	p.awaitSuspended("runs/job")
	p.run("suspend", "runs/job").wants(t, 0) // it is already
	p.run("resume", "runs/job").wants(t, 0)
	c.wait().wants(t, 0, "suspended", "asked to wait", "asked to go on")
	p.wantsWhole(0)
	if joined := p.events("runs/job", "worker_joined"); len(joined) != len(before) {
		t.Errorf("%d workers joined, want the %d that waited", len(joined), len(before))
	}
}

// A worker dies while it writes what it has: its buddy writes it.
func TestKilledWhileItSaves(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	c := p.launchLong("--workers", "3", "--worker", filepath.Join(programs, "worker-faults")+" --fault in-save@2:1=kill")
	p.awaitStep("runs/job", 3)
	p.run("suspend", "runs/job").wants(t, 0)
	p.awaitSuspended("runs/job")
	p.run("resume", "runs/job").wants(t, 0)
	c.wait().wants(t, 0, "worker 1 (rank 1", "killed by SIGKILL")
	p.wantsWhole(0)
}

// Below workers.min what the survivor has is saved at once, so that its own death loses nothing either.
func TestBelowMinTheStateIsSafe(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	c := p.launchLong("--set", "workers.min=2")
	p.awaitStep("runs/job", 3)
	if err := syscall.Kill(p.pidOf("runs/job", 1), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	p.awaitSuspended("runs/job")
	for _, w := range p.status("runs/job").Workers {
		if w.State != "failed" {
			if err := syscall.Kill(w.PID, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
		}
	}
	e := c.wait().wants(t, 1, "is kept; to go on from it")
	p.run(e.resumeWords(t)...).wants(t, 0)
	p.wantsWhole(1)
}

// What is suspended can be stopped, and goes on from its checkpoint.
func TestCancelWhileSuspended(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	c := p.launchLong()
	p.awaitStep("runs/job", 3)
	p.run("suspend", "runs/job").wants(t, 0)
	p.awaitSuspended("runs/job")
	p.run("cancel", "runs/job").wants(t, 0)
	e := c.wait().wants(t, 130, "is kept; to go on from it")
	p.run(e.resumeWords(t)...).wants(t, 0)
	p.wantsWhole(0)
}

// All machines are told to go at once: the state is saved, the workers leave, and the job waits for others.
func TestAllNoticedAtOnceSuspends(t *testing.T) {
	for _, c := range []struct {
		name, seconds string
		redone        int
	}{{"at a boundary", "60", 0}, {"too late for one", "2", 1}} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			p := newPlace(t)
			l := p.launchLong("--workers", "3", "--set", "workers.spot={provider: file, file: notice}")
			p.awaitStep("runs/job", 3)
			p.write("notice", `{"deadline_seconds": `+c.seconds+`, "why": "the zone goes"}`)
			p.awaitSuspended("runs/job")
			p.await("the workers to leave", func() bool { return len(p.events("runs/job", "worker_drained")) == 3 })
			if err := os.Remove(p.path("notice")); err != nil {
				t.Fatal(err)
			}
			p.run("resume", "runs/job").wants(t, 0)
			l.wait().wants(t, 0, "the machines of all workers go")
			p.wantsWhole(c.redone)
			if died := p.events("runs/job", "worker_died"); len(died) > 0 {
				t.Errorf("died: %+v", died)
			}
		})
	}
}

// Without replicas nobody can serve what a rank that leaves had: it is saved first, and nothing is made again.
func TestShrinkWithoutReplicas(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	c := p.launchLong("--workers", "3", "--set", "recovery.replicas=0")
	p.awaitStep("runs/job", 3)
	p.run("resize", "runs/job", "2").wants(t, 0)
	c.wait().wants(t, 0, "which write the state of step")
	p.wantsWhole(0)
}

// A rank leaves, and its buddy, which has the only other copy of its shard, dies before that has a second place: the one
// that left is still there.
func TestALeaverStaysUntilItsShardIsSafe(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	c := p.launchLong("--workers", "3", "--worker", filepath.Join(programs, "worker-faults")+" --fault sending@2:0=kill")
	p.awaitStep("runs/job", 3)
	if err := syscall.Kill(p.pidOf("runs/job", 2), syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	c.wait().wants(t, 0, "worker 2 drains", "worker 0 (rank 0", "killed by SIGKILL")
	p.wantsWhole(1)
	for _, e := range p.events("runs/job", "generation") {
		if e.Fields["generation"] != "1" && !strings.Contains(e.What, "in their memory") {
			t.Errorf("fell back: %s", e.What)
		}
	}
}
