// Command memory shows what ZeRO saves: SmolLM2-135M in bf16 at every stage and 1, 2 and 4 workers, the bytes that a
// worker's allocator gave out for parameters, gradients and optimizer beside the formula of package shard, and the
// process's resident memory beside that with what else it holds.
//
//	make build && go run ./bench/memory -model "$(tools/fetch/smollm2.sh)"
//
// Each row is a real launch, stopped after its first step.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/zerofleet/zerofleet/model/weights"
	"github.com/zerofleet/zerofleet/shard"
)

func main() {
	model := flag.String("model", "", "the model: a folder or a GGUF file")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, *model); err != nil {
		fmt.Fprintln(os.Stderr, "bench/memory:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, model string) error {
	model, err := filepath.Abs(model)
	if err != nil {
		return fmt.Errorf("find -model: %w", err)
	}
	config, err := weights.Config(model)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "zerofleet-memory-*")
	if err != nil {
		return fmt.Errorf("make a folder: %w", err)
	}
	defer os.RemoveAll(dir)
	fmt.Println("| stage | workers | parameters | gradients | optimizer | sum | formula | off | bytes per parameter | all allocated | resident (anonymous + files) |")
	fmt.Println("|---|---|---|---|---|---|---|---|---|---|---|")
	for stage := shard.Replicated; stage <= shard.Parameters; stage++ {
		for _, workers := range []int{1, 2, 4} {
			var want, plain int64
			for _, u := range config.Units() {
				l, err := shard.NewLayout(u.Elems, workers)
				if err != nil {
					return err
				}
				want += shard.PersistentBytes(l, stage, func(n int64) int64 { return 2 * n }, false).Total()
				plain += int64(u.Elems)
			}
			got, err := measure(ctx, filepath.Join(dir, fmt.Sprintf("%d-%d", stage, workers)), model, stage, workers)
			if err != nil {
				return fmt.Errorf("stage %d, %d workers: %w", stage, workers, err)
			}
			for _, w := range got[:1] { // rank 0; all ranks allocate the same
				m := w.MemoryBytes
				sum := m["parameters"] + m["gradients"] + m["optimizer"]
				all := int64(0)
				for _, n := range m {
					all += n
				}
				fmt.Printf("| %d | %d | %s | %s | %s | %s | %s | %+.2f %% | %.2f | %s | %s (%s + %s) |\n", stage, workers,
					mib(m["parameters"]), mib(m["gradients"]), mib(m["optimizer"]), mib(sum), mib(want), 100*(float64(sum)/float64(want)-1),
					float64(sum)/float64(plain), mib(all), mib(w.anonymous+w.files), mib(w.anonymous), mib(w.files))
			}
		}
	}
	return nil
}

func mib(n int64) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }

type worker struct {
	Rank             int
	PID              int
	Step             uint64
	MemoryBytes      map[string]int64 `json:"memory_bytes"`
	anonymous, files int64            // resident
}

// measure launches the job, waits until every worker has made a step, looks, and stops it. The workers come in rank order.
func measure(ctx context.Context, dir, model string, stage shard.Stage, workers int) (got []worker, err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("make a folder: %w", err)
	}
	text, err := filepath.Abs("examples/data/tiny.txt")
	if err != nil {
		return nil, fmt.Errorf("find the text: %w", err)
	}
	spec := fmt.Sprintf(`name: memory
model: {base: %q}
data: {train: [{path: %q, format: text}], sequence_len: 128}
train: {steps: 1000, global_batch_size: %d, micro_batch_size: 1, optimizer: {name: adamw, learning_rate: 1.0e-5}, precision: bf16, gradient_checkpointing: false}
sharding: {stage: %d}
workers: {min: %d, max: %d}
recovery: {replicas: 0}
checkpoint: {every_steps: 0}
output: {dir: %q}
`, model, text, workers, stage, workers, workers, filepath.Join(dir, "run"))
	file := filepath.Join(dir, "job.yaml")
	if err := os.WriteFile(file, []byte(spec), 0o644); err != nil {
		return nil, fmt.Errorf("write the job: %w", err)
	}
	var out bytes.Buffer
	launch := exec.Command("bin/coordinator", "launch", file)
	launch.Stdout, launch.Stderr = &out, &out
	if err := launch.Start(); err != nil {
		return nil, fmt.Errorf("launch: %w", err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		launch.Wait() //nolint:errcheck // it is interrupted
	}()
	defer func() { // twice: without a checkpoint
		for range 2 {
			if e := launch.Process.Signal(syscall.SIGINT); e != nil && !errors.Is(e, os.ErrProcessDone) {
				err = errors.Join(err, e)
			}
		}
		<-ended
		os.RemoveAll(dir)
	}()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-ended:
			return nil, fmt.Errorf("the launch ended early:\n%s", out.String())
		case <-tick.C:
		}
		got, err = look(ctx, filepath.Join(dir, "run"), workers)
		if err != nil || got != nil {
			return got, err
		}
	}
}

// look asks for the run's state; nil when not every worker has made a step.
func look(ctx context.Context, run string, workers int) ([]worker, error) {
	b, err := exec.CommandContext(ctx, "bin/coordinator", "status", run, "-o", "json").Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return nil, nil // it is starting
	}
	if err != nil {
		return nil, fmt.Errorf("ask for the status: %w", err)
	}
	var s struct{ Workers []worker }
	if err := json.Unmarshal(b, &s); err != nil {
		return nil, fmt.Errorf("decode status: %w", err)
	}
	byRank := make([]worker, workers)
	for _, w := range s.Workers {
		if w.Rank < 0 || w.Rank >= workers || w.Step == 0 {
			return nil, nil
		}
		if w.anonymous, err = resident(w.PID, "RssAnon"); err != nil {
			return nil, err
		}
		if w.files, err = resident(w.PID, "RssFile"); err != nil {
			return nil, err
		}
		byRank[w.Rank] = w
	}
	if len(s.Workers) != workers {
		return nil, nil
	}
	return byRank, nil
}

// resident is a line of /proc/PID/status, in bytes.
func resident(pid int, field string) (int64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, fmt.Errorf("look at worker: %w", err)
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, field+":"); ok {
			n, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			return n << 10, err
		}
	}
	return 0, fmt.Errorf("process %d has no %s", pid, field)
}
