package job

import (
	"fmt"
	"slices"
)

// Digests are the content digests of what a job names, as package source finds them.
type Digests struct {
	Model     string
	Tokenizer string   // "" when the tokenizer is the model's
	Train     []string // one for each of data.train
	Eval      []string // one for each of data.eval
}

// Resolved is a job whose every choice that can change a bit of the result is made and pinned: Pins is never nil in
// it. What may still be auto (stage, gradient checkpointing, transport, device) changes no bit, or, in the case
// of the device, is held by the fingerprint.
type Resolved struct {
	Job
}

// Resolve pins the contents that a job's sources have now. A job that is pinned already, such as a submitted
// job.resolved.yaml, keeps its fingerprint; a source of it that changed is a Fault that names it.
func Resolve(j *Job, d Digests) (*Resolved, error) {
	if d.Model == "" || len(d.Train) != len(j.Data.Train) || len(d.Eval) != len(j.Data.Eval) {
		return nil, fmt.Errorf("resolve job %s: digests of %d training and %d evaluation sources, and %q of the model: want %d, %d and one",
			j.Name, len(d.Train), len(d.Eval), d.Model, len(j.Data.Train), len(j.Data.Eval))
	}
	r := &Resolved{Job: *j}
	pins := &Pins{Model: d.Model, Tokenizer: d.Tokenizer, Train: slices.Clone(d.Train), Eval: slices.Clone(d.Eval)}
	if was := j.Resolved; was != nil {
		if err := j.compare(was, pins); err != nil {
			return nil, err
		}
		pins.Fingerprint = was.Fingerprint
	}
	r.Resolved = pins
	return r, nil
}

// compare refuses sources that changed since the job was pinned.
func (j *Job) compare(was, now *Pins) error {
	var faults Faults
	check := func(path, names, was, now string) {
		if was != now {
			faults = append(faults, Fault{at: j.position(path), Path: path,
				Message: fmt.Sprintf("%s changed: it was %s and is %s", names, orNone(was), orNone(now))})
		}
	}
	check("resolved.model", j.Model.Base, was.Model, now.Model)
	check("resolved.tokenizer", "model.tokenizer", was.Tokenizer, now.Tokenizer)
	for _, l := range []struct {
		path     string
		sources  []Source
		was, now []string
	}{{"resolved.train", j.Data.Train, was.Train, now.Train}, {"resolved.eval", j.Data.Eval, was.Eval, now.Eval}} {
		if len(l.was) != len(l.now) {
			faults = append(faults, Fault{at: j.position(l.path), Path: l.path,
				Message: fmt.Sprintf("%d digests for %d sources", len(l.was), len(l.now))})
			continue
		}
		for i := range l.was {
			check(fmt.Sprintf("%s[%d]", l.path, i), l.sources[i].Path, l.was[i], l.now[i])
		}
	}
	if len(faults) > 0 {
		return faults.sorted()
	}
	return nil
}

func orNone(digest string) string {
	if digest == "" {
		return "none"
	}
	return digest
}

// Pins are the digests and the fingerprint.
func (r *Resolved) Pins() Pins { return *r.Resolved }

// WithFingerprint is r with the kernels' fingerprint that the first generation's lowest rank announced.
func (r *Resolved) WithFingerprint(fingerprint string) *Resolved {
	out := &Resolved{Job: r.Job}
	pins := *r.Resolved
	pins.Fingerprint = fingerprint
	out.Resolved = &pins
	return out
}

// Settle is r with the stage and the recomputation that the plan chose where the job said auto. No bit depends on them.
func (r *Resolved) Settle(stage int, recompute bool) *Resolved {
	out := &Resolved{Job: r.Job}
	if out.Sharding.Stage == StageAuto {
		out.Sharding.Stage = Stage(stage)
	}
	if out.Train.GradientCheckpointing == Auto {
		out.Train.GradientCheckpointing = Off
		if recompute {
			out.Train.GradientCheckpointing = On
		}
	}
	return out
}

// Marshal is the text of job.resolved.yaml: every field, defaults too. Load reads it, and Resolve of what was read
// gives the same Resolved.
func (r *Resolved) Marshal() []byte {
	return append([]byte("# What this run does, every default written out. Submit this file again to repeat the run.\n"), emit(&r.Job)...)
}

// ReadResolved reads a job.resolved.yaml.
func ReadResolved(path string) (*Resolved, error) {
	j, err := Load(path, nil)
	if err != nil {
		return nil, err
	}
	if j.Resolved == nil {
		return nil, j.Fault("resolved", "required in a resolved job: this is a job file that was never submitted")
	}
	return &Resolved{Job: *j}, nil
}
