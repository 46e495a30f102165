package main

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/zerofleet/zerofleet/bench/machine"
	"github.com/zerofleet/zerofleet/model/spec"
)

//go:embed torchrun_train.py
var torchrunTrain string

type torchrunOptions struct {
	python         string
	workers, times int
	seed           uint64
	patience       time.Duration
}

func defineTorchrun(flags *flag.FlagSet) func(context.Context) (*table, error) {
	var o torchrunOptions
	flags.StringVar(&o.python, "python", ".venv/bin/python", "a Python with torch and transformers, which tools/venv.sh installs")
	flags.IntVar(&o.workers, "workers", 2, "workers of each side on this machine, one thread each")
	flags.IntVar(&o.times, "times", 5, "runs of each side, in turn, with one SIGKILL each")
	flags.Uint64Var(&o.seed, "seed", 0, "of who is killed; 0: another one each time")
	flags.DurationVar(&o.patience, "patience", 5*time.Minute, "bounds every wait")
	return o.measure
}

// restarted are the seconds from SIGKILL to the next finished step under torchrun, and on the way.
type restarted struct {
	Started  float64 `json:"started"`  // until all workers' new processes run
	Imported float64 `json:"imported"` // until they have imported torch and transformers
	Loaded   float64 `json:"loaded"`   // until they have joined and have read the snapshot
	Total    float64 `json:"total"`
	Lost     int64   `json:"steps_lost"` // finished before, and computed again
	Attempts int     `json:"attempts"`   // how often all were started again until they met
}

func (o *torchrunOptions) measure(ctx context.Context) (*table, error) {
	s, err := sizeOf(ctx, "preset://tiny")
	if err != nil {
		return nil, err
	}
	if o.workers < 2 || o.times < 1 || s.Batch%o.workers != 0 {
		return nil, fmt.Errorf("%d workers, %d times: want at least 2 and 1, and workers that divide a batch of %d", o.workers, o.times, s.Batch)
	}
	if _, err := os.Stat(o.python); err != nil {
		return nil, fmt.Errorf("%w: run tools/venv.sh from the repository's root", err)
	}
	s.MicroBatch = s.Batch / o.workers // one micro-batch a worker, as torch's
	if o.seed == 0 {
		o.seed = rand.Uint64()
	}
	random := rand.New(rand.NewPCG(o.seed, 0))
	p, remove, err := newPlace(o.patience)
	if err != nil {
		return nil, err
	}
	defer remove()
	t := &table{Columns: []string{"seconds from SIGKILL to the next finished step", "median", "worst"}}
	t.note("%s", machine.Line())
	var ours []splits
	var theirs []restarted
	version := ""
	for n := range o.times {
		mine, err := o.ours(ctx, p, s, n, random)
		if err != nil {
			return nil, fmt.Errorf("ours, run %d: %w", n+1, err)
		}
		their, v, err := o.theirs(ctx, p, s, n, random)
		if err != nil {
			return nil, fmt.Errorf("torchrun, run %d: %w", n+1, err)
		}
		ours, theirs, version = append(ours, mine), append(theirs, their), v
	}
	t.note("%s, %d workers of one thread, one killed at random; %d runs of each side in turn; seed %d.", s, o.workers, o.times, o.seed)
	t.note("torchrun of torch %s: --standalone --max-restarts --monitor-interval 0.1; DistributedDataParallel over gloo, transformers' Llama, a snapshot on disk after each step, "+
		"and imports of nothing else; TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1, without which a restart can take several attempts. With one node of a fixed size its rendezvous waits for nobody, so that no --rdzv-conf makes it quicker. Ours: ZeRO-3, replicas 1, no checkpoint, the survivors go on.", version)
	add := func(name string, x []float64) { t.row(name, seconds(median(x)), seconds(largest(x))) }
	add("zerofleet", column(ours, func(s splits) float64 { return s.Total }))
	add("torchrun", column(theirs, func(r restarted) float64 { return r.Total }))
	add("torchrun: until all new processes run", column(theirs, func(r restarted) float64 { return r.Started }))
	add("torchrun: until they have imported torch and transformers", column(theirs, func(r restarted) float64 { return r.Imported }))
	add("torchrun: until they have joined and read the snapshot", column(theirs, func(r restarted) float64 { return r.Loaded }))
	add("torchrun, had the imports taken no time", column(theirs, func(r restarted) float64 { return r.Total - (r.Imported - r.Started) }))
	attempts := column(theirs, func(r restarted) float64 { return float64(r.Attempts) })
	t.row("torchrun: attempts to start again", fmt.Sprint(median(attempts)), fmt.Sprint(largest(attempts)))
	add("torchrun over zerofleet, run by run", func() (x []float64) {
		for i := range ours {
			x = append(x, theirs[i].Total/ours[i].Total)
		}
		return x
	}())
	t.Data = map[string]any{"zerofleet": ours, "torchrun": theirs}
	return t, nil
}

func column[T any](list []T, of func(T) float64) (x []float64) {
	for _, v := range list {
		x = append(x, of(v))
	}
	return x
}

// stepsBefore are trained before the kill, so that everything is warm.
const stepsBefore = 20

func (o *torchrunOptions) ours(ctx context.Context, p *place, s size, n int, random *rand.Rand) (got splits, err error) {
	f, err := p.launch(fmt.Sprint("ours-", n), s, o.workers)
	if err != nil {
		return got, err
	}
	defer f.close()
	members, err := f.whole(ctx, o.workers)
	if err != nil {
		return got, err
	}
	if err := f.await(ctx, "steps", func() (bool, error) { return len(f.steps()) >= stepsBefore, nil }); err != nil {
		return got, err
	}
	victim := members[random.IntN(len(members))]
	at := time.Now()
	if err := syscall.Kill(int(victim.GetPid()), syscall.SIGKILL); err != nil {
		return got, fmt.Errorf("kill worker %s: %w", victim.GetId(), err)
	}
	return got, f.await(ctx, "the recovery", func() (ok bool, err error) {
		got, ok = f.recovered(at, victim.GetGeneration(), "worker_died")
		return ok, nil
	})
}

// torchLine is what a worker under torchrun tells.
type torchLine struct {
	What, Torch        string
	Time               float64 // Unix, seconds
	PID, Rank, Restart int
	Step               int64
}

func (o *torchrunOptions) theirs(ctx context.Context, p *place, s size, n int, random *rand.Rand) (got restarted, version string, err error) {
	config, err := spec.Preset(s.Model)
	if err != nil {
		return got, "", err
	}
	shape, err := config.HuggingFace("f32")
	if err != nil {
		return got, "", err
	}
	sizes, err := json.Marshal(map[string]int{"batch": s.Batch, "sequence": s.Sequence})
	if err != nil {
		return got, "", err
	}
	script, told := filepath.Join(p.dir, "train.py"), filepath.Join(p.dir, fmt.Sprintf("torchrun-%d.jsonl", n))
	if err := os.WriteFile(script, []byte(torchrunTrain), 0o644); err != nil {
		return got, "", fmt.Errorf("write the loop: %w", err)
	}
	errs, err := os.Create(filepath.Join(p.dir, fmt.Sprintf("torchrun-%d.log", n)))
	if err != nil {
		return got, "", fmt.Errorf("write a log: %w", err)
	}
	defer errs.Close()
	cmd := exec.Command(o.python, "-m", "torch.distributed.run", "--standalone", fmt.Sprint("--nproc-per-node=", o.workers), "--max-restarts=3",
		"--monitor-interval=0.1", script, string(shape), string(sizes), told, told+".snapshot")
	// Without the last one, workers that are started again can read the addresses of the dead in the store that they share with
	// the agent, and fail once or twice before they meet: pytorch/pytorch#135712.
	cmd.Env = append(os.Environ(), "OMP_NUM_THREADS=1", "CUDA_VISIBLE_DEVICES=", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1")
	cmd.Stdout, cmd.Stderr = errs, errs
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	f := &fleet{place: p, run: p.dir, cmd: cmd, ended: make(chan struct{})}
	if err := cmd.Start(); err != nil {
		return got, "", fmt.Errorf("start torchrun: %w", err)
	}
	go func() {
		defer close(f.ended)
		_ = cmd.Wait() // it is ended below
	}()
	defer func() {
		_ = cmd.Process.Signal(syscall.SIGTERM) // it ends its workers
		select {
		case <-f.ended:
		case <-time.After(p.patience):
			_ = cmd.Process.Kill()
			<-f.ended
		}
	}()
	lines := func() []torchLine { return each[torchLine](told) }
	pids := map[int]int{}
	last := int64(0)
	err = f.await(ctx, "torchrun's steps", func() (bool, error) {
		for _, l := range lines() {
			pids[l.Rank], last = l.PID, max(last, l.Step)
			if l.Torch != "" {
				version = l.Torch
			}
		}
		return last >= stepsBefore, nil
	})
	if err == nil {
		victim := pids[random.IntN(o.workers)]
		at := time.Now()
		if err = syscall.Kill(victim, syscall.SIGKILL); err == nil {
			err = f.await(ctx, "torchrun's next step", func() (ok bool, err error) {
				got, ok = restart(lines(), at, o.workers)
				return ok, nil
			})
		}
	}
	if err != nil {
		log, _ := os.ReadFile(errs.Name())
		return got, version, errors.Join(err, fmt.Errorf("torchrun said:\n%s", log))
	}
	return got, version, nil
}

// restart finds in what the workers told how they started again after a time. ok is false while they have not.
func restart(lines []torchLine, at time.Time, workers int) (r restarted, ok bool) {
	since := func(l torchLine) float64 { return l.Time - float64(at.UnixNano())/1e9 }
	var begun, loaded int
	var before, from int64
	for _, l := range lines {
		switch {
		case l.Restart == 0:
			before = max(before, l.Step)
		case l.What == "started":
			begun++
			r.Started = max(r.Started, since(l))
		case l.What == "imported":
			r.Imported = max(r.Imported, since(l))
		case l.What == "loaded":
			loaded++
			r.Loaded, from = max(r.Loaded, since(l)), l.Step
		case l.What == "step" && begun >= workers && loaded >= workers:
			r.Total, r.Lost, r.Attempts = since(l), before-from, l.Restart
			return r, true
		}
	}
	return r, false
}
