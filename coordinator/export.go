package coordinator

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/zerofleet/zerofleet/checkpoint"
	"github.com/zerofleet/zerofleet/job"
	"github.com/zerofleet/zerofleet/membership/store"
	"github.com/zerofleet/zerofleet/model/spec"
	"github.com/zerofleet/zerofleet/model/weights"
	"github.com/zerofleet/zerofleet/worker/inputs"
)

// Export writes the newest committed checkpoint that path names as a Hugging Face folder, tensor by tensor, and returns
// its step. dtype is f32, bf16 or f16; "" is what the job computed in. The tokenizer goes along when the run that wrote
// the checkpoint is known.
func Export(ctx context.Context, path, out, dtype string) (step int64, err error) {
	f, err := find(path)
	if err == nil {
		err = f.newestCommitted(ctx)
	}
	if err != nil {
		return 0, badInput{err}
	}
	if err := weights.Replaceable(out); err != nil {
		return 0, bad("--out: %w", err)
	}
	return f.manifest.Step, f.export(ctx, out, dtype)
}

func (f *found) export(ctx context.Context, out, dtype string) (err error) {
	config, err := spec.ParseConfig(f.manifest.Model)
	if err != nil {
		return fmt.Errorf("read the model's configuration in the checkpoint: %w", err)
	}
	var extra []weights.Extra
	if f.job != nil {
		if dtype == "" {
			dtype = f.job.Train.Precision
		}
		if extra, err = companions(ctx, &f.job.Job); err != nil {
			return err
		}
	}
	if dtype == "" {
		dtype = "f32"
	}
	r, err := f.reader(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	if err := weights.Save(ctx, out, config, dtype, r.ReadTensor, extra); err != nil {
		return fmt.Errorf("export the checkpoint of step %d: %w", f.manifest.Step, err)
	}
	return nil
}

// result writes the model of a run that has reached its last step into its folder.
func (r *reconciler) result(ctx context.Context, v store.View) error {
	if v.Manifest.Step == 0 {
		return checkpoint.ErrNone
	}
	m, err := checkpoint.Decode(v.Manifest.Bytes)
	if err != nil {
		return err
	}
	j, err := job.ReadResolved(r.folder.path("job.resolved.yaml"))
	if err != nil {
		return err
	}
	f := &found{run: r.folder.dir, job: j, store: storeDir(&j.Job), manifest: m}
	out := r.folder.path("model")
	if err := f.export(ctx, out, ""); err != nil {
		return err
	}
	r.record.event("model_written", "model written: "+shown(out), "", map[string]string{"path": out, "dtype": j.Train.Precision})
	return nil
}

// companions are the files that go with a job's model: those of its folder, or its tokenizer's made anew.
func companions(ctx context.Context, j *job.Job) ([]weights.Extra, error) {
	base, err := inputs.Local(ctx, j.Model.Base)
	if err != nil {
		return nil, err
	}
	extra, err := weights.Companions(base)
	if err != nil || len(extra) > 0 && j.Model.Tokenizer == "" {
		return extra, err
	}
	from := base
	if j.Model.Tokenizer != "" {
		if from, err = inputs.Local(ctx, j.Model.Tokenizer); err != nil {
			return nil, err
		}
	}
	t, err := inputs.OpenTokenizer(from)
	if err != nil {
		return nil, err
	}
	files, err := t.Files()
	if err != nil {
		return nil, fmt.Errorf("write tokenizer: %w", err)
	}
	extra = slices.DeleteFunc(extra, func(e weights.Extra) bool { _, ours := files[e.Name]; return ours })
	for _, name := range slices.Sorted(maps.Keys(files)) {
		extra = append(extra, weights.Extra{Name: name, Data: files[name]})
	}
	return extra, nil
}
