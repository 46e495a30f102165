package coordinator

import (
	"context"
	"errors"

	"github.com/zerofleet/zerofleet/checkpoint"
	"github.com/zerofleet/zerofleet/data"
	"github.com/zerofleet/zerofleet/job"
	"github.com/zerofleet/zerofleet/membership"
	"github.com/zerofleet/zerofleet/plan"
	"github.com/zerofleet/zerofleet/worker/inputs"
)

// prepared is a job that can start: everything about it that could be known to be wrong has been looked at.
type prepared struct {
	resolved    *job.Resolved
	yaml        []byte              // of job.resolved.yaml
	restore     *membership.Restore // nil: from the base model
	after       uint64              // generations go on from this one
	fingerprint string              // what the kernels must compute; "": not known yet
	notes       []string            // what the user should know
}

// prepareUnlessInterrupted is prepare, given up at the user's first Ctrl-C: nothing is running yet.
func prepareUnlessInterrupted(ctx context.Context, o Options, j *job.Job, dir string, state folderState) (*prepared, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	listening := make(chan struct{})
	defer func() {
		cancel(nil)
		<-listening
	}()
	go func() {
		defer close(listening)
		select {
		case <-o.Interrupts:
			cancel(errors.New("interrupted before anything was started"))
		case <-ctx.Done():
		}
	}()
	p, err := prepare(ctx, o, j, dir, state)
	if err != nil && ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return p, err
}

// prepare checks a job and pins what it names: sources, model, tokenizer, data, and whether it fits this machine. It writes
// nothing but downloads into the cache.
func prepare(ctx context.Context, o Options, j *job.Job, dir string, state folderState) (*prepared, error) {
	digests, field, err := inputs.Digests(ctx, j)
	if err != nil {
		return nil, faultOf(ctx, j, field, err)
	}
	resolved, err := job.Resolve(j, digests)
	if err != nil {
		return nil, err
	}
	p := &prepared{resolved: resolved, fingerprint: resolved.Pins().Fingerprint}
	if err := p.open(ctx, j); err != nil {
		return nil, err
	}
	if o.Resume != "" {
		if err := p.resume(ctx, o.Resume, dir, state); err != nil {
			return nil, err
		}
	}
	p.yaml = p.resolved.Marshal()
	return p, nil
}

// open reads everything as a worker will, so that what is wrong with it is found here, and plans the memory.
func (p *prepared) open(ctx context.Context, j *job.Job) error {
	m, err := inputs.OpenModel(ctx, j)
	if err != nil {
		return modelFault(ctx, j, err)
	}
	defer m.Close()
	train, eval, err := inputs.OpenData(ctx, j, m.Tokenizer)
	if err != nil {
		return faultOf(ctx, j, "data", err)
	}
	if _, err := checkpoint.OpenStore(ctx, storeDir(j)); err != nil {
		return faultOf(ctx, j, "checkpoint.store", err)
	}
	for _, d := range []*data.Dataset{train, eval} {
		if d == nil {
			continue
		}
		for _, s := range d.Stats() {
			p.notes = append(p.notes, s.String())
		}
	}
	made, err := plan.Make(j, m.Config(), plan.Local())
	if err == nil {
		err = made.Err()
	}
	if err != nil {
		return badInput{err}
	}
	p.notes = append(p.notes, made.Why)
	p.resolved = p.resolved.Settle(made.Stage, made.Recompute)
	return nil
}

// modelFault is faultOf for what opens the model and its tokenizer.
func modelFault(ctx context.Context, j *job.Job, err error) error {
	if errors.Is(err, inputs.ErrTokenizer) && j.Model.Tokenizer != "" {
		return faultOf(ctx, j, "model.tokenizer", err)
	}
	return faultOf(ctx, j, "model.base", err)
}

// faultOf says that the field at path names something that is wrong, unless it was only the user who stopped waiting.
func faultOf(ctx context.Context, j *job.Job, path string, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return j.Fault(path, "%v", err)
}
