package coordinator

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/zerofleet/zerofleet/checkpoint"
	"github.com/zerofleet/zerofleet/membership/store"
)

// launchLine is the command that launches a run's job again; resumeLine also goes on from the run's newest checkpoint.
func launchLine(run store.Run) string {
	words := []string{"coordinator", "launch", quote(run.JobFile)}
	for _, s := range run.Set {
		words = append(words, "--set", quote(s))
	}
	if run.Listen != "" {
		words = append(words, "--listen", quote(run.Listen))
	}
	if run.Local != nil {
		words = append(words, "--local-workers", fmt.Sprint(*run.Local))
	}
	return strings.Join(words, " ")
}

func resumeLine(run store.Run) string { return launchLine(run) + " --resume " + quote(shown(run.Dir)) }

// quote makes s one word for a shell.
func quote(s string) string {
	plain := strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-/=:,+@%") == ""
	if s != "" && plain {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// kept is the step of the newest checkpoint that can be gone on from. A committed one whose manifest the store did not
// take, because it was full, is given another try; the store alone must be enough.
func (r *run) kept(ctx context.Context, v store.View) uint64 {
	if v.Manifest.Step == 0 {
		return checkpointStep(v)
	}
	_, _, err := keepManifest(ctx, r.leader.Store, r.checkpoints)
	if err == nil {
		return v.Manifest.Step
	}
	r.log.Warn("the newest checkpoint is committed and cannot be kept", "step", v.Manifest.Step, "error", err)
	m, _, err := checkpoint.Newest(ctx, r.checkpoints)
	if err != nil {
		return 0
	}
	return uint64(m.Step)
}

// unwrittenAge is how old a half-written file must be in a store that other runs may write to.
const unwrittenAge = time.Hour

// collect removes what workers that died have half-written into the checkpoint store. No worker of this run lives.
func (r *run) collect(ctx context.Context) {
	age := unwrittenAge
	if store, err := filepath.Abs(storeDir(r.job)); err == nil {
		if own, err := filepath.Rel(r.folder.dir, store); err == nil && filepath.IsLocal(own) {
			age = 0
		}
	}
	if err := checkpoint.Sweep(ctx, r.checkpoints, r.job.Checkpoint.Keep, age, time.Now()); err != nil {
		r.log.Warn("remove half-written parts", "error", err)
	}
}

// conclude says how the run ended, and gives the exit status for it.
func (r *run) conclude(ctx context.Context, end *ending, rec *record) (exit int, err error) {
	v, err := r.leader.View(context.WithoutCancel(ctx))
	if err != nil {
		return 0, err
	}
	o, kept := end.outcome, r.kept(context.WithoutCancel(ctx), v)
	if v.Manifest.Step == 0 || kept == v.Manifest.Step { // otherwise parts are there whose manifest etcd alone has
		r.collect(context.WithoutCancel(ctx))
	}
	fields := map[string]string{"step": fmt.Sprint(o.Step), "checkpoint_step": fmt.Sprint(kept)}
	resume, words := "", "no checkpoint was kept"
	if kept > 0 && o.State != store.StateDone {
		resume, words = resumeLine(v.Run), fmt.Sprintf("the checkpoint of step %d is kept; to go on from it:", kept)
		fields["resume"] = resume
	}
	switch o.State {
	case store.StateDone:
		rec.event("done", fmt.Sprintf("done after step %d: %s", o.Step, shown(v.Run.Dir)), "", fields)
		return ExitDone, nil
	case store.StateStopped:
		rec.event("stopped", fmt.Sprintf("stopped after step %d; %s", o.Step, words), o.Message, fields)
		return ExitDone, nil
	case store.StateInterrupted:
		rec.event("stopped", "interrupted; "+words, o.Message, fields)
		if kept > 0 {
			return ExitInterrupted, nil
		}
		return ExitFailed, errors.New("interrupted before there was a checkpoint")
	}
	rec.event("failed", o.Message, "", fields)
	lines := []string{o.Message}
	if end.detail != "" {
		lines = append(lines, end.detail)
	}
	lines = append(lines, words)
	if resume != "" {
		lines = append(lines, resume)
	}
	return ExitFailed, errors.New(strings.Join(lines, "\n"))
}
