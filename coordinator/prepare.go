package coordinator

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/zerofleet/zerofleet/job"
	"github.com/zerofleet/zerofleet/membership"
	"github.com/zerofleet/zerofleet/source"
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

// prepare checks a job and pins what it names. It writes nothing but downloads into the cache.
func prepare(ctx context.Context, o Options, j *job.Job, dir string, state folderState) (*prepared, error) {
	digests, err := digest(ctx, j)
	if err != nil {
		return nil, err
	}
	resolved, err := job.Resolve(j, digests)
	if err != nil {
		return nil, err
	}
	p := &prepared{resolved: resolved, fingerprint: resolved.Pins().Fingerprint}
	if o.Resume != "" {
		if err := p.resume(ctx, o.Resume, dir, state); err != nil {
			return nil, err
		}
	}
	p.yaml = p.resolved.Marshal()
	return p, nil
}

// digest finds what the job's sources hold.
func digest(ctx context.Context, j *job.Job) (job.Digests, error) {
	var d job.Digests
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = filepath.Join(os.TempDir(), "cache")
	}
	hub := source.Options{
		Endpoint: os.Getenv("HF_ENDPOINT"), Token: os.Getenv("HF_TOKEN"), CacheDir: filepath.Join(cache, "zerofleet"),
	}
	m, err := source.Model(ctx, j.Model.Base, hub)
	if err != nil {
		return d, faultOf(ctx, j, "model.base", err)
	}
	d.Model = m.Digest()
	if j.Model.Tokenizer != "" {
		t, err := source.Model(ctx, j.Model.Tokenizer, hub)
		if err != nil {
			return d, faultOf(ctx, j, "model.tokenizer", err)
		}
		d.Tokenizer = t.Digest()
	}
	for i, s := range j.Data.Train {
		t, err := source.Data(ctx, s.Path)
		if err != nil {
			return d, faultOf(ctx, j, fmt.Sprintf("data.train[%d].path", i), err)
		}
		d.Train = append(d.Train, t.Digest())
	}
	for i, s := range j.Data.Eval {
		t, err := source.Data(ctx, s.Path)
		if err != nil {
			return d, faultOf(ctx, j, fmt.Sprintf("data.eval[%d].path", i), err)
		}
		d.Eval = append(d.Eval, t.Digest())
	}
	return d, nil
}

// faultOf says that the field at path names something that is wrong, unless it was only the user who stopped waiting.
func faultOf(ctx context.Context, j *job.Job, path string, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return j.Fault(path, "%v", err)
}
