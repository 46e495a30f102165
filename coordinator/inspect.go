package coordinator

import (
	"context"
	"errors"
	"io"

	"github.com/zerofleet/zerofleet/data"
	"github.com/zerofleet/zerofleet/job"
	"github.com/zerofleet/zerofleet/model/weights"
	"github.com/zerofleet/zerofleet/plan"
	"github.com/zerofleet/zerofleet/worker/inputs"
)

// PlanJob plans a job file, with sets laid over it, for this machine. It reads the model's description and nothing else.
func PlanJob(ctx context.Context, file string, sets []string) (*plan.Plan, error) {
	j, err := job.Load(file, sets)
	if err != nil {
		return nil, err
	}
	base, err := inputs.Local(ctx, j.Model.Base)
	if err != nil {
		return nil, faultOf(ctx, j, "model.base", err)
	}
	config, err := weights.Config(base)
	if err != nil {
		return nil, faultOf(ctx, j, "model.base", err)
	}
	p, err := plan.Make(j, config, plan.Local())
	if err != nil {
		return nil, badInput{err}
	}
	return p, nil
}

// ShowData writes the first n records that a job file trains on, with the tokens that count marked: green with colour, in
// brackets without.
func ShowData(ctx context.Context, w io.Writer, file string, sets []string, n int, colour bool) (err error) {
	j, err := job.Load(file, sets)
	if err != nil {
		return err
	}
	m, err := inputs.OpenModel(ctx, j)
	if err != nil {
		return modelFault(ctx, j, err)
	}
	defer func() { err = errors.Join(err, m.Close()) }()
	train, _, err := inputs.OpenData(ctx, j, m.Tokenizer)
	if err != nil {
		return faultOf(ctx, j, "data", err)
	}
	return data.Show(w, train, n, colour)
}
