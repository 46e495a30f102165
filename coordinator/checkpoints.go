package coordinator

import (
	"context"
	"errors"
	"fmt"

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
	list, err := f.entries(ctx)
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
				fault = errors.Join(checkpoint.Verify(ctx, checkpoint.Dir(f.store), m)...)
			}
		}
		if fault != nil {
			c.Fault = fault.Error()
		}
		out = append(out, c)
	}
	return out, ctx.Err()
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
	r := f.reader()
	defer func() { err = errors.Join(err, r.Close()) }()
	if hash, err = checkpoint.Hash(ctx, r); err != nil {
		return "", 0, fmt.Errorf("hash the checkpoint of step %d: %w", f.manifest.Step, err)
	}
	return hash, f.manifest.Step, nil
}
