package e2e_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// long is how many steps a run has that something happens to: small ones, and some seconds.
const long = 120

var longSet = []string{"--set", fmt.Sprintf("train.steps=%d", long), "--set", "train.global_batch_size=2"}

func launchLong(more ...string) []string {
	return append(append([]string{"launch", "job.yaml"}, longSet...), more...)
}

// With nobody to take its place, and a job that does not wait, a worker's death ends the run.
func TestKilledWorkerBelowMin(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	c := p.start(launchLong("--set", "workers.min=2", "--set", "recovery.below_min=fail")...)
	p.awaitCheckpoint("runs/job", 1)
	var victim workerStatus
	for _, w := range p.status("runs/job").Workers {
		if w.Rank == 1 {
			victim = w
		}
	}
	if err := syscall.Kill(victim.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	e := c.wait().wants(t, 1, fmt.Sprintf("worker %s (rank 1, process %d) died: killed by SIGKILL", victim.ID, victim.PID),
		"logs/worker-"+victim.ID+".log", "is kept; to go on from it:")
	p.wantsNothingLeft()
	if s := p.status("runs/job"); s.State != "failed" || s.CheckpointStep < 5 || !strings.Contains(s.Message, "killed by SIGKILL") {
		t.Errorf("status %+v", s)
	}
	p.run(e.resumeWords(t)...).wants(t, 0)
	p.wantsHash("runs/job", long)
	p.wantsSteps("runs/job", 1, long)
	p.wantsNothingLeft()
}

func TestOrphans(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	args := launchLong("--set", "train.steps=100000", "--set", "workers.orphan_seconds=2")
	c := p.start(args...)
	p.awaitStep("runs/job", 3)
	c.kill()
	if n := len(p.processes()); n != 2 {
		t.Fatalf("%d workers go on without a coordinator, want 2", n)
	}
	told := len(p.steps("runs/job"))
	if s := p.status("runs/job"); s.State != "orphaned" {
		t.Errorf("status %+v", s)
	}
	p.awaitNone()
	if s := p.status("runs/job"); s.State != "ended" {
		t.Errorf("status %+v", s)
	}
	steps := p.checkpointSteps("runs/job")
	last := steps[len(steps)-1]
	if last <= told {
		t.Errorf("orphans left a checkpoint of step %d, and had %d steps before", last, told)
	}
	e := p.run(args...).wants(t, 2, "whose processes have all ended")
	p.run(append(e.resumeWords(t), "--stop-at", fmt.Sprint(last+2))...).wants(t, 0, fmt.Sprintf("going on from the checkpoint of step %d", last))
	p.wantsSteps("runs/job", 1, last+2)
	p.wantsNothingLeft()
	// The steps are many, and not known before: the undisturbed run is made here.
	q := newPlace(t)
	q.run(launchLong("--set", "train.steps=100000", "--stop-at", fmt.Sprint(last+2), "--workers", "1")...).wants(t, 0)
	got, _ := p.hash("runs/job")
	if want, _ := q.hash("runs/job"); got != want {
		t.Errorf("hash %.12s of step %d, want %.12s", got, last+2, want)
	}
}

func TestOrphansReachTheEnd(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	c := p.start(launchLong("--set", "workers.orphan_seconds=4")...)
	p.awaitStep("runs/job", 3)
	c.kill()
	p.awaitNone()
	p.run(launchLong("--resume", "runs/job")...).wants(t, 0)
	p.wantsHash("runs/job", long)
	p.wantsSteps("runs/job", 1, long)
	if _, err := os.Stat(p.path("runs/job/model/model.safetensors")); err != nil {
		t.Error(err)
	}
}

func TestReattach(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	c := p.start(launchLong()...)
	p.awaitStep("runs/job", 3)
	was := p.processes()
	c.kill()
	p.run("launch", "job.yaml").wants(t, 2, "still running with another job", "train.steps")
	// To resume would be to leave the living workers behind.
	p.run(launchLong("--resume", "runs/job")...).wants(t, 2, "is still running, with 2 workers")
	e := p.run(launchLong()...).wants(t, 0, "going on with the run in runs/job: 2 workers live")
	if !strings.Contains(e.out, "is taken up again") {
		t.Errorf("workers %v: %v", was, e)
	}
	p.wantsHash("runs/job", long)
	p.wantsSteps("runs/job", 1, long)
	p.wantsNothingLeft()
	if s := p.status("runs/job"); s.State != "done" || len(s.Workers) != 2 || s.Workers[0].Generation != 1 {
		t.Errorf("status %+v", s)
	}
}

func TestInterruptOnce(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	c := p.start(launchLong()...)
	p.awaitStep("runs/job", 3)
	c.interrupt()
	e := c.wait().wants(t, 130, "interrupted", "the checkpoint of step", "is kept")
	p.wantsNothingLeft()
	// The newest step that was done is the one that was kept.
	steps := p.steps("runs/job")
	if s := p.status("runs/job"); s.State != "interrupted" || s.CheckpointStep != steps[len(steps)-1].Step {
		t.Errorf("%d steps, status %+v", len(steps), s)
	}
	all := strings.Split(strings.TrimSuffix(e.out, "\n"), "\n")
	if last := all[len(all)-1]; !strings.HasPrefix(last, "coordinator launch job.yaml ") {
		t.Errorf("last line %q", last)
	}
	p.run(e.resumeWords(t)...).wants(t, 0)
	p.wantsHash("runs/job", long)
	p.wantsSteps("runs/job", 1, long)
	p.wantsNothingLeft()
}

func TestInterruptTwice(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	c := p.start(launchLong("--set", "checkpoint.every_steps=0")...)
	p.awaitStep("runs/job", 3)
	c.interrupt()
	p.await("the first to be seen", func() bool { return len(p.events("runs/job", "interrupted")) == 1 })
	c.interrupt()
	e := c.wait()
	p.wantsNothingLeft()
	switch { // the checkpoint of the first may have been quicker than the second
	case e.exit == 130:
		e.resumeWords(t)
	case e.exit != 1 || !strings.Contains(e.errs, "interrupted before there was a checkpoint"):
		t.Error(e)
	}
}

// A tmpfs is a disk that is soon full. Training goes on to its end, whose checkpoint finds no room.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name         string
		size, inodes int // of the disk
		sets         []string
		fill         bool // all of it, once there is a checkpoint
		words        string
	}{
		{"checkpoints", 6000 << 10, 1000, []string{"--set", "checkpoint.store=small/checkpoints"}, false, ".safetensors"},
		// The store, a checkpoint's folder, part and manifest, another one's folder and part take 6 inodes, and what is being
		// written one more, and another one when it is linked: a manifest is committed and cannot be kept.
		{"manifest", 200 << 20, 7, []string{"--set", "checkpoint.store=small/checkpoints", "--workers", "1", "--set", "checkpoint.every_steps=100"}, false, "put manifest of step 120"},
		{"run folder", 24 << 20, 1000, []string{"--set", "output.dir=small/run"}, true, "small/run/"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := newPlace(t)
			small, run := p.path("small"), "runs/job"
			if c.fill {
				run = "small/run"
			}
			p.smallDisk("small", c.size, c.inodes)
			cmd := p.start(launchLong(append(c.sets, "--set", "checkpoint.keep=100", "--set", "checkpoint.retry_seconds=1")...)...)
			if c.fill {
				p.awaitCheckpoint(run, 1)
				p.fill("small/filler")
			}
			e := cmd.wait().wants(t, 1, "no space left on device", c.words, "is kept; to go on from it:")
			p.wantsNothingLeft()
			kept := p.checkpointSteps(run)
			if len(kept) == 0 {
				t.Fatalf("no checkpoint is left: %v", e)
			}
			last := kept[len(kept)-1]
			if want := fmt.Sprintf("the checkpoint of step %d is kept", last); !strings.Contains(e.errs, want) {
				t.Errorf("want %q, got %v", want, e)
			}
			p.run("checkpoints", "verify", run).wants(t, 0)
			if s := p.status(run); s.State != "failed" || s.CheckpointStep != last { // full as the disk is
				t.Errorf("status %+v", s)
			}
			// With room again, it goes on.
			os.Remove(p.path("small/filler"))
			p.remount(small, 200<<20, 1000)
			p.run(e.resumeWords(t)...).wants(t, 0, fmt.Sprintf("going on from the checkpoint of step %d", last))
			p.wantsHash(run, long)
			p.wantsSteps(run, 1, long)
		})
	}
}

// remount gives a tmpfs another size, and room for so many files besides its own folder, which some kernels count.
func (p *place) remount(dir string, size, inodes int) {
	p.t.Helper()
	var s syscall.Statfs_t
	if err := syscall.Statfs(dir, &s); err != nil {
		p.t.Fatal(err)
	}
	if len(p.tree(dir)) == 0 {
		inodes += int(s.Files - s.Ffree)
	}
	if err := syscall.Mount("tmpfs", dir, "tmpfs", syscall.MS_REMOUNT, fmt.Sprintf("size=%d,nr_inodes=%d", size, inodes)); err != nil {
		p.t.Fatal(err)
	}
}

// fill writes a file until the disk has no room for more.
func (p *place) fill(name string) {
	p.t.Helper()
	f, err := os.Create(p.path(name))
	if err != nil {
		p.t.Fatal(err)
	}
	defer f.Close()
	for chunk := make([]byte, 1<<16); len(chunk) > 0; {
		if _, err := f.Write(chunk); errors.Is(err, syscall.ENOSPC) {
			chunk = chunk[:len(chunk)/2]
		} else if err != nil {
			p.t.Fatal(err)
		}
	}
}

// The weights are made to grow by a factor of ten each step.
func TestLossThatIsNotFinite(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	e := p.run(launchLong("--set", "train.optimizer.learning_rate=1", "--set", "train.optimizer.weight_decay=11",
		"--set", "train.schedule={name: constant, warmup_steps: 0}", "--set", "checkpoint.every_steps=1")...)
	e.wants(t, 1, "failed: step ", "gradient of model.embed_tokens.weight is not finite", "rank ", "is kept; to go on from it:")
	p.wantsNothingLeft()
	p.run("checkpoints", "verify", "runs/job").wants(t, 0)
	steps := p.steps("runs/job")
	p.wantsSteps("runs/job", 1, len(steps))
	kept := p.checkpointSteps("runs/job")
	if len(kept) == 0 {
		t.Fatalf("no checkpoint is left: %v", e)
	}
	if last := kept[len(kept)-1]; last > len(steps) || !strings.Contains(e.errs, fmt.Sprintf("the checkpoint of step %d is kept", last)) {
		t.Errorf("checkpoints of steps %v, %v", kept, e)
	}
	// Weights that came so end the first step.
	p.run("export", "runs/job", "--out", "base").wants(t, 0)
	p.edit("base/model.safetensors", func(s string) string { return s[:len(s)-4] + "\x00\x00\x80\x7f" }) // +Inf in the last norm
	p.run(launchLong("--set", "model.base=base", "--set", "output.dir=runs/inf")...).wants(t, 1, "failed: step 1: ", "rank ", "is not finite", "no checkpoint was kept")
	p.wantsSteps("runs/inf", 1, 0)
	p.wantsNothingLeft()
}

func TestDamagedCheckpoint(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	p.run("launch", "job.yaml").wants(t, 0)
	p.run("checkpoints", "verify", "runs/job").wants(t, 0, "committed, verified")
	part := p.parts("runs/job", 12)[1]
	flip(t, part, -100)
	key := filepath.Join("step-0000000012", filepath.Base(part))
	p.run("checkpoints", "verify", "runs/job").wants(t, 1, key, "1 of 3 checkpoints are damaged")
	p.run("hash", "runs/job").wants(t, 1, key, "step 12")
	// An export reads masters alone, and is right without the moment that is damaged.
	p.run("export", "runs/job", "--out", "whole").wants(t, 0)
	flip(t, part, p.headBytes(part)+100)
	p.run("export", "runs/job", "--out", "out").wants(t, 1, key)
	if _, err := os.Stat(p.path("out")); !os.IsNotExist(err) {
		t.Errorf("half a model was left (%v)", err)
	}
	p.run("launch", "job.yaml", "--resume", "runs/job/checkpoints/step-0000000012", "--set", "output.dir=runs/no").wants(t, 2, key)
	if _, err := os.Stat(p.path("runs/no")); !os.IsNotExist(err) {
		t.Errorf("a run folder was left (%v)", err)
	}
	// One rank's part alone restores nothing.
	if err := os.Remove(p.parts("runs/job", 10)[0]); err != nil {
		t.Fatal(err)
	}
	p.run("checkpoints", "verify", "runs/job").wants(t, 1, "2 of 3 checkpoints are damaged")
	p.run("launch", "job.yaml", "--resume", "runs/job").wants(t, 0, "a newer checkpoint is damaged and not used", key, "going on from the checkpoint of step 5")
	p.wantsHash("runs/job", 12)
	p.wantsSteps("runs/job", 1, 12)
	p.wantsNothingLeft()
}
