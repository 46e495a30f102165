package train

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/zerofleet/zerofleet/data"
	"github.com/zerofleet/zerofleet/train/exactsum"
)

// Evaluation is what a data set's tokens cost.
type Evaluation struct {
	Loss   float64 // mean over Tokens
	Tokens uint64
}

// Evaluate computes the loss of a data set, leaf i on rank i mod W. Its sum is exact, so it does not depend on W.
func (t *Trainer) Evaluate(ctx context.Context, stream *data.Stream) (Evaluation, error) {
	rec := Record{Step: uint64(t.step)}
	for {
		batch, err := stream.Next(ctx)
		if errors.Is(err, io.EOF) {
			break
		}
		if err == nil {
			err = t.evaluateBatch(ctx, batch, &rec)
		}
		if err != nil {
			return Evaluation{}, fmt.Errorf("evaluate after step %d, rank %d: %w", t.step, t.rank, err)
		}
	}
	c, err := t.agree(ctx, rec)
	if err != nil || c.LossTokens == 0 {
		return Evaluation{}, err
	}
	return Evaluation{Loss: c.LossSum.Float64() / float64(c.LossTokens), Tokens: c.LossTokens}, nil
}

func (t *Trainer) evaluateBatch(ctx context.Context, batch *data.GlobalBatch, rec *Record) error {
	for first := 0; first < batch.Leaves; first += t.world {
		leaf := first + t.rank
		have := leaf < batch.Leaves
		if have {
			b, err := batch.Leaf(leaf)
			if err != nil {
				return err
			}
			rec.LossTokens += uint64(b.LossTokens)
			if err := t.load(ctx, b); err != nil {
				return err
			}
		}
		if err := t.run(ctx, t.schedule.Evaluate(), round{have: have}); err != nil {
			return err
		}
		if have {
			var sum exactsum.Sum
			if err := t.addLosses(ctx, &sum); err != nil {
				return err
			}
			rec.LossSum.Merge(sum)
		}
	}
	return nil
}
