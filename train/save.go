package train

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/zerofleet/zerofleet/checkpoint"
	"github.com/zerofleet/zerofleet/collective"
	"github.com/zerofleet/zerofleet/shard"
	"github.com/zerofleet/zerofleet/train/fault"
)

// ErrSave marks a checkpoint that Save could not write: the state is where it was, and it may be tried again.
var ErrSave = errors.New("the state is not saved")

var errNotFinite = errors.New("weights that are not finite")

// saved is what a rank tells the others while they save.
type saved struct {
	Parts []checkpoint.Part `json:"parts,omitempty"`
	Err   string            `json:"err,omitempty"`
	Fatal bool              `json:"fatal,omitempty"` // to try again does not help
}

// Save writes a settled generation's state to a checkpoint, without a step and without moving any of it: each shard is
// written by the rank that holds it, as its owner or as its replica. It is collective: all ranks of the group call it with
// the same h. old is what this rank has of the state, retired and completed to h.Step; nil for one that has nothing. base
// is what every checkpoint of the job says. When it returns nil the checkpoint is committed. What a rank's store or the
// commit refuse is every rank's ErrSave.
func Save(ctx context.Context, group collective.Group, old *Trainer, h Handover, store checkpoint.Store, base checkpoint.Manifest, commit CommitManifest) error {
	m := base
	m.Step, m.OptimizerStep, m.Cursor = h.Step, h.OptimizerStep, h.Cursor
	m.Version, m.Generation, m.World, m.LossScale = checkpoint.Version, group.Generation(), h.World, 1
	m.Parts = make([]checkpoint.Part, h.World)
	if old != nil {
		m.Units = old.manifestUnits()
	}
	holders := h.Holders[:h.World] // at stage 0, where all have everything, the first of them

	var own saved
	for r, x := range holders {
		if x.Rank != group.Rank() {
			continue
		}
		fault.At(fault.InSave, int64(group.Generation()))
		part, err := old.writeHeld(ctx, store, &m, r, x.Replica)
		if err != nil {
			own.Err, own.Fatal = err.Error(), errors.Is(err, errNotFinite)
			break
		}
		own.Parts = append(own.Parts, part)
	}
	all, err := tell(ctx, group, h.Step, own)
	if err != nil {
		return err
	}
	for _, s := range all {
		for _, p := range s.Parts {
			if p.Rank >= 0 && p.Rank < h.World {
				m.Parts[p.Rank] = p
			}
		}
	}
	var verdict saved
	if holders[0].Rank == group.Rank() { // it has trained, so it knows what the manifest is to say
		encoded, err := m.Marshal()
		if err == nil {
			err = commit(ctx, &m, encoded)
		}
		if err != nil {
			verdict.Err = err.Error()
		}
	}
	_, err = tell(ctx, group, h.Step, verdict)
	return err
}

// tell exchanges what the ranks have to say, and fails at all of them when one has failed.
func tell(ctx context.Context, group collective.Group, step int64, own saved) ([]saved, error) {
	b, err := json.Marshal(own)
	if err != nil {
		return nil, fmt.Errorf("save step %d: %w", step, err)
	}
	said, err := group.Exchange(ctx, b)
	if err != nil {
		return nil, fmt.Errorf("save step %d: %w", step, err)
	}
	all := make([]saved, len(said))
	for rank, b := range said {
		if err := json.Unmarshal(b, &all[rank]); err != nil {
			return nil, fmt.Errorf("save step %d: what rank %d says: %w", step, rank, err)
		}
		if all[rank].Fatal {
			return nil, fmt.Errorf("save step %d: rank %d: %s", step, rank, all[rank].Err)
		}
		if all[rank].Err != "" {
			return nil, fmt.Errorf("step %d: rank %d: %s: %w", step, rank, all[rank].Err, ErrSave)
		}
	}
	return all, nil
}

// writeHeld writes rank r's part of m: what t holds as its own, or as the replica of its ward.
func (t *Trainer) writeHeld(ctx context.Context, store checkpoint.Store, m *checkpoint.Manifest, r int, replica bool) (checkpoint.Part, error) {
	if t == nil {
		return checkpoint.Part{}, fmt.Errorf("the shard of rank %d is said to be here, and nothing is", r)
	}
	ranges := make([]checkpoint.Range, len(t.units))
	for i := range t.units {
		u := &t.units[i]
		s := u.shard()
		if replica {
			s = u.replica
		}
		layout, err := shard.NewLayout(u.Elems, m.World)
		if err != nil {
			return checkpoint.Part{}, err
		}
		lo, hi := layout.Owned(r)
		if s.master.IsZero() || lo < s.lo || hi > s.hi {
			return checkpoint.Part{}, fmt.Errorf("elements [%d,%d) of %s are asked of rank %d of %d, which has [%d,%d)", lo, hi, u.Name, t.rank, t.world, s.lo, s.hi)
		}
		ranges[i] = checkpoint.Range{Unit: u.Name, Lo: lo}
		for f, b := range s.fields() {
			ranges[i].Fields[f] = make([]float32, hi-lo)
			if lo == hi {
				continue
			}
			if err := t.stream.Download(rawBytes(ranges[i].Fields[f]), b.Slice(lo-s.base, hi-s.base)); err != nil {
				return checkpoint.Part{}, fmt.Errorf("copy state of %s: %w", u.Name, err)
			}
		}
	}
	if err := t.stream.Sync(ctx); err != nil {
		return checkpoint.Part{}, err
	}
	for i, r := range ranges {
		if k := firstNonFinite(r.Fields[checkpoint.Master]); k >= 0 {
			return checkpoint.Part{}, fmt.Errorf("%s: %w", t.units[i].tensorAt(r.Lo+k), errNotFinite)
		}
	}
	return checkpoint.WritePart(ctx, store, m, r, ranges)
}
