package main

import (
	"context"
	"flag"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/zerofleet/zerofleet/bench/machine"
	"github.com/zerofleet/zerofleet/coordinator"
)

type costOptions struct {
	models         string
	workers, steps int
	rounds         int
	sequence       int
	batch          int
	patience       time.Duration
}

func defineCost(flags *flag.FlagSet) func(context.Context) (*table, error) {
	var o costOptions
	flags.StringVar(&o.models, "model", "preset://tiny,smollm2", "models, with commas between")
	flags.IntVar(&o.workers, "workers", 4, "workers on this machine, one thread each")
	flags.IntVar(&o.steps, "steps", 12, "steps of each run that count, after two that do not; of the tiny model 50 times as many")
	flags.IntVar(&o.rounds, "rounds", 3, "runs with and without replicas, in turn")
	flags.IntVar(&o.sequence, "sequence", 0, "tokens of a sequence; 0: 64")
	flags.IntVar(&o.batch, "batch", 0, "sequences of a step; 0: 8 of the tiny model, 4 of another")
	flags.DurationVar(&o.patience, "patience", 10*time.Minute, "bounds every wait")
	return o.measure
}

// cost is what one run took.
type cost struct {
	Model           string           `json:"model"`
	Round           int              `json:"round"`
	Replicas        int              `json:"replicas"`
	TokensPerSecond float64          `json:"tokens_per_second"`
	SentBytes       int64            `json:"sent_bytes"` // of one worker in a step, its own counters: the median over the steps
	SentBy          map[string]int64 `json:"sent_by"`    // of a step of that many
	AllocatedBytes  int64            `json:"allocated_bytes"`
	AnonymousBytes  int64            `json:"anonymous_bytes"` // the largest worker's peak of memory that nobody else can read
	ResidentBytes   int64            `json:"resident_bytes"`  // and with mapped files: the model's pages count in each
	PlanAllocated   int64            `json:"plan_allocated_bytes"`
	PlanBytes       int64            `json:"plan_bytes"` // with what is taken beside the allocator, at most
}

func (o *costOptions) measure(ctx context.Context) (*table, error) {
	if o.workers < 2 || o.steps < 2 || o.rounds < 1 {
		return nil, fmt.Errorf("%d workers, %d steps, %d rounds: want at least 2, 2 and 1", o.workers, o.steps, o.rounds)
	}
	t := &table{Columns: []string{"model", "replicas", "tokens/s (lowest, highest)", "sent in a step", "allocated", "peak of private memory", "resident peak", "plan: allocated", "plan: all"}}
	t.note("%s", machine.Line())
	t.note("ZeRO-3, %d workers of one thread, nobody dies: %d runs of each kind in turn. Bytes are one worker's; the largest's, where they differ. Memory that peers may read is in the resident peak alone, and what a worker reads of its peers with it.", o.workers, o.rounds)
	p, remove, err := newPlace(o.patience)
	if err != nil {
		return nil, err
	}
	defer remove()
	var all []cost
	for _, model := range strings.Split(o.models, ",") {
		s, err := sizeOf(ctx, model)
		if err != nil {
			return nil, err
		}
		if o.sequence > 0 {
			s.Sequence = o.sequence
		}
		if o.batch > 0 {
			s.Batch = o.batch
		}
		var by [2][]cost
		for round := range o.rounds {
			for replicas := range by {
				c, err := o.once(ctx, p, s, replicas, round)
				if err != nil {
					return nil, fmt.Errorf("%s, replicas %d, round %d: %w", s.name(), replicas, round+1, err)
				}
				by[replicas] = append(by[replicas], c)
			}
		}
		t.note("%s.", s)
		o.tell(t, s, by)
		all = append(all, slices.Concat(by[0], by[1])...)
	}
	t.Data = all
	return t, nil
}

// tell adds a model's rows: each kind, and their ratio round by round.
func (o *costOptions) tell(t *table, s size, by [2][]cost) {
	last := func(list []cost) cost { return list[len(list)-1] }
	for replicas, list := range by {
		var speed []float64
		var own, resident []int64
		for _, c := range list {
			speed, own, resident = append(speed, c.TokensPerSecond), append(own, c.AnonymousBytes), append(resident, c.ResidentBytes)
		}
		t.row(s.name(), fmt.Sprint(replicas), fmt.Sprintf("%.1f (%.1f, %.1f)", median(speed), slices.Min(speed), slices.Max(speed)), mib(last(list).SentBytes),
			mib(last(list).AllocatedBytes), mib(largest(own)), mib(largest(resident)), mib(last(list).PlanAllocated), mib(last(list).PlanBytes))
	}
	ratio := func(of func(cost) float64) string {
		var x []float64
		for i := range by[0] {
			x = append(x, of(by[1][i])/of(by[0][i]))
		}
		return fmt.Sprintf("%.3f (%.3f, %.3f)", median(x), slices.Min(x), slices.Max(x))
	}
	t.row(s.name(), "1 over 0", ratio(func(c cost) float64 { return c.TokensPerSecond }), ratio(func(c cost) float64 { return float64(c.SentBytes) }),
		ratio(func(c cost) float64 { return float64(c.AllocatedBytes) }), ratio(func(c cost) float64 { return float64(c.AnonymousBytes) }),
		ratio(func(c cost) float64 { return float64(c.ResidentBytes) }),
		ratio(func(c cost) float64 { return float64(c.PlanAllocated) }), ratio(func(c cost) float64 { return float64(c.PlanBytes) }))
}

// once runs the job for as many steps as count.
func (o *costOptions) once(ctx context.Context, p *place, s size, replicas, round int) (c cost, err error) {
	const skipped = 2
	steps := o.steps + skipped
	if s.Model == "preset://tiny" {
		steps = 50*o.steps + skipped
	}
	set := []string{fmt.Sprintf("recovery.replicas=%d", replicas), "checkpoint.on_exit=false"}
	f, err := p.launch(fmt.Sprintf("%s-%d-%d", s.name(), replicas, round), s, o.workers, set...)
	if err != nil {
		return c, err
	}
	defer f.close()
	c = cost{Model: s.name(), Round: round, Replicas: replicas}
	members, err := f.whole(ctx, o.workers)
	if err != nil {
		return c, err
	}
	for _, m := range members {
		var sum int64
		for _, n := range m.GetMemoryBytes() {
			sum += n
		}
		c.AllocatedBytes = max(c.AllocatedBytes, sum)
	}
	next := time.Now()
	err = f.await(ctx, fmt.Sprintf("%d steps", steps), func() (bool, error) {
		if time.Now().Before(next) { // reading the run's files takes processor time that is the workers'
			return false, nil
		}
		next = time.Now().Add(4 * look)
		for _, m := range members {
			c.AnonymousBytes = max(c.AnonymousBytes, resident(int(m.GetPid()), "RssAnon"))
			c.ResidentBytes = max(c.ResidentBytes, resident(int(m.GetPid()), "VmHWM"))
		}
		return len(f.steps()) > steps, nil
	})
	if err != nil {
		return c, err
	}
	count := f.steps()[skipped-1 : steps]
	first, last := count[0], count[len(count)-1]
	var tokens int64
	var sent []int64
	for _, x := range count[1:] {
		tokens += x.Tokens
		sent = append(sent, x.sent())
	}
	c.TokensPerSecond = float64(tokens) / last.Time.Sub(first.Time).Seconds()
	c.SentBytes, c.SentBy = median(sent), map[string]int64{}
	for k, n := range last.SentBytes {
		c.SentBy[k] = int64(n)
	}
	plan, err := coordinator.PlanJob(ctx, f.run+".yaml", set)
	if err != nil {
		return c, err
	}
	c.PlanAllocated, c.PlanBytes = plan.Worker.Allocated(), plan.Worker.Total()
	return c, nil
}
