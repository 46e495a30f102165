package main

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"time"

	"github.com/zerofleet/zerofleet/bench/machine"
	"github.com/zerofleet/zerofleet/membership"
	"github.com/zerofleet/zerofleet/membership/fleettest"
)

type planOptions struct {
	workers, failures, at int
	seed                  uint64
}

func definePlan(flags *flag.FlagSet) func(context.Context) (*table, error) {
	var o planOptions
	flags.IntVar(&o.workers, "workers", 10000, "workers at first")
	flags.IntVar(&o.failures, "failures", 1000, "how many of them die")
	flags.IntVar(&o.at, "at", 2, "how many at a time")
	flags.Uint64Var(&o.seed, "seed", 0, "of who dies; 0: another one each time")
	return o.measure
}

// planFound is what the simulation saw. Seconds are of single calls of the planner, by what it answered.
type planFound struct {
	Seed                uint64
	Generations         int
	FromMemory          int
	FromCheckpoint      int
	Write, Over, Stands []float64
	AllocatedBytes      uint64 // a call that writes a generation, on average
	PeakBytes           int64  // of this process, with the simulation's own account
}

func (o *planOptions) measure(ctx context.Context) (*table, error) {
	if o.at < 1 || o.failures < o.at || o.workers <= o.failures {
		return nil, fmt.Errorf("%d of %d workers die, %d at a time: want fewer than all", o.failures, o.workers, o.at)
	}
	if o.seed == 0 {
		o.seed = rand.Uint64()
	}
	t := &table{Columns: []string{"a call that", "calls", "median ms", "worst ms"}}
	t.note("%s", machine.Line())
	t.note("membership.Next: %d workers, of whom %d die, %d at a time, each time with all other workers' promises; seed %d.", o.workers, o.failures, o.at, o.seed)
	found := planFound{Seed: o.seed}
	f, err := fleettest.New(o.workers)
	if err != nil {
		return nil, err
	}
	f.Plan = found.timed
	random := rand.New(rand.NewPCG(o.seed, 0))
	for done := 0; done+o.at <= o.failures && ctx.Err() == nil; done += o.at {
		f.Train(1+random.Int64N(2), func(string) bool { return random.IntN(3) > 0 })
		members := f.View.Current.Members
		var ids []string
		for chosen := map[int]bool{}; len(ids) < o.at; {
			if r := random.IntN(len(members)); !chosen[r] {
				chosen[r] = true
				ids = append(ids, members[r].ID)
			}
		}
		f.Kill(ids...)
		lost := f.Lost()
		g, err := f.Recover()
		if err == nil && g == nil {
			err = fmt.Errorf("workers %v are dead, and the generation stands", ids)
		}
		if err != nil {
			return nil, fmt.Errorf("seed %d: %w", o.seed, err)
		}
		if found.Generations++; g.Handover != nil {
			found.FromMemory++
		} else {
			found.FromCheckpoint++
			t.note("Generation %d goes back to a checkpoint: nobody has %s.", g.Number, lost)
		}
		if err := f.Settle(); err != nil {
			return nil, fmt.Errorf("seed %d: %w", o.seed, err)
		}
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if found.Generations > 0 {
		found.AllocatedBytes /= uint64(found.Generations)
	}
	found.PeakBytes = resident(os.Getpid(), "VmHWM")
	t.note("%d generations: %d from memory, in each of which every shard has an owner or a replica that really has it; %d from a checkpoint, in each of which a rank and its buddy had died together. "+
		"A plan allocates %s; the process, with the simulation's own account, held at most %s.",
		found.Generations, found.FromMemory, found.FromCheckpoint, mib(int64(found.AllocatedBytes)), mib(found.PeakBytes))
	for _, c := range []struct {
		name  string
		calls []float64
	}{{"says that the generation is over", found.Over}, {"writes the next one", found.Write}, {"finds that all is well", found.Stands}} {
		t.row(c.name, fmt.Sprint(len(c.calls)), fmt.Sprintf("%.2f", 1e3*median(c.calls)), fmt.Sprintf("%.2f", 1e3*largest(c.calls)))
	}
	t.Data = found
	return t, nil
}

// timed is the planner with a clock.
func (p *planFound) timed(v membership.View, now time.Time) membership.Decision {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	start := time.Now()
	d := membership.Next(v, now)
	took := time.Since(start).Seconds()
	switch {
	case d.Next != nil:
		runtime.ReadMemStats(&after)
		p.AllocatedBytes += after.TotalAlloc - before.TotalAlloc
		p.Write = append(p.Write, took)
	case d.Over:
		p.Over = append(p.Over, took)
	default:
		p.Stands = append(p.Stands, took)
	}
	return d
}
