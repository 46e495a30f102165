package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os/exec"
	"time"

	"github.com/zerofleet/zerofleet/bench/machine"
)

type calmOptions struct {
	model           string
	workers, deaths int
	length          time.Duration
	patience        time.Duration
}

func defineCalm(flags *flag.FlagSet) func(context.Context) (*table, error) {
	var o calmOptions
	flags.StringVar(&o.model, "model", "preset://tiny", "smollm2, preset://tiny, a folder or a GGUF file")
	flags.IntVar(&o.workers, "workers", 8, "workers on this machine, one thread each")
	flags.IntVar(&o.deaths, "deaths", 2, "how often the coordinator is killed, with its etcd, and started again")
	flags.DurationVar(&o.length, "for", 10*time.Minute, "how long")
	flags.DurationVar(&o.patience, "patience", 5*time.Minute, "bounds every other wait")
	return o.measure
}

// calmFound is what happened while nothing should have.
type calmFound struct {
	Seconds     float64   `json:"seconds"`
	Steps       uint64    `json:"steps"`
	Removals    int       `json:"removals"`
	Generations int       `json:"generations"`
	Away        []float64 `json:"away_seconds"`    // without a coordinator: from SIGKILL until it was asked for the state, and answered
	Stalled     float64   `json:"longest_seconds"` // between two steps
}

func (o *calmOptions) measure(ctx context.Context) (*table, error) {
	if o.workers < 2 || o.deaths < 0 || o.length <= 0 {
		return nil, fmt.Errorf("%d workers, %d deaths, %s: want at least 2, 0, and some time", o.workers, o.deaths, o.length)
	}
	s, err := sizeOf(ctx, o.model)
	if err != nil {
		return nil, err
	}
	s.Batch = max(s.Batch, o.workers)
	p, remove, err := newPlace(o.length + o.patience)
	if err != nil {
		return nil, err
	}
	defer remove()
	t := &table{Columns: []string{"", "found", "want"}}
	t.note("%s", machine.Line())
	t.note("%s, ZeRO-3, replicas 1, %d workers of one thread; the coordinator killed with SIGKILL %d times and started again at once.", s, o.workers, o.deaths)
	f, err := p.launch("calm", s, o.workers)
	if err != nil {
		return nil, err
	}
	defer f.close()
	before, err := f.whole(ctx, o.workers)
	if err != nil {
		return nil, err
	}
	began := time.Now()
	var found calmFound
	for n := range o.deaths + 1 {
		at := began.Add(o.length * time.Duration(n+1) / time.Duration(o.deaths+1))
		if err := f.await(ctx, "some calm", func() (bool, error) { return time.Now().After(at), nil }); err != nil {
			return nil, err
		}
		if n == o.deaths {
			break
		}
		died := time.Now()
		if err := f.kill(); err != nil {
			return nil, err
		}
		if err := f.start(); err != nil {
			return nil, err
		}
		if _, err := f.whole(ctx, o.workers); err != nil {
			return nil, err
		}
		found.Away = append(found.Away, time.Since(died).Seconds())
	}
	after, err := f.whole(ctx, o.workers)
	if err != nil {
		return nil, err
	}
	found.Seconds = time.Since(began).Seconds()
	same := 0
	for r, m := range after {
		if m.GetPid() == before[r].GetPid() && m.GetIncarnation() == before[r].GetIncarnation() {
			same++
		}
	}
	if err := f.stop(ctx); err != nil {
		return nil, err
	}
	return t, o.tell(ctx, t, f, found, same)
}

// tell fills the table, and is an error when somebody was removed or a step written twice.
func (o *calmOptions) tell(ctx context.Context, t *table, f *fleet, found calmFound, same int) error {
	found.Removals = len(f.events("worker_died", "worker_drained", "worker_restarted"))
	found.Generations = len(f.events("generation"))
	last, err := f.once()
	found.Steps = last
	w, werr := f.worked()
	for n := uint64(1); n <= last; n++ {
		if werr == nil && (w.committed[n] != 1 || w.by[n] != o.workers) {
			werr = fmt.Errorf("step %d: committed by %d workers, in generation %d", n, w.by[n], w.committed[n])
		}
	}
	if gaps := f.events("metrics_missing"); len(gaps) > 0 {
		err = errors.Join(err, fmt.Errorf("%d times: %s", len(gaps), gaps[0].What))
	}
	found.Stalled = largest(stepSeconds(f.steps(), 0))
	verdict := func(err error) string {
		if err != nil {
			return "no"
		}
		return "yes"
	}
	verified := exec.CommandContext(ctx, "bin/coordinator", "checkpoints", "verify", f.run).Run()
	t.row("minutes", fmt.Sprintf("%.1f", found.Seconds/60), "")
	t.row("times the coordinator was killed", fmt.Sprint(len(found.Away)), fmt.Sprint(o.deaths))
	t.row("seconds from its death until the next one leads the same workers, worst", seconds(largest(found.Away)), "")
	t.row("workers removed or started again", fmt.Sprint(found.Removals), "0")
	t.row("workers that are the processes and incarnations they were", fmt.Sprint(same), fmt.Sprint(o.workers))
	t.row("generations", fmt.Sprint(found.Generations), "1")
	t.row("steps", fmt.Sprint(found.Steps), "")
	t.row("each step has one line in metrics.jsonl", verdict(err), "yes")
	t.row("each step was committed once by each worker, in generation 1", verdict(werr), "yes")
	t.row("the checkpoint at the end is whole", verdict(verified), "yes")
	t.row("longest time between two steps, seconds", seconds(found.Stalled), "")
	t.Data = found
	if found.Removals != 0 || found.Generations != 1 || same != o.workers {
		err = errors.Join(err, errors.New("it was not calm"))
	}
	return errors.Join(err, werr, verified)
}
