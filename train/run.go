package train

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/zerofleet/zerofleet/checkpoint"
	"github.com/zerofleet/zerofleet/data"
)

// Run is what a rank does from the state that it has to the job's end.
type Run struct {
	Data *data.Dataset
	// Eval is evaluated every EvalEvery steps and at the end; nil for none.
	Eval             *data.Dataset
	EvalEvery        int64 // 0: at the end only
	Store            checkpoint.Store
	CheckpointEvery  int64 // 0: at the end only
	CheckpointOnStop bool
	CheckpointRetry  time.Duration       // how long the last checkpoint is tried again while the store fails
	Retake           bool                // an earlier generation has left a checkpoint unfinished: one is due after the first step
	StopAt           int64               // stop after this step, with a checkpoint; 0: at the job's end
	Manifest         checkpoint.Manifest // what every checkpoint of the job says: job, model, fingerprint
	Instruction      func() Instruction  // the newest one that this rank has seen
	StopReason       func() StopReason   // whether this rank wants to stop
	Commit           CommitManifest
	// Troubled hears that a checkpoint has failed and is tried again; first: of this rank's tries. Other goroutines call it.
	Troubled  func(step int64, err error, first bool)
	Computed  func(step int64, leaf int) // this rank has computed a leaf of an open step; nil: nobody asks
	Committed func(StepReport)
	// Traced hears what a sampled step did, after Committed. nil: no step is sampled.
	Traced              func(step int64, spans []Span)
	Evaluated           func(step int64, e Evaluation)
	Phase               func(phase string)
	EvaluateBeforeFirst bool
	// Handled is the newest instruction that an earlier generation carried out.
	Handled uint64
}

// StepReport tells of a committed step.
type StepReport struct {
	Metrics
	Tokens  int           // of the global batch, counting in the loss or not
	Elapsed time.Duration // since the commit before
	Timeline
}

// Outcome says how a run ended without an error.
type Outcome struct {
	Step    int64
	Done    bool // all steps of the job
	Reason  string
	Stopped StopReason
	// Reconfigure says that only the generation has ended: the job goes on in another.
	Reconfigure bool
	// Unfinished says that a checkpoint was begun and is not known to exist: the next generation is to take one. It holds
	// beside an error too.
	Unfinished bool
}

// Run trains until the job's last step, StopAt, an instruction to stop, or an error. All ranks return after the
// same step. A checkpoint of the last step is committed, unless the instruction was to abandon.
//
// A *ReplicaError says that a shard and its replica were found to differ at a checkpoint, which is not committed. Which of
// them is right, and whether parameters were computed from the wrong one, nobody can tell: the state of all ranks is to be
// dropped, and the job to go back to the newest checkpoint that was committed, of which all replicas were like their
// shards. What is computed again are the right bits.
func (t *Trainer) Run(ctx context.Context, r Run) (out Outcome, err error) {
	ck, err := t.newCheckpointer(r)
	if err != nil {
		return out, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer func() {
		cancel()
		if e := ck.close(); err == nil && e != nil {
			err = e
		}
		out.Unfinished = ck.unfinished()
	}()
	t.computed = r.Computed
	stream := r.Data.Stream(data.Cursor(t.cursor), int(t.step))
	if r.Eval != nil && r.EvaluateBeforeFirst {
		if err := t.evaluate(ctx, r); err != nil {
			return out, err
		}
	}
	handled := r.Handled
	last := time.Now()
	measure := func() { t.clock.start(t.world, r.Traced != nil && sampled(t.step+1)) }
	measure()
	for {
		if r.StopAt > 0 && t.step >= r.StopAt {
			out = Outcome{Step: t.step, Reason: fmt.Sprintf("stopped at step %d as asked", t.step)}
			break
		}
		reading := time.Now()
		batch, err := stream.Next(ctx)
		t.clock.reading(reading)
		if errors.Is(err, io.EOF) {
			out = Outcome{Step: t.step, Done: true, Reason: "all steps done"}
			break
		}
		if err != nil {
			return out, err
		}
		t.next = checkpoint.Cursor(batch.After)
		var noteErr error
		c, err := t.Reduce(ctx, Leaves{batch.Leaves, batch.Leaf}, func() Own {
			var note []byte
			note, noteErr = ck.say(ctx)
			return Own{Instruction: r.Instruction(), Stop: r.StopReason(), Note: note}
		})
		if err == nil {
			err = noteErr
		}
		if err != nil {
			return out, err
		}
		if err := ck.free(ctx); err != nil {
			return out, err
		}
		// Applied and told before anything else can go wrong: a step that is in the state is in the metrics.
		applying := t.clock.mark()
		m, err := t.apply(c)
		t.clock.updated("update", applying, time.Now())
		if err != nil {
			return out, err
		}
		now := time.Now()
		r.Committed(StepReport{Metrics: m, Tokens: batch.Tokens, Elapsed: now.Sub(last), Timeline: t.clock.timeline(now.Sub(last), ck.waited)})
		if t.clock.sampling {
			t.clock.span(fmt.Sprintf("step %d", t.step), last, now)
			r.Traced(t.step, t.clock.spans)
		}
		last, ck.waited = now, 0
		measure()
		if m.Updated {
			if err := t.publish(ctx); err != nil {
				return out, err
			}
		}
		due, err := ck.hear(ctx, c.Notes)
		if err != nil {
			return out, err
		}
		asked := c.Instruction
		if asked.Seq <= handled {
			asked = Instruction{}
		}
		handled = max(handled, asked.Seq)
		switch {
		case asked.Kind == Abandon:
			return Outcome{Step: t.step, Reason: "abandoned as asked"}, nil
		case asked.Kind == Stop:
			out = Outcome{Step: t.step, Reason: "stopped as asked"}
		case c.Stop != 0:
			out = Outcome{Step: t.step, Reason: c.Stop.String(), Stopped: c.Stop}
		}
		if asked.Kind == Reconfigure && out.Reason == "" {
			// What is being checkpointed is finished by those who began it. When the store fails, the next generation tries.
			err := ck.finish(ctx, 0)
			var failing *givenUp
			if errors.As(err, &failing) {
				err = nil
			}
			return Outcome{Step: t.step, Reconfigure: true, Reason: "other members"}, err
		}
		if out.Reason != "" {
			if !r.CheckpointOnStop {
				return out, nil
			}
			break
		}
		if due || asked.Kind == CheckpointNow || r.CheckpointEvery > 0 && t.step%r.CheckpointEvery == 0 {
			if err := ck.begin(ctx); err != nil {
				return out, err
			}
		}
		if r.Eval != nil && r.EvalEvery > 0 && t.step%r.EvalEvery == 0 {
			if err := t.evaluate(ctx, r); err != nil {
				return out, err
			}
			last, ck.waited = time.Now(), 0
			measure()
		}
	}
	r.Phase("checkpointing")
	if err := ck.begin(ctx); err != nil {
		return out, err
	}
	if err := ck.finish(ctx, r.CheckpointRetry); err != nil {
		return out, err
	}
	if out.Done && r.Eval != nil {
		return out, t.evaluate(ctx, r)
	}
	return out, nil
}

func (t *Trainer) evaluate(ctx context.Context, r Run) error {
	r.Phase("evaluating")
	e, err := t.Evaluate(ctx, r.Eval.Stream(data.Cursor{}, 0))
	if err != nil {
		return err
	}
	r.Evaluated(t.step, e)
	r.Phase("training")
	return nil
}
