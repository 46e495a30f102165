package coordinator

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/zerofleet/zerofleet/membership/store"
)

// launchLine is the command that launches a run's job again; resumeLine also goes on from the run's newest checkpoint.
func launchLine(run store.Run) string {
	words := []string{"coordinator", "launch", quote(run.JobFile)}
	for _, s := range run.Set {
		words = append(words, "--set", quote(s))
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

// conclude says how the run ended, and gives the exit status for it.
func (r *run) conclude(ctx context.Context, end *ending, rec *record) (exit int, err error) {
	v, err := r.leader.View(context.WithoutCancel(ctx))
	if err != nil {
		return 0, err
	}
	o, kept := end.outcome, checkpointStep(v)
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
