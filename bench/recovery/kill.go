package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"syscall"
	"time"

	"github.com/zerofleet/zerofleet/bench/machine"
)

// killOptions say whom to kill and how often.
type killOptions struct {
	model          string
	workers, times int
	seed           uint64
	verify         bool
	patience       time.Duration
}

func defineKill(flags *flag.FlagSet) func(context.Context) (*table, error) {
	var o killOptions
	flags.StringVar(&o.model, "model", "smollm2", "smollm2, preset://tiny, a folder or a GGUF file")
	flags.IntVar(&o.workers, "workers", 4, "workers on this machine, one thread each")
	flags.IntVar(&o.times, "times", 10, "how many to kill, each after the last was got over and is back")
	flags.Uint64Var(&o.seed, "seed", 0, "of who is killed and when in a step; 0: another one each time")
	flags.BoolVar(&o.verify, "verify", true, "train as many steps undisturbed at the end, and compare hashes")
	flags.DurationVar(&o.patience, "patience", 10*time.Minute, "bounds every wait")
	return o.measure
}

// death is one worker's, and what came of it.
type death struct {
	Worker     string `json:"worker"`
	Rank       int    `json:"rank"`
	Generation uint64 `json:"generation"` // in which it died
	splits
	at time.Time
}

func (o *killOptions) measure(ctx context.Context) (*table, error) {
	if o.workers < 2 || o.times < 1 {
		return nil, fmt.Errorf("%d workers, %d times: want at least 2 and 1", o.workers, o.times)
	}
	if o.seed == 0 {
		o.seed = rand.Uint64()
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
	t := &table{Columns: []string{"seconds from SIGKILL", "median", "worst"}}
	t.note("%s", machine.Line())
	t.note("%s, ZeRO-3, replicas 1, no checkpoint, %d workers of one thread that are started again; seed %d.", s, o.workers, o.seed)
	f, err := p.launch("killed", s, o.workers, "workers.restart=true")
	if err != nil {
		return nil, err
	}
	defer f.close()
	deaths, err := o.disturb(ctx, f)
	if err != nil {
		return nil, err
	}
	if err := f.stop(ctx); err != nil {
		return nil, err
	}
	w, err := f.worked()
	if err != nil {
		return nil, err
	}
	var problems []error
	for i := range deaths {
		d := &deaths[i]
		d.Redone = w.redone(d.Generation)
		if d.Redone > 1 || d.RestoredBytes != 0 {
			problems = append(problems, fmt.Errorf("death %d: %d steps redone, %d bytes read from checkpoints: want at most 1 and 0", i+1, d.Redone, d.RestoredBytes))
		}
	}
	last, err := f.once()
	problems = append(problems, err)
	t.note("%d workers killed in %d steps, each of which has one line; the survivors were the same processes each time.", len(deaths), last)
	if o.verify {
		same, err := o.undisturbed(ctx, f, s)
		if err != nil {
			return nil, err
		}
		t.note("%s", same)
	}
	o.tell(t, f, deaths)
	return t, errors.Join(problems...)
}

// disturb kills workers, each at a random moment of a step.
func (o *killOptions) disturb(ctx context.Context, f *fleet) ([]death, error) {
	random := rand.New(rand.NewPCG(o.seed, 0))
	var deaths []death
	for range o.times {
		members, err := f.whole(ctx, o.workers)
		if err != nil {
			return nil, err
		}
		before := len(f.steps())
		if err := f.await(ctx, "two steps", func() (bool, error) { return len(f.steps()) >= before+2, nil }); err != nil {
			return nil, err
		}
		steps := f.steps()
		length := steps[len(steps)-1].Time.Sub(steps[len(steps)-2].Time)
		if err := wait(ctx, time.Duration(random.Float64()*float64(length))); err != nil {
			return nil, err
		}
		victim := members[random.IntN(len(members))]
		d := death{Worker: victim.GetId(), Rank: int(victim.GetRank()), Generation: victim.GetGeneration(), at: time.Now()}
		if err := syscall.Kill(int(victim.GetPid()), syscall.SIGKILL); err != nil {
			return nil, fmt.Errorf("kill worker %s: %w", d.Worker, err)
		}
		err = f.await(ctx, "the recovery", func() (ok bool, err error) {
			d.splits, ok = f.recovered(d.at, d.Generation, "worker_died")
			return ok, nil
		})
		if err != nil {
			return nil, err
		}
		again, err := f.whole(ctx, o.workers)
		if err != nil {
			return nil, err
		}
		now := map[string]int64{}
		for _, m := range again {
			now[m.GetId()] = m.GetPid()
		}
		for _, m := range members {
			if m != victim && now[m.GetId()] != m.GetPid() {
				return nil, fmt.Errorf("worker %s survived as process %d, and is %d now", m.GetId(), m.GetPid(), now[m.GetId()])
			}
		}
		deaths = append(deaths, d)
	}
	return deaths, nil
}

// undisturbed trains as far with nobody killed, and says whether the hashes are equal.
func (o *killOptions) undisturbed(ctx context.Context, f *fleet, s size) (string, error) {
	got, last, err := f.hash(ctx)
	if err != nil {
		return "", err
	}
	q, err := f.launch("undisturbed", s, o.workers, fmt.Sprintf("--stop-at=%d", last))
	if err != nil {
		return "", err
	}
	defer q.close()
	select {
	case <-q.ended:
	case <-ctx.Done():
		return "", ctx.Err()
	}
	want, _, err := q.hash(ctx)
	if err != nil {
		return "", fmt.Errorf("%w\n%s", err, q.out.String())
	}
	if got != want {
		return "", fmt.Errorf("hash of step %d: %.12s, undisturbed %.12s", last, got, want)
	}
	return fmt.Sprintf("Hash of step %d: %.12s, the same as of a run in which nobody was killed.", last, got), nil
}

// tell fills the table.
func (o *killOptions) tell(t *table, f *fleet, deaths []death) {
	column := func(name string, of func(death) float64, format func(float64) string) {
		var x []float64
		for _, d := range deaths {
			x = append(x, of(d))
		}
		t.row(name, format(median(x)), format(largest(x)))
	}
	column("until it is detected", func(d death) float64 { return d.Detect }, seconds)
	column("then until the next generation is written", func(d death) float64 { return d.Agree }, seconds)
	column("then until every shard and replica is in place", func(d death) float64 { return d.Reshard }, seconds)
	column("then until the next step is committed", func(d death) float64 { return d.Redo }, seconds)
	column("all", func(d death) float64 { return d.Total }, seconds)
	column("moved between workers", func(d death) float64 { return float64(d.MovedBytes) }, func(x float64) string { return mib(int64(x)) })
	column("read from checkpoints", func(d death) float64 { return float64(d.RestoredBytes) }, func(x float64) string { return mib(int64(x)) })
	column("steps of which a leaf was computed again", func(d death) float64 { return float64(d.Redone) }, func(x float64) string { return fmt.Sprint(int(x)) })
	for _, world := range []int{o.workers, o.workers - 1} {
		x := stepSeconds(f.steps(), world)
		if len(x) > 0 {
			t.row(fmt.Sprintf("for comparison: a step of %d workers", world), seconds(median(x)), seconds(largest(x)))
		}
	}
	t.Data = deaths
}

func wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
