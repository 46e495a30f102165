package inputs

import (
	"context"
	"errors"
	"fmt"

	"github.com/zerofleet/zerofleet/data"
	"github.com/zerofleet/zerofleet/job"
	"github.com/zerofleet/zerofleet/tokenizer"
)

// OpenData opens and encodes what a job trains on, and what it evaluates on: nil when it does not.
func OpenData(ctx context.Context, j *job.Job, t *tokenizer.Tokenizer) (train, eval *data.Dataset, err error) {
	template, err := t.Template("", data.Today)
	if err != nil && (!errors.Is(err, tokenizer.ErrNoTemplate) || hasMessages(j)) {
		return nil, nil, err
	}
	enc := data.NewEncoder(t, template)
	o := data.Options{
		Sources: sources(j.Data.Train), SequenceLen: j.Data.SequenceLen, Packing: j.Data.Packing, LossOn: data.LossOn(j.Data.LossOn),
		Overlong: data.Overlong(j.Data.Overlong), Shuffle: true, Seed: j.Seed, HoldOut: j.Data.EvalFraction, Part: data.Kept,
		GlobalBatch: j.Train.GlobalBatchSize, MicroBatch: j.Train.MicroBatchSize, Epochs: j.Train.Epochs, Steps: j.Train.Steps,
	}
	if train, err = data.Open(ctx, o, enc); err != nil {
		return nil, nil, fmt.Errorf("training data: %w", err)
	}
	if len(j.Data.Eval) == 0 && j.Data.EvalFraction == 0 {
		return train, nil, nil
	}
	o.Shuffle, o.Part, o.Steps, o.Epochs = false, data.Held, 0, 1
	if len(j.Data.Eval) > 0 {
		o.Sources = sources(j.Data.Eval)
	}
	if eval, err = data.Open(ctx, o, enc); err != nil {
		return nil, nil, fmt.Errorf("evaluation data: %w", err)
	}
	return train, eval, nil
}

// hasMessages says whether a source of the job holds conversations, which need a chat template.
func hasMessages(j *job.Job) bool {
	for _, s := range append(append([]job.Source(nil), j.Data.Train...), j.Data.Eval...) {
		if data.Format(s.Format) == data.Messages {
			return true
		}
	}
	return false
}

func sources(list []job.Source) []data.Source {
	out := make([]data.Source, len(list))
	for i, s := range list {
		out[i] = data.Source{Path: s.Path, Format: data.Format(s.Format), Weight: s.Weight}
	}
	return out
}
