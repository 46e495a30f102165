package e2e_test

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestLaunch(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	e := p.run("launch", "job.yaml").wants(t, 0, "step 12/12", "done after step 12: runs/job")
	if e.errs != "" {
		t.Errorf("standard error: %s", e.errs)
	}
	p.wantsNothingLeft()
	p.wantsSteps("runs/job", 1, 12)
	for _, name := range []string{
		"model/model.safetensors", "model/config.json", "model/tokenizer.json", "metrics.jsonl", "events.jsonl", "job.resolved.yaml",
		"logs/worker-0.log", "logs/worker-1.log", "checkpoints/step-0000000012",
	} {
		if !slices.Contains(p.tree(p.dir), p.path("runs/job", name)) {
			t.Errorf("no %s", name)
		}
	}
	if got := fmt.Sprint(p.checkpointSteps("runs/job")); got != "[5 10 12]" {
		t.Errorf("checkpoints of steps %s, want 5, 10 and 12", got)
	}
	s := p.status("runs/job")
	if s.State != "done" || s.Step != 12 || s.CheckpointStep != 12 || len(s.Workers) != 2 {
		t.Errorf("status %+v", s)
	}
	for i, w := range s.Workers {
		if w.ID != fmt.Sprint(i) || w.Rank != i || w.Generation != 1 || w.PID == 0 || w.State != "done" || w.Step != 12 {
			t.Errorf("worker %d: %+v", i, w)
		}
	}
	if !strings.Contains(p.read("runs/job/job.resolved.yaml"), "fingerprint:") {
		t.Error("job.resolved.yaml has no fingerprint")
	}

	// What ran once is not run over: the line that it prints goes on from it.
	e = p.run("launch", "job.yaml").wants(t, 2, "holds a run that is done", "\ncoordinator launch job.yaml --resume runs/job\n")
	if n := strings.Count(e.errs, "\n"); n != 2 {
		t.Errorf("%d lines: %s", n, e.errs)
	}
	before, _ := p.hash("runs/job")
	p.run("launch", "job.yaml", "--resume", "runs/job").wants(t, 0)
	if after, step := p.hash("runs/job"); after != before || step != 12 {
		t.Errorf("resuming a finished run: hash %.12s of step %d, was %.12s of step 12", after, step, before)
	}
	p.wantsSteps("runs/job", 1, 12)
	p.wantsNothingLeft()

	// The resolved job repeats the run.
	p.run("launch", "runs/job/job.resolved.yaml", "--set", "output.dir=again", "--set", "checkpoint.store=again/checkpoints").wants(t, 0)
	if again, _ := p.hash("again"); again != before {
		t.Errorf("the resolved job gives hash %.12s, the job %.12s", again, before)
	}
}

func TestStatusOfALivingRun(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	c := p.start("launch", "job.yaml", "--set", "train.steps=100000", "--json")
	p.awaitStep("runs/job", 3)
	s := p.status("runs/job")
	if s.State != "training" || len(s.Workers) != 2 || s.Step < 3 {
		t.Errorf("status %+v", s)
	}
	running := p.processes()
	for _, w := range s.Workers {
		if !slices.Contains(running, w.PID) || w.Rank < 0 || w.Generation != 1 {
			t.Errorf("worker %+v; processes %v", w, running)
		}
	}
	p.run("launch", "job.yaml").wants(t, 2, "a coordinator is running it already")
	p.run("status", "runs/job").wants(t, 0, "job: training", "worker  rank  pid")
	p.run("hash", "runs").wants(t, 2)
	p.awaitCheckpoint("runs/job", 1)
	if _, step := p.hash("runs/job"); step < 5 {
		t.Errorf("hash of a living run is of step %d", step)
	}
	c.interrupt()
	c.interrupt()
	e := c.wait()
	for _, line := range strings.SplitAfter(strings.TrimSuffix(e.out, "\n"), "\n") {
		var v struct{ Type string }
		if err := json.Unmarshal([]byte(line), &v); err != nil || v.Type == "" {
			t.Errorf("--json: %v: %s", err, line)
		}
	}
	p.wantsNothingLeft()
}

// One job, one answer: how it is cut and by how many changes nothing.
func TestOneAnswer(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	var want string
	for _, c := range []struct {
		stage, workers int
		recompute      bool
	}{{0, 1, false}, {0, 2, false}, {0, 3, false}, {3, 1, false}, {3, 2, false}, {3, 3, false}, {2, 2, true}} {
		run := fmt.Sprintf("runs/%d-%d-%v", c.stage, c.workers, c.recompute)
		p.run("launch", "job.yaml", "--workers", fmt.Sprint(c.workers), "--set", fmt.Sprintf("sharding.stage=%d", c.stage),
			"--set", fmt.Sprintf("train.gradient_checkpointing=%v", c.recompute), "--set", "output.dir="+run, "--set", "train.steps=6").wants(t, 0)
		got, step := p.hash(run)
		if want == "" {
			want = got
		}
		if got != want || step != 6 {
			t.Errorf("stage %d, %d workers, gradient_checkpointing %v: hash %.12s of step %d, want %.12s of step 6", c.stage, c.workers, c.recompute, got, step, want)
		}
		for _, s := range p.steps(run) {
			if s.WorldSize != c.workers {
				t.Errorf("%s: step %d by %d workers, want %d", run, s.Step, s.WorldSize, c.workers)
			}
		}
	}
	p.run("launch", "job.yaml", "--set", "seed=43", "--set", "output.dir=runs/seed", "--set", "train.steps=6").wants(t, 0)
	if got, _ := p.hash("runs/seed"); got == want {
		t.Error("another seed gives the same hash")
	}
	p.wantsNothingLeft()
}

func TestResume(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	e := p.run("launch", "job.yaml", "--stop-at", "5").wants(t, 0, "stopped after step 5", "the checkpoint of step 5 is kept")
	if got := strings.Join(e.resumeWords(t), " "); got != "launch job.yaml --resume runs/job" {
		t.Errorf("line that resumes: %q", got)
	}
	if s := p.status("runs/job"); s.State != "stopped" {
		t.Errorf("status %+v", s)
	}
	p.wantsNothingLeft()
	p.run("launch", "job.yaml").wants(t, 2, "holds a run that is stopped", "--resume runs/job")

	// From a checkpoint, into another folder.
	steps, err := filepath.Glob(p.path("runs/job/checkpoints/step-*"))
	if err != nil || len(steps) != 1 {
		t.Fatalf("checkpoints %v (%v)", steps, err)
	}
	p.run("launch", "job.yaml", "--resume", steps[0], "--set", "output.dir=runs/other", "--workers", "1").wants(t, 0, "going on from the checkpoint of step 5")
	p.wantsHash("runs/other", 12)
	p.wantsSteps("runs/other", 6, 12)

	// A changed field starts a new job from the weights, elsewhere, and says so.
	changed := []string{"launch", "job.yaml", "--resume", "runs/job", "--set", "train.optimizer.learning_rate=0.002"}
	p.run(changed...).wants(t, 2, "train.optimizer.learning_rate", "another output.dir")
	p.run(append(changed, "--set", "output.dir=runs/new")...).wants(t, 0, "a new job from the weights of the old one", "train.optimizer.learning_rate")
	p.wantsSteps("runs/new", 1, 12)

	// In place, with other workers and another stage.
	p.run("launch", "job.yaml", "--resume", "runs/job", "--workers", "3", "--set", "sharding.stage=1").wants(t, 0, "generation 2: 3 workers, starting from the checkpoint of step 5")
	p.wantsHash("runs/job", 12)
	p.wantsSteps("runs/job", 1, 12)
	p.wantsNothingLeft()
}
