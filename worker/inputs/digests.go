package inputs

import (
	"context"
	"fmt"

	"github.com/zerofleet/zerofleet/job"
	"github.com/zerofleet/zerofleet/source"
)

// Digests finds what a job's sources hold on this machine. Of an error it returns the field that names what is wrong.
func Digests(ctx context.Context, j *job.Job) (d job.Digests, field string, err error) {
	hub := Hub()
	m, err := source.Model(ctx, j.Model.Base, hub)
	if err != nil {
		return d, "model.base", err
	}
	d.Model = m.Digest()
	if j.Model.Tokenizer != "" {
		t, err := source.Model(ctx, j.Model.Tokenizer, hub)
		if err != nil {
			return d, "model.tokenizer", err
		}
		d.Tokenizer = t.Digest()
	}
	for i, s := range j.Data.Train {
		t, err := source.Data(ctx, s.Path)
		if err != nil {
			return d, fmt.Sprintf("data.train[%d].path", i), err
		}
		d.Train = append(d.Train, t.Digest())
	}
	for i, s := range j.Data.Eval {
		t, err := source.Data(ctx, s.Path)
		if err != nil {
			return d, fmt.Sprintf("data.eval[%d].path", i), err
		}
		d.Eval = append(d.Eval, t.Digest())
	}
	return d, "", nil
}
