package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/zerofleet/zerofleet/coordinator"
	"github.com/zerofleet/zerofleet/membership"
	zerofleetv1 "github.com/zerofleet/zerofleet/proto/zerofleet/v1"
)

// place is a working directory, removed at the end unless it is asked for.
type place struct {
	dir, text string
	patience  time.Duration // bounds every wait
}

func newPlace(patience time.Duration) (*place, func(), error) {
	dir, err := os.MkdirTemp("", "zerofleet-recovery-*")
	if err != nil {
		return nil, nil, fmt.Errorf("make a folder: %w", err)
	}
	text, err := filepath.Abs("examples/data/tiny.txt")
	if err != nil {
		return nil, nil, fmt.Errorf("find the text: %w", err)
	}
	return &place{dir: dir, text: text, patience: patience}, func() { os.RemoveAll(dir) }, nil
}

// size is a model and how much of it a step computes.
type size struct {
	Model      string `json:"model"`
	Precision  string `json:"precision"`
	Sequence   int    `json:"sequence_len"`
	Batch      int    `json:"global_batch_size"`
	MicroBatch int    `json:"micro_batch_size"`
}

func (s size) String() string {
	return fmt.Sprintf("%s in %s, %d x %d tokens a step, micro-batches of %d", s.name(), s.Precision, s.Batch, s.Sequence, s.MicroBatch)
}

func (s size) name() string {
	return strings.TrimSuffix(strings.TrimPrefix(filepath.Base(s.Model), "preset://"), filepath.Ext(s.Model))
}

// sizeOf is what a step computes with a model when nobody says otherwise. "smollm2" is fetched.
func sizeOf(ctx context.Context, model string) (size, error) {
	switch model {
	case "tiny", "preset://tiny":
		return size{Model: "preset://tiny", Precision: "f32", Sequence: 64, Batch: 8, MicroBatch: 1}, nil
	case "smollm2":
		out, err := exec.CommandContext(ctx, "tools/fetch/smollm2.sh").Output()
		if err != nil {
			return size{}, fmt.Errorf("fetch SmolLM2: %w", err)
		}
		model = strings.TrimSpace(string(out))
	}
	path, err := filepath.Abs(model)
	if err != nil {
		return size{}, fmt.Errorf("find the model: %w", err)
	}
	// Short, so that four workers on two cores make a step in seconds.
	return size{Model: path, Precision: "bf16", Sequence: 64, Batch: 4, MicroBatch: 1}, nil
}

// spec is a job of so many workers that trains without a checkpoint until it is told to stop; more is laid over it.
func (p *place) spec(s size, workers int, more ...string) string {
	return fmt.Sprintf(`name: recovery
model: {base: %q}
data: {train: [{path: %q, format: text}], sequence_len: %d}
train:
  steps: 1000000
  global_batch_size: %d
  micro_batch_size: %d
  precision: %s
  optimizer: {learning_rate: 1.0e-5}
  schedule: {name: constant, warmup_steps: 0}
sharding: {stage: 3}
checkpoint: {every_steps: 0}
log: {tensorboard: false}
workers: {min: 1, max: %d}
`, s.Model, p.text, s.Sequence, s.Batch, s.MicroBatch, s.Precision, workers) + strings.Join(more, "\n") + "\n"
}

// fleet is a launched job.
type fleet struct {
	*place
	run     string   // its run folder
	args    []string // of the launch
	cmd     *exec.Cmd
	out     bytes.Buffer // not to be read before ended is closed
	ended   chan struct{}
	workers int
}

// launch starts a job in a run folder of its own. set are more --set values.
func (p *place) launch(name string, s size, workers int, set ...string) (*fleet, error) {
	file := filepath.Join(p.dir, name+".yaml")
	if err := os.WriteFile(file, []byte(p.spec(s, workers)), 0o644); err != nil {
		return nil, fmt.Errorf("write the job: %w", err)
	}
	f := &fleet{place: p, run: filepath.Join(p.dir, name), workers: workers, args: []string{"launch", file, "--set", "output.dir=" + filepath.Join(p.dir, name)}}
	for _, x := range set {
		if strings.HasPrefix(x, "--") {
			f.args = append(f.args, strings.SplitN(x, "=", 2)...)
		} else {
			f.args = append(f.args, "--set", x)
		}
	}
	return f, f.start()
}

// start runs the coordinator: for the first time, or again after it was killed.
func (f *fleet) start() error {
	f.ended = make(chan struct{})
	f.out.Reset()
	f.cmd = exec.Command("bin/coordinator", f.args...)
	f.cmd.Stdout, f.cmd.Stderr = &f.out, &f.out
	f.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // a Ctrl-C here is not one there
	if err := f.cmd.Start(); err != nil {
		return fmt.Errorf("launch (make build first): %w", err)
	}
	go func() {
		defer close(f.ended)
		_ = f.cmd.Wait() // its status is read from its state
	}()
	return nil
}

// kill is SIGKILL to the coordinator alone.
func (f *fleet) kill() error {
	if err := f.cmd.Process.Kill(); err != nil {
		return fmt.Errorf("kill the coordinator: %w", err)
	}
	<-f.ended
	return nil
}

// close stops the run without a checkpoint, if it still runs, and waits for its end.
func (f *fleet) close() {
	for range 2 {
		_ = f.cmd.Process.Signal(syscall.SIGINT) // it may have ended
	}
	<-f.ended
}

// stop has the run stop after the running step, with a checkpoint, and waits for its end.
func (f *fleet) stop(ctx context.Context) error {
	if err := coordinator.AskStop(ctx, f.run); err != nil {
		return fmt.Errorf("stop the run: %w", err)
	}
	select {
	case <-f.ended:
	case <-ctx.Done():
		return ctx.Err()
	}
	if code := f.cmd.ProcessState.ExitCode(); code != coordinator.ExitInterrupted && code != coordinator.ExitDone {
		return fmt.Errorf("the run ended with exit status %d:\n%s", code, f.out.String())
	}
	return nil
}

// look is how often a run is looked at.
const look = 50 * time.Millisecond

// await waits until ok holds; the end of the launch is an error.
func (f *fleet) await(ctx context.Context, what string, ok func() (bool, error)) error {
	ctx, cancel := context.WithTimeoutCause(ctx, f.patience, fmt.Errorf("waited %s for %s", f.patience, what))
	defer cancel()
	tick := time.NewTicker(look)
	defer tick.Stop()
	for {
		if done, err := ok(); done || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-f.ended:
			return fmt.Errorf("the launch ended while waiting for %s:\n%s", what, f.out.String())
		case <-tick.C:
		}
	}
}

// whole waits until n workers train in one settled generation, and returns their state in rank order.
func (f *fleet) whole(ctx context.Context, n int) (members []*zerofleetv1.WorkerStatus, err error) {
	err = f.await(ctx, fmt.Sprintf("%d workers that train", n), func() (bool, error) {
		s, err := f.status(ctx)
		if err != nil || s == nil || s.GetState() != "training" || len(s.GetWorkers()) < n {
			return false, err
		}
		members = make([]*zerofleetv1.WorkerStatus, n)
		for _, w := range s.GetWorkers() {
			switch r := int(w.GetRank()); {
			case r >= 0 && r < n && w.GetPhase() == membership.Training && w.GetGeneration() == s.GetGeneration():
				members[r] = w
			case r >= 0 || w.GetPhase() != membership.Failed && n == f.workers:
				return false, nil // one is on its way
			}
		}
		for _, m := range members {
			if m == nil {
				return false, nil
			}
		}
		settled := f.events("settled")
		return len(settled) > 0 && settled[len(settled)-1].number() == s.GetGeneration(), nil
	})
	return members, err
}

// status asks this launch's coordinator; nil while it starts. It never opens the run folder, which a coordinator that starts
// must find unlocked.
func (f *fleet) status(ctx context.Context) (s *coordinator.Status, err error) {
	path := filepath.Join(f.run, "control.json")
	c, err := membership.ReadControl(path)
	if err != nil || c.PID != f.cmd.Process.Pid {
		return nil, nil
	}
	at, err := c.Endpoint(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	conn, err := at.Connect(nil)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	ask, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	s, err = zerofleetv1.NewOperatorClient(conn).Status(ask, &zerofleetv1.StatusRequest{})
	if err != nil && ctx.Err() == nil {
		return nil, nil // it does not serve yet: the wait for it is bounded
	}
	return s, err
}

// hash is the hash of the run's newest checkpoint, and its step.
func (f *fleet) hash(ctx context.Context) (sum string, step uint64, err error) {
	out, err := exec.CommandContext(ctx, "bin/coordinator", "hash", f.run).Output()
	if err != nil {
		return "", 0, fmt.Errorf("hash %s: %w", f.run, err)
	}
	if _, err := fmt.Sscanf(string(out), "%s step %d", &sum, &step); err != nil {
		return "", 0, fmt.Errorf("read the hash %q: %w", out, err)
	}
	return sum, step, nil
}
