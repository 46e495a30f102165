// Command overlap measures what a step waits for: how much of its communication is hidden behind computing, what cutting a model
// over two workers costs, and what exactness costs.
//
//	make build && go run ./bench/overlap
//
// It runs whole jobs, the two sides of a comparison in turn, and prints a row for each side. README.md here says what stands in it.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/zerofleet/zerofleet/bench/machine"
	"github.com/zerofleet/zerofleet/bench/place"
)

// side is one way to run the job.
type side struct {
	name             string
	workers, threads int
	sets             []string
}

// comparison is two sides at one place.
type comparison struct {
	name, place string
	sides       [2]side
}

var comparisons = []comparison{
	{"split", place.Host, [2]side{{"1 worker of 2 threads", 1, 2, nil}, {"2 workers of 1 thread", 2, 1, nil}}},
	{"exact", place.Host, [2]side{{"exact: off", 2, 1, []string{"sharding.exact=off"}}, {"exact: required", 2, 1, nil}}},
	{"overlap", place.Slow, [2]side{{"one after the other", 2, 1, []string{"collective.overlap=false"}}, {"overlapped", 2, 1, nil}}},
}

type options struct {
	model         string
	steps, rounds int
	only          string
	dir           string
}

func main() {
	var o options
	flag.StringVar(&o.model, "model", "smollm2", "smollm2, preset://tiny, a folder or a GGUF file")
	flag.IntVar(&o.steps, "steps", 6, "steps of a run that count, after two that do not; of the tiny model 50 times as many")
	flag.IntVar(&o.rounds, "rounds", 3, "runs of each side, in turn")
	flag.StringVar(&o.only, "only", "", "split, exact or overlap: one comparison alone")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := o.run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "bench/overlap:", err)
		os.Exit(1)
	}
}

func (o *options) run(ctx context.Context) error {
	dir, err := os.MkdirTemp("", "zerofleet-overlap-*")
	if err != nil {
		return fmt.Errorf("make a folder: %w", err)
	}
	defer os.RemoveAll(dir)
	o.dir = dir
	job, err := o.job(ctx)
	if err != nil {
		return err
	}
	fmt.Println(machine.Line())
	fmt.Printf("%s, ZeRO-3, bf16; medians of %d runs of each side in turn (lowest, highest); seconds are a step's at rank 0.\n\n", o.model, o.rounds)
	t := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "| comparison | side | tokens/s | step, s | exposed communication, s | second side over first, tokens/s |")
	fmt.Fprintln(t, "|---|---|---|---|---|---|")
	for _, c := range comparisons {
		if o.only != "" && o.only != c.name {
			continue
		}
		if err := o.compare(ctx, t, job, c); err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
	}
	return t.Flush()
}

func (o *options) job(ctx context.Context) (path string, err error) {
	text, err := filepath.Abs("examples/data/tiny.txt")
	if err != nil {
		return "", fmt.Errorf("find the text: %w", err)
	}
	model, sequence, batch := o.model, 64, 8
	if o.model == "smollm2" {
		out, err := exec.CommandContext(ctx, "tools/fetch/smollm2.sh").Output()
		if err != nil {
			return "", fmt.Errorf("fetch SmolLM2: %w", err)
		}
		model, sequence = strings.TrimSpace(string(out)), 128
	} else {
		o.steps *= 50
	}
	if !strings.HasPrefix(model, "preset://") {
		if model, err = filepath.Abs(model); err != nil {
			return "", fmt.Errorf("find the model: %w", err)
		}
	}
	path = filepath.Join(o.dir, "job.yaml")
	return path, os.WriteFile(path, fmt.Appendf(nil, `name: overlap
model: {base: %q}
data: {train: [{path: %q, format: text}], sequence_len: %d}
train:
  steps: %d
  global_batch_size: %d
  micro_batch_size: 1
  optimizer: {learning_rate: 1.0e-5}
  schedule: {name: constant, warmup_steps: 0}
sharding: {stage: 3}
recovery: {replicas: 0}
checkpoint: {every_steps: 0}
log: {tensorboard: false}
`, model, text, sequence, o.steps+skipped, batch), 0o644)
}

// skipped steps do not count: memory is touched for the first time.
const skipped = 2

// figures are of one run.
type figures struct{ tokensPerSecond, step, exposed float64 }

func (o *options) compare(ctx context.Context, t *tabwriter.Writer, job string, c comparison) (err error) {
	p, err := place.New(c.place)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.Close()) }()
	var got [2][]figures
	for round := range o.rounds {
		for i, s := range c.sides {
			run := filepath.Join(o.dir, fmt.Sprintf("%s-%d-%d", c.name, i, round))
			if err := o.launch(ctx, p, job, run, s); err != nil {
				return fmt.Errorf("%s, round %d: %w", s.name, round+1, err)
			}
			f, err := read(run)
			if err != nil {
				return err
			}
			got[i] = append(got[i], f)
		}
	}
	for i, s := range c.sides {
		ratio := ""
		if i == 1 {
			var all []float64
			for r := range got[1] {
				all = append(all, got[1][r].tokensPerSecond/got[0][r].tokensPerSecond)
			}
			ratio = spread(all, "%.3f")
		}
		of := func(pick func(figures) float64, format string) string {
			var all []float64
			for _, f := range got[i] {
				all = append(all, pick(f))
			}
			return spread(all, format)
		}
		fmt.Fprintf(t, "| %s, %s | %s | %s | %s | %s | %s |\n", c.name, c.place, s.name, of(func(f figures) float64 { return f.tokensPerSecond }, "%.1f"),
			of(func(f figures) float64 { return f.step }, "%.3f"), of(func(f figures) float64 { return f.exposed }, "%.3f"), ratio)
	}
	return nil
}

// spread is a median, the lowest and the highest.
func spread(all []float64, format string) string {
	slices.Sort(all)
	return fmt.Sprintf(format+" ("+format+", "+format+")", all[len(all)/2], all[0], all[len(all)-1])
}

// launch runs a job to its end: where the place has two sides, one worker on each.
func (o *options) launch(ctx context.Context, p *place.Place, job, run string, s side) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Minute)
	defer cancel()
	args := []string{"launch", job, "--workers", fmt.Sprint(s.workers), "--set", "output.dir=" + run, "--set", fmt.Sprintf("workers.min=%d", s.workers),
		"--set", fmt.Sprintf("workers.max=%d", s.workers), "--set", fmt.Sprintf("workers.threads=%d", s.threads)}
	for _, set := range s.sets {
		args = append(args, "--set", set)
	}
	apart := p.Name != place.Host
	if apart {
		args = append(args, "--listen", p.Address(0, s.workers)+":0", "--local-workers", "1")
	}
	lead := start(p.Command(0, s.workers, "bin/coordinator", args...))
	defer lead.end()
	if apart {
		token := filepath.Join(run, "join.token")
		for !exists(token) {
			select {
			case <-time.After(50 * time.Millisecond):
			case <-lead.ended:
				return fmt.Errorf("launch (make build first): %w\n%s", lead.err, lead.out.String())
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		guest := start(p.Command(1, s.workers, "bin/worker", "join", "--token-file", token, "--advertise", p.Address(1, s.workers)))
		defer guest.end()
	}
	select {
	case <-lead.ended:
	case <-ctx.Done():
		return ctx.Err()
	}
	if lead.err != nil {
		return fmt.Errorf("launch (make build first): %w\n%s", lead.err, lead.out.String())
	}
	return nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// process is one that runs; err and out are not to be read before ended is closed.
type process struct {
	cmd   *exec.Cmd
	out   strings.Builder
	err   error
	ended chan struct{}
}

func start(cmd *exec.Cmd) *process {
	r := &process{cmd: cmd, ended: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = &r.out, &r.out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if r.err = cmd.Start(); r.err != nil {
		close(r.ended)
		return r
	}
	go func() {
		defer close(r.ended)
		r.err = cmd.Wait()
	}()
	return r
}

// end ends what still runs.
func (r *process) end() {
	select {
	case <-r.ended:
		return
	default:
	}
	for range 2 { // the second: without a checkpoint
		_ = syscall.Kill(-r.cmd.Process.Pid, syscall.SIGINT)
	}
	<-r.ended
}

// read takes a run's figures from its lines of steps.
func read(run string) (f figures, err error) {
	b, err := os.ReadFile(filepath.Join(run, "metrics.jsonl"))
	if err != nil {
		return f, fmt.Errorf("read the steps: %w", err)
	}
	type line struct {
		Time    time.Time
		Tokens  float64
		Seconds map[string]float64
	}
	var all []line
	for text := range strings.Lines(string(b)) {
		var l line
		if err := json.Unmarshal([]byte(text), &l); err != nil {
			return f, fmt.Errorf("read the steps of %s: %w", run, err)
		}
		all = append(all, l)
	}
	if len(all) <= skipped+1 {
		return f, fmt.Errorf("%s has %d steps", run, len(all))
	}
	first, count := all[skipped-1], all[skipped:]
	tokens := 0.0
	for _, l := range count {
		tokens += l.Tokens
		f.exposed += l.Seconds["exposed_communication"] / float64(len(count))
	}
	took := count[len(count)-1].Time.Sub(first.Time).Seconds()
	f.tokensPerSecond, f.step = tokens/took, took/float64(len(count))
	return f, nil
}
