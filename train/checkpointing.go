package train

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/zerofleet/zerofleet/checkpoint"
	"github.com/zerofleet/zerofleet/train/fault"
)

// CommitManifest asks the authority to make a checkpoint exist. It is called by rank 0, may take long, and is given
// what Manifest.Marshal gave.
type CommitManifest func(ctx context.Context, m *checkpoint.Manifest, encoded []byte) error

// checkpointer writes this rank's part of a checkpoint while training goes on. What its write gave travels to the other
// ranks in the records of later steps; rank 0 commits a checkpoint when it has heard of every part.
type checkpointer struct {
	t      *Trainer
	store  checkpoint.Store
	commit CommitManifest
	base   checkpoint.Manifest // job, model, fingerprint: what does not change

	begun    int64              // the step of the newest checkpoint that was begun, -1 before the first
	snapshot []checkpoint.Range // its memory serves every checkpoint
	writing  chan written       // nil when nothing is written
	commits  chan error         // rank 0: nil when nothing is being committed
	unsaid   []note
	heard    map[int64]*gathered // rank 0, by step
}

type written struct {
	step int64
	part checkpoint.Part
	err  error
}

// note is what a rank tells of its part.
type note struct {
	Step int64           `json:"step"`
	Part checkpoint.Part `json:"part"`
	Err  string          `json:"err,omitempty"`
}

type gathered struct {
	manifest checkpoint.Manifest
	have     int
}

// begin copies the state and starts to write it. It waits for the write before, if that still runs. The last step's
// checkpoint may have been begun already.
func (c *checkpointer) begin(ctx context.Context) error {
	if c.begun == c.t.step {
		return nil
	}
	c.begun = c.t.step
	c.await()
	snapshot, err := c.t.Snapshot(ctx, c.snapshot)
	if err != nil {
		return fmt.Errorf("checkpoint of step %d: %w", c.t.step, err)
	}
	c.snapshot = snapshot
	m := c.base
	m.Step, m.OptimizerStep, m.Cursor = c.t.step, c.t.optimizerStep, c.t.cursor
	m.Version, m.Generation, m.World, m.LossScale = checkpoint.Version, c.t.group.Generation(), c.t.world, 1
	m.Units, m.Parts = c.t.manifestUnits(), make([]checkpoint.Part, c.t.world)
	if c.t.rank == 0 {
		c.heard[m.Step] = &gathered{manifest: m}
	}
	done := make(chan written, 1)
	c.writing = done
	go func() {
		fault.At(fault.InCheckpoint, m.Step)
		part, err := checkpoint.WritePart(ctx, c.store, &m, c.t.rank, snapshot)
		done <- written{m.Step, part, err}
	}()
	return nil
}

// await waits for the write that runs, if any, and keeps what it gave as a note.
func (c *checkpointer) await() {
	if c.writing != nil {
		c.finished(<-c.writing)
	}
}

func (c *checkpointer) finished(w written) {
	c.writing = nil
	n := note{Step: w.step, Part: w.part}
	if w.err != nil {
		n.Err = w.err.Error()
	}
	c.unsaid = append(c.unsaid, n)
}

// say is the note for the next record: what was written since the last one.
func (c *checkpointer) say() ([]byte, error) {
	select {
	case w := <-c.writing: // a nil channel is never ready
		c.finished(w)
	default:
	}
	if len(c.unsaid) == 0 {
		return nil, nil
	}
	b, err := json.Marshal(c.unsaid)
	c.unsaid = nil
	return b, err
}

// hear takes the notes of a commit record. A rank that could not write is every rank's error.
func (c *checkpointer) hear(ctx context.Context, notes [][]byte) error {
	for rank, b := range notes {
		if len(b) == 0 {
			continue
		}
		var list []note
		if err := json.Unmarshal(b, &list); err != nil {
			return fmt.Errorf("checkpoint note of rank %d: %w", rank, err)
		}
		for _, n := range list {
			if n.Err != "" {
				return fmt.Errorf("rank %d, checkpoint of step %d: %s", rank, n.Step, n.Err)
			}
			g := c.heard[n.Step]
			if g == nil {
				continue // not rank 0
			}
			g.manifest.Parts[rank] = n.Part
			g.have++
		}
	}
	for _, step := range slices.Sorted(maps.Keys(c.heard)) { // a later one that is committed shuts the earlier out
		if g := c.heard[step]; g.have == c.t.world {
			delete(c.heard, step)
			if err := c.startCommit(ctx, g.manifest); err != nil {
				return err
			}
		}
	}
	return c.committed(false)
}

func (c *checkpointer) startCommit(ctx context.Context, m checkpoint.Manifest) error {
	if err := c.committed(true); err != nil {
		return err
	}
	encoded, err := m.Marshal()
	if err != nil {
		return err
	}
	done := make(chan error, 1)
	c.commits = done
	go func() { done <- c.commit(ctx, &m, encoded) }()
	return nil
}

// committed collects the result of a commit that was started; with wait, it waits for it.
func (c *checkpointer) committed(wait bool) error {
	if c.commits == nil {
		return nil
	}
	if !wait && len(c.commits) == 0 {
		return nil
	}
	err := <-c.commits
	c.commits = nil
	if err != nil {
		return fmt.Errorf("commit checkpoint: %w", err)
	}
	return nil
}

// finish waits until every rank has written and rank 0 has committed: after it, the checkpoint exists or there is an
// error at every rank.
func (c *checkpointer) finish(ctx context.Context) error {
	c.await()
	say, err := c.say()
	if err != nil {
		return err
	}
	notes, err := c.t.group.Exchange(ctx, say)
	if err != nil {
		return fmt.Errorf("agree on checkpoint of step %d: %w", c.t.step, err)
	}
	err = c.hear(ctx, notes)
	if err == nil {
		err = c.committed(true)
	}
	verdict := []byte(nil)
	if err != nil {
		verdict = []byte(err.Error())
	}
	all, exchangeErr := c.t.group.Exchange(ctx, verdict)
	if err != nil {
		return err
	}
	if exchangeErr != nil {
		return fmt.Errorf("agree on checkpoint of step %d: %w", c.t.step, exchangeErr)
	}
	for rank, v := range all {
		if len(v) > 0 {
			return fmt.Errorf("rank %d: %s", rank, v)
		}
	}
	return nil
}

// close waits for what still runs, after an error of the run.
func (c *checkpointer) close() error {
	c.await()
	err := c.committed(true)
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}
