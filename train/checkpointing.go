package train

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/zerofleet/zerofleet/checkpoint"
	"github.com/zerofleet/zerofleet/kernels"
)

// CommitManifest asks the authority to make a checkpoint exist. It is called by rank 0, may take long, and is given
// what Manifest.Marshal gave. An error is a reason to ask again, unless it wraps ErrRefused.
type CommitManifest func(ctx context.Context, m *checkpoint.Manifest, encoded []byte) error

// ErrRefused is the authority's word that a checkpoint will never exist: the job has gone on without this generation.
var ErrRefused = errors.New("checkpoint refused")

// finishRound is how long a rank that is done waits for the others at the end before all tell each other how they are: far
// below a collective's deadline.
const finishRound = 250 * time.Millisecond

// checkpointer writes this rank's part of a checkpoint while training goes on. What has become of it travels to the other
// ranks in the records of later steps; rank 0 commits a checkpoint when it has heard of every part, and that every
// replica is like its shard.
//
// A store that fails holds nobody up: the rank whose part it did not take tries again, from the copy that it has, until
// the next checkpoint takes its place. Only the last one is waited for.
type checkpointer struct {
	t        *Trainer
	store    checkpoint.Store
	base     checkpoint.Manifest // job, model, fingerprint: what does not change
	troubled func(step int64, err error, first bool)
	stream   kernels.Stream // the copies' own

	begun, committed int64              // newest steps of a checkpoint that was begun, and that is known to exist; -1 before the first
	retake           bool               // another generation has left one unfinished
	snapshot         []checkpoint.Range // its memory serves every checkpoint
	part             *part              // nil when nothing is written
	unsaid           []note
	heard            map[int64]*gathered // by step
	commits          *commitQueue        // rank 0's
	waited           time.Duration       // that training has stood still for checkpoints
}

// note is what a rank tells of a checkpoint.
type note struct {
	Step      int64            `json:"step"`
	Part      *checkpoint.Part `json:"part,omitempty"` // is in the store
	GivenUp   bool             `json:"given_up,omitempty"`
	Committed bool             `json:"committed,omitempty"` // rank 0: it exists
	Fault     string           `json:"fault,omitempty"`     // the state is of no use
	Own       []uint64         `json:"own,omitempty"`       // digests of the shard and of the ward's replica
	Kept      []uint64         `json:"kept,omitempty"`
	Retake    bool             `json:"retake,omitempty"` // a checkpoint is due: another generation has left one unfinished
}

// gathered is what the ranks have told of one checkpoint.
type gathered struct {
	manifest  checkpoint.Manifest
	have      int
	own, kept [][]uint64
	digests   int // ranks that have told theirs
}

func (t *Trainer) newCheckpointer(r Run) (*checkpointer, error) {
	stream, err := t.dev.Backend.NewStream("checkpoint")
	if err != nil {
		return nil, err
	}
	c := &checkpointer{t: t, store: r.Store, base: r.Manifest, troubled: r.Troubled, stream: stream, begun: -1, committed: -1, retake: r.Retake,
		heard: map[int64]*gathered{}, commits: &commitQueue{commit: r.Commit, troubled: r.Troubled}}
	if r.Retake {
		c.unsaid = []note{{Retake: true}}
	}
	return c, nil
}

// begin starts to copy the state and to write it. What was written before and fails is given up; what only takes long is
// waited for. The last step's checkpoint may have been begun already.
func (c *checkpointer) begin(ctx context.Context) error {
	if c.begun == c.t.step {
		return nil
	}
	start := time.Now()
	defer func() { c.waited += time.Since(start) }()
	if c.part != nil {
		select {
		case <-c.part.write.ended:
		case <-c.part.write.failed:
			c.part.write.stop()
		case <-ctx.Done():
			return ctx.Err()
		}
		c.poll(ctx)
	}
	if err := c.t.stream.Sync(ctx); err != nil {
		return fmt.Errorf("checkpoint of step %d: %w", c.t.step, err)
	}
	m := c.base
	m.Step, m.OptimizerStep, m.Cursor = c.t.step, c.t.optimizerStep, c.t.cursor
	m.Version, m.Generation, m.World, m.LossScale = checkpoint.Version, c.t.group.Generation(), c.t.world, 1
	m.Units, m.Parts = c.t.manifestUnits(), make([]checkpoint.Part, c.t.world)
	c.begun, c.retake = m.Step, false
	c.heard[m.Step] = &gathered{manifest: m, own: make([][]uint64, c.t.world), kept: make([][]uint64, c.t.world)}
	c.part = c.t.startPart(ctx, m, c.snapshot, c.stream, c.store, func(err error, first bool) { c.troubled(m.Step, err, first) })
	return nil
}

// free waits until the state has been copied: then it may change.
func (c *checkpointer) free(ctx context.Context) error {
	if c.part == nil {
		return nil
	}
	start := time.Now()
	defer func() { c.waited += time.Since(start) }()
	select {
	case <-c.part.copied:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// poll keeps what has come of this rank's part, and of rank 0's commits, as notes.
func (c *checkpointer) poll(ctx context.Context) {
	if p := c.part; p != nil {
		step := p.manifest.Step
		select {
		case <-p.copied:
			switch {
			case p.said:
			case p.fault != nil:
				c.unsaid = append(c.unsaid, note{Step: step, Fault: p.fault.Error()})
			case p.own != nil:
				c.unsaid = append(c.unsaid, note{Step: step, Own: p.own, Kept: p.kept})
			}
			p.said = true
		default:
		}
		if p.write.over() {
			c.part, c.snapshot = nil, p.snapshot
			if p.write.err == nil {
				c.unsaid = append(c.unsaid, note{Step: step, Part: &p.written})
			} else {
				c.unsaid = append(c.unsaid, note{Step: step, GivenUp: true})
			}
		}
	}
	for _, step := range c.commits.poll(ctx) {
		c.committed = max(c.committed, step)
		c.unsaid = append(c.unsaid, note{Step: step, Committed: true})
	}
}

// say is the note for the next record: what there is to tell since the last one.
func (c *checkpointer) say(ctx context.Context) ([]byte, error) {
	c.poll(ctx)
	if len(c.unsaid) == 0 {
		return nil, nil
	}
	b, err := json.Marshal(c.unsaid)
	c.unsaid = nil
	return b, err
}

// hear takes the notes of a commit record. Its error is the same at every rank: weights that are of no use, or a
// *ReplicaError. due says that all are to begin a checkpoint now.
func (c *checkpointer) hear(ctx context.Context, notes [][]byte) (due bool, err error) {
	for rank, b := range notes {
		if len(b) == 0 {
			continue
		}
		var list []note
		if err := json.Unmarshal(b, &list); err != nil {
			return false, fmt.Errorf("checkpoint note of rank %d: %w", rank, err)
		}
		for _, n := range list {
			switch {
			case n.Retake:
				due = true
			case n.Fault != "":
				return false, fmt.Errorf("rank %d, checkpoint of step %d: %s", rank, n.Step, n.Fault)
			case n.Committed:
				c.committed = max(c.committed, n.Step)
			case n.GivenUp:
				delete(c.heard, n.Step)
			case n.Part != nil:
				if g := c.heard[n.Step]; g != nil {
					g.manifest.Parts[rank] = *n.Part
					g.have++
				}
			case n.Own != nil:
				if g := c.heard[n.Step]; g != nil {
					g.own[rank], g.kept[rank] = n.Own, n.Kept
					g.digests++
				}
			}
		}
	}
	steps := slices.Sorted(maps.Keys(c.heard))
	for _, step := range steps {
		if g := c.heard[step]; g.digests == c.t.world {
			if err := c.t.compareReplicas(step, g.own, g.kept); err != nil {
				return false, err
			}
		}
	}
	for _, step := range steps { // a later one that is committed shuts the earlier out
		g := c.heard[step]
		if g.have < c.t.world || c.t.replicates() && g.digests < c.t.world {
			continue
		}
		maps.DeleteFunc(c.heard, func(s int64, _ *gathered) bool { return s <= step })
		if c.t.rank == 0 {
			if err := c.commits.add(ctx, &g.manifest); err != nil {
				return false, err
			}
		}
	}
	return due, nil
}

// givenUp says that a store has not taken a checkpoint for as long as it was to be tried.
type givenUp struct {
	rank int
	step int64
	why  string
}

func (e *givenUp) Error() string {
	return fmt.Sprintf("rank %d, checkpoint of step %d: %s", e.rank, e.step, e.why)
}

// verdict is how a rank is at the end.
type verdict struct {
	Notes   json.RawMessage `json:"notes,omitempty"`
	Busy    bool            `json:"busy,omitempty"`
	GivesUp string          `json:"gives_up,omitempty"` // why
}

// finish waits until every rank has written and rank 0 has committed: after it the checkpoints that were begun exist, or
// there is an error at every rank, *givenUp when the store has failed for longer than patience.
func (c *checkpointer) finish(ctx context.Context, patience time.Duration) error {
	deadline := time.Now().Add(patience)
	for {
		c.wait(ctx)
		v := c.verdict(ctx, deadline)
		say, err := json.Marshal(v)
		if err != nil {
			return err
		}
		all, err := c.t.group.Exchange(ctx, say)
		if err != nil {
			return fmt.Errorf("agree on checkpoint of step %d: %w", c.t.step, err)
		}
		over, err := c.agree(ctx, all)
		if over || err != nil {
			return err
		}
	}
}

// wait waits until there is something new, for finishRound at most.
func (c *checkpointer) wait(ctx context.Context) {
	timer := time.NewTimer(finishRound)
	defer timer.Stop()
	if c.part != nil {
		select {
		case <-c.part.write.ended:
		case <-timer.C:
		case <-ctx.Done():
		}
		return
	}
	select {
	case <-c.commits.news():
	case <-timer.C:
	case <-ctx.Done():
	}
}

func (c *checkpointer) verdict(ctx context.Context, deadline time.Time) verdict {
	c.poll(ctx)
	v := verdict{Busy: c.part != nil || c.t.rank == 0 && (len(c.heard) > 0 || c.commits.running != nil)}
	late := !time.Now().Before(deadline)
	if c.part != nil && late {
		if err := c.part.write.failing(); err != nil {
			v.GivesUp = err.Error()
		}
	}
	if err := c.commits.failing(); err != nil && (late || errors.Is(err, ErrRefused)) {
		v.GivesUp = fmt.Sprintf("commit checkpoint: %v", err)
	}
	if len(c.unsaid) > 0 {
		v.Notes, _ = json.Marshal(c.unsaid) // of plain values
		c.unsaid = nil
	}
	return v
}

// agree is what all make of all verdicts: over, when nobody is busy any more.
func (c *checkpointer) agree(ctx context.Context, all [][]byte) (over bool, err error) {
	verdicts, notes := make([]verdict, len(all)), make([][]byte, len(all))
	over = true
	for rank, b := range all {
		if err := json.Unmarshal(b, &verdicts[rank]); err != nil {
			return false, fmt.Errorf("verdict of rank %d: %w", rank, err)
		}
		notes[rank] = verdicts[rank].Notes
		over = over && !verdicts[rank].Busy
	}
	if _, err := c.hear(ctx, notes); err != nil {
		return false, err
	}
	for rank, v := range verdicts {
		if v.GivesUp != "" {
			return false, &givenUp{rank: rank, step: c.begun, why: v.GivesUp}
		}
	}
	return over, nil
}

// unfinished says whether a checkpoint was begun, or asked for by another generation, that is not known to exist.
func (c *checkpointer) unfinished() bool { return c.retake || c.begun > c.committed }

// close gives up what still runs, and waits for it.
func (c *checkpointer) close() error {
	if c.part != nil {
		c.part.write.stop()
		c.part = nil
	}
	c.commits.close()
	return c.stream.Close()
}
