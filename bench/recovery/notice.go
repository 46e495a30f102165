package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/zerofleet/zerofleet/bench/machine"
)

type noticeOptions struct {
	model       string
	workers     int
	short, long float64
	early, late float64
	patience    time.Duration
}

func defineNotice(flags *flag.FlagSet) func(context.Context) (*table, error) {
	var o noticeOptions
	flags.StringVar(&o.model, "model", "preset://tiny", "smollm2, preset://tiny, a folder or a GGUF file")
	flags.IntVar(&o.workers, "workers", 3, "workers on this machine, one thread each")
	flags.Float64Var(&o.short, "short", 3, "seconds that a step should take where there is time for a boundary")
	flags.Float64Var(&o.long, "long", 20, "seconds that a step should take where there is none")
	flags.Float64Var(&o.early, "early", 120, "seconds of the notice in time")
	flags.Float64Var(&o.late, "late", 2, "seconds of the notice that is too late")
	flags.DurationVar(&o.patience, "patience", 10*time.Minute, "bounds every wait")
	return o.measure
}

// drained is what a notice came to.
type drained struct {
	Deadline    float64 `json:"deadline_seconds"`
	StepSeconds float64 `json:"step_seconds"` // of the steps before
	Batch       int     `json:"global_batch_size"`
	Told        float64 `json:"told"`    // from the notice until the coordinator acted on it: asked for a boundary, or ended the generation
	Left        float64 `json:"left"`    // from the notice until the others had taken over, and the worker could go
	Process     float64 `json:"process"` // from the notice until its process had ended
	splits              // from the notice: detect until the generation was over
	Abandoned   int     `json:"steps_abandoned"`
}

func (o *noticeOptions) measure(ctx context.Context) (*table, error) {
	if o.workers < 2 || o.short <= 0 || o.long <= o.late || o.early <= 0 || o.late <= 0 {
		return nil, fmt.Errorf("%d workers, steps of %g and %g s, notices of %g and %g s: want at least 2, and a long step that outlasts the late notice",
			o.workers, o.short, o.long, o.early, o.late)
	}
	s, err := sizeOf(ctx, o.model)
	if err != nil {
		return nil, err
	}
	p, remove, err := newPlace(o.patience)
	if err != nil {
		return nil, err
	}
	defer remove()
	t := &table{Columns: []string{"notice of", "step takes", "until it is acted on", "until the others have everything", "until its process has ended", "until the next step is committed", "handed over",
		"steps abandoned and redone", "read from checkpoints"}}
	t.note("%s", machine.Line())
	t.note("%s, ZeRO-3, replicas 1, no checkpoint, %d workers of one thread; the notice is a file that a worker looks for twice a second. Seconds, from when the file was written.", s.name(), o.workers)
	each, err := o.sequenceSeconds(ctx, p, s)
	if err != nil {
		return nil, err
	}
	var all []drained
	for i, c := range []struct{ step, deadline float64 }{{o.short, o.early}, {o.long, o.late}} {
		s.Batch = max(o.workers, int(c.step/each)/s.MicroBatch*s.MicroBatch)
		d, err := o.once(ctx, p, fmt.Sprint("noticed-", i), s, c.deadline)
		if err != nil {
			return nil, fmt.Errorf("notice of %g s: %w", c.deadline, err)
		}
		t.row(fmt.Sprintf("%g s", c.deadline), fmt.Sprintf("%.1f s", d.StepSeconds), seconds(d.Told), seconds(d.Left), seconds(d.Process), seconds(d.Total), mib(d.MovedBytes),
			fmt.Sprint(d.Abandoned), mib(d.RestoredBytes))
		all = append(all, d)
	}
	t.Data = all
	if all[0].Abandoned != 0 || all[1].Abandoned > 1 || all[0].RestoredBytes+all[1].RestoredBytes != 0 {
		return t, errors.New("a step was lost to a notice in time, or more than one to a late one, or state was")
	}
	return t, nil
}

// sequenceSeconds is what one sequence adds to a step here: from a short run.
func (o *noticeOptions) sequenceSeconds(ctx context.Context, p *place, s size) (float64, error) {
	s.Batch = 8 * o.workers
	f, err := p.launch("measured", s, o.workers)
	if err != nil {
		return 0, err
	}
	defer f.close()
	if err := f.await(ctx, "eight steps", func() (bool, error) { return len(f.steps()) >= 8, nil }); err != nil {
		return 0, err
	}
	return median(stepSeconds(f.steps(), o.workers)) / float64(s.Batch), nil
}

// once gives the last rank's worker a notice as soon as a step has been committed.
func (o *noticeOptions) once(ctx context.Context, p *place, name string, s size, deadline float64) (d drained, err error) {
	f, err := p.launch(name, s, o.workers, fmt.Sprintf("workers.spot={provider: file, file: %q}", filepath.Join(p.dir, name+"-notice-{id}")))
	if err != nil {
		return d, err
	}
	defer f.close()
	members, err := f.whole(ctx, o.workers)
	if err != nil {
		return d, err
	}
	before := max(len(f.steps()), 2) // two steps of which the second is not the first
	if err := f.await(ctx, "a step", func() (bool, error) { return len(f.steps()) > before, nil }); err != nil {
		return d, err
	}
	steps := f.steps()
	d.Deadline, d.Batch = deadline, s.Batch
	d.StepSeconds = steps[len(steps)-1].Time.Sub(steps[len(steps)-2].Time).Seconds()
	victim := members[len(members)-1]
	at := time.Now()
	path := filepath.Join(p.dir, fmt.Sprintf("%s-notice-%s", name, victim.GetId()))
	if err := os.WriteFile(path, fmt.Appendf(nil, `{"deadline_seconds": %g, "why": "measured"}`, deadline), 0o644); err != nil {
		return d, fmt.Errorf("write the notice: %w", err)
	}
	err = f.await(ctx, "the handover", func() (ok bool, err error) {
		d.splits, ok = f.recovered(at, victim.GetGeneration(), "reconfiguring")
		return ok && len(f.events("worker_drained")) > 0, nil
	})
	if err != nil {
		return d, err
	}
	if died := f.events("worker_died"); len(died) > 0 {
		return d, fmt.Errorf("nobody should have died: %s", died[0].What)
	}
	d.Told = d.Detect
	d.Left = d.Detect + d.Agree + d.Reshard
	d.Process = f.events("worker_drained")[0].Time.Sub(at).Seconds()
	w, err := f.worked()
	if err != nil {
		return d, err
	}
	d.Abandoned = w.redone(victim.GetGeneration())
	d.Redone = d.Abandoned
	return d, nil
}
