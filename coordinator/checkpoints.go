package coordinator

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/zerofleet/zerofleet/checkpoint"
)

// Checkpoint is an entry of Checkpoints.
type Checkpoint struct {
	Key        string `json:"key"` // of its manifest in the store
	Step       int64  `json:"step"`
	Generation uint64 `json:"generation"`
	WorldSize  int    `json:"world_size"`
	Bytes      int64  `json:"bytes"` // of all parts
	Committed  bool   `json:"committed"`
	Fault      string `json:"fault,omitempty"` // why it cannot be used
}

// Checkpoints lists what is in the store of a run, or in the store or step folder that path is, oldest first. With
// verify, every part is read and checked.
func Checkpoints(ctx context.Context, path string, verify bool) ([]Checkpoint, error) {
	f, err := find(path)
	if err != nil {
		return nil, badInput{err}
	}
	s, err := f.open(ctx)
	if err != nil {
		return nil, badInput{err}
	}
	list, err := f.entries(ctx, s)
	if err != nil {
		return nil, err
	}
	out := make([]Checkpoint, 0, len(list))
	for _, e := range list {
		c := Checkpoint{Key: e.Key, Step: e.Step, Committed: e.Committed}
		fault := e.Err
		if m := e.Manifest; m != nil {
			c.Generation, c.WorldSize = m.Generation, m.World
			for _, p := range m.Parts {
				c.Bytes += p.Bytes
			}
			if verify {
				fault = errors.Join(checkpoint.Verify(ctx, s, m)...)
			}
		}
		if fault != nil {
			c.Fault = fault.Error()
		}
		out = append(out, c)
	}
	return out, ctx.Err()
}

// RemoveCheckpoints removes everything of the given steps from the store of a run, or from the store that path is: either
// all of them are there, or nothing is removed. The newest committed checkpoint stays while a coordinator runs the run.
func RemoveCheckpoints(ctx context.Context, path string, steps []int64) error {
	f, err := find(path)
	if err != nil {
		return badInput{err}
	}
	if f.prefix != "" {
		return bad("%s: want a run or a checkpoint store, and the steps to remove", path)
	}
	s, err := f.open(ctx)
	if err != nil {
		return badInput{err}
	}
	list, err := f.entries(ctx, s)
	if err != nil {
		return err
	}
	steps = slices.Compact(slices.Sorted(slices.Values(steps)))
	there, newest := map[int64]bool{}, int64(-1)
	for _, e := range list {
		there[e.Step] = true
		if e.Committed {
			newest = e.Step
		}
	}
	for _, step := range steps {
		if !there[step] {
			return bad("%s: no checkpoint of step %d", path, step)
		}
		if step != newest || f.run == "" {
			continue
		}
		folder, err := openRunFolder(f.run)
		if err != nil {
			return fmt.Errorf("step %d is the newest committed checkpoint: %w", step, err)
		}
		defer folder.close()
	}
	for _, step := range steps {
		if err := checkpoint.Remove(ctx, s, step); err != nil {
			return err
		}
	}
	return nil
}

// Hash is the hash that two runs of one job must share, of the newest committed checkpoint that path names, and its step.
func Hash(ctx context.Context, path string) (hash string, step int64, err error) {
	f, err := find(path)
	if err == nil {
		err = f.newestCommitted(ctx)
	}
	if err != nil {
		return "", 0, badInput{err}
	}
	r, err := f.reader(ctx)
	if err != nil {
		return "", 0, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	if hash, err = checkpoint.Hash(ctx, r); err != nil {
		return "", 0, fmt.Errorf("hash the checkpoint of step %d: %w", f.manifest.Step, err)
	}
	return hash, f.manifest.Step, nil
}
