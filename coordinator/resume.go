package coordinator

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/zerofleet/zerofleet/checkpoint"
	"github.com/zerofleet/zerofleet/job"
	"github.com/zerofleet/zerofleet/membership"
)

// resume makes p go on from a run or one of its checkpoints. dir is where p will run, state what is there.
func (p *prepared) resume(ctx context.Context, from, dir string, state folderState) error {
	f, err := findCheckpoint(ctx, from)
	if err != nil {
		return err
	}
	here := f.run != "" && sameFile(f.run, dir)
	if state == folderRun && !here {
		return bad("output.dir: %s holds another run than the one to resume: give another output.dir", shown(dir))
	}
	for _, d := range f.damaged {
		p.notes = append(p.notes, fmt.Sprintf("a newer checkpoint is damaged and not used: %v", d))
	}
	weightsOnly := false
	if f.job != nil {
		var changed []string
		for _, c := range job.Diff(f.job, p.resolved) {
			if !c.SameJob {
				changed = append(changed, c.String())
			}
		}
		weightsOnly = len(changed) > 0
		if weightsOnly {
			p.notes = append(p.notes, "a new job from the weights of the old one, because of "+strings.Join(changed, "; "))
		}
	}
	if weightsOnly && here {
		return bad("--resume %s: the job has changed, so this is a new one from that run's weights: give it another output.dir (%s)",
			from, strings.Join(p.notes[len(p.notes)-1:], ""))
	}
	if f.manifest == nil {
		p.notes = append(p.notes, fmt.Sprintf("%s has no checkpoint: starting from the base model at step 0", shown(f.run)))
		return nil
	}
	p.after = f.manifest.Generation
	b, err := f.manifest.Marshal()
	if err != nil {
		return fmt.Errorf("encode manifest of step %d: %w", f.manifest.Step, err)
	}
	p.restore = &membership.Restore{Store: f.store, Manifest: b, Step: uint64(f.manifest.Step), WeightsOnly: weightsOnly}
	if !weightsOnly {
		p.fingerprint = f.manifest.Fingerprint
		p.notes = append(p.notes, fmt.Sprintf("going on from the checkpoint of step %d", f.manifest.Step))
	}
	return nil
}

// found is what --resume names.
type found struct {
	run      string               // the run folder; "" when a checkpoint lies elsewhere
	job      *job.Resolved        // the job that wrote it; nil when it is not known
	store    string               // absolute
	manifest *checkpoint.Manifest // nil: the run has no checkpoint
	damaged  []error              // newer ones that cannot be used
}

// findCheckpoint finds what path names: a run folder, whose newest checkpoint counts; a checkpoint store; one step's folder
// in it; or a manifest.
func findCheckpoint(ctx context.Context, path string) (found, error) {
	info, err := os.Stat(path)
	if err != nil {
		return found{}, bad("--resume %s: %w", path, errors.Unwrap(err))
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return found{}, fmt.Errorf("find checkpoint: %w", err)
	}
	if _, err := os.Stat(filepath.Join(abs, "job.resolved.yaml")); err == nil {
		return newestOfRun(ctx, abs)
	}
	step := ""
	switch {
	case !info.IsDir():
		step, abs = filepath.Join(filepath.Base(filepath.Dir(abs)), filepath.Base(abs)), filepath.Dir(filepath.Dir(abs))
	case strings.HasPrefix(filepath.Base(abs), "step-"):
		step, abs = filepath.Base(abs)+"/", filepath.Dir(abs)
	}
	f := found{store: abs}
	if f.manifest, f.damaged, err = newest(ctx, abs, step); err != nil {
		return found{}, bad("--resume %s: %w", path, err)
	}
	// The run that wrote it, when the store is where runs have theirs.
	if run := filepath.Dir(abs); fileExists(filepath.Join(run, "job.resolved.yaml")) {
		j, err := job.ReadResolved(filepath.Join(run, "job.resolved.yaml"))
		if err != nil {
			return found{}, err
		}
		f.run, f.job = run, j
	}
	return f, nil
}

// newestOfRun finds a run's newest checkpoint.
func newestOfRun(ctx context.Context, run string) (found, error) {
	j, err := job.ReadResolved(filepath.Join(run, "job.resolved.yaml"))
	if err != nil {
		return found{}, err
	}
	dir, err := filepath.Abs(storeDir(&j.Job))
	if err != nil {
		return found{}, fmt.Errorf("find checkpoint store: %w", err)
	}
	f := found{run: run, job: j, store: dir}
	f.manifest, f.damaged, err = newest(ctx, dir, "")
	if errors.Is(err, checkpoint.ErrNone) {
		err = nil
	}
	return f, err
}

// newest is the newest usable checkpoint of a store under the given key prefix, and what is wrong with the newer ones.
// Every part is read: a damaged one is found here, where there is an older checkpoint to fall back on. One that workers
// wrote when no coordinator was there counts too if it is whole: nobody can have gone on from an older one without
// committing something newer.
func newest(ctx context.Context, dir, prefix string) (*checkpoint.Manifest, []error, error) {
	s := checkpoint.Dir(dir)
	list, err := checkpoint.List(ctx, s)
	if err != nil {
		return nil, nil, err
	}
	var damaged []error
	for i := len(list) - 1; i >= 0; i-- {
		e := list[i]
		if !strings.HasPrefix(e.Key, prefix) {
			continue
		}
		faults := []error{e.Err}
		if e.Err == nil {
			faults = checkpoint.Verify(ctx, s, e.Manifest)
		}
		if err := errors.Join(faults...); err != nil {
			damaged = append(damaged, err)
			continue
		}
		return e.Manifest, damaged, nil
	}
	return nil, damaged, errors.Join(append([]error{checkpoint.ErrNone}, damaged...)...)
}

func fileExists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func sameFile(a, b string) bool {
	x, err := os.Stat(a)
	if err != nil {
		return false
	}
	y, err := os.Stat(b)
	return err == nil && os.SameFile(x, y)
}
