// Command train measures one training step of SmolLM2-135M's shape, beside transformers and torch on the
// same machine, in one interleaved run: one step of ours, one of theirs, and so on, because a virtual machine's
// speed swings from minute to minute. Believe the ratios.
//
//	tools/venv.sh && go run ./bench/train
//	go run ./bench/train -python "" -profile -only f32/1x512      ours alone, by kernel
//
// A step is forward, backward, reduction, clipping and AdamW on random tokens, every one of which
// counts. Weights are random: their values do not change the work.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"strings"

	"github.com/zerofleet/zerofleet/kernels"
	"github.com/zerofleet/zerofleet/kernels/cpu"
)

// shape is one row of the table.
type shape struct {
	act               kernels.DType
	sequences, tokens int
}

func (s shape) batch() string  { return fmt.Sprintf("%dx%d", s.sequences, s.tokens) }
func (s shape) String() string { return fmt.Sprintf("%s/%s", s.act, s.batch()) }

var shapes = []shape{
	{kernels.F32, 1, 512}, {kernels.F32, 4, 128}, {kernels.BF16, 1, 512}, {kernels.BF16, 4, 128},
}

type options struct {
	threads, rounds int
	python          string
	only            string
	profile         bool
	recompute       bool
}

func main() {
	var o options
	flag.IntVar(&o.threads, "threads", 2, "threads of each side")
	flag.IntVar(&o.rounds, "rounds", 11, "steps of each side and shape; the first is not counted")
	flag.StringVar(&o.python, "python", ".venv/bin/python", "a Python with torch and transformers, which tools/venv.sh installs; \"\" for ours alone")
	flag.StringVar(&o.only, "only", "", "measure only the shapes whose name holds this, such as bf16/4x128")
	flag.BoolVar(&o.profile, "profile", false, "print the time of each kernel")
	flag.BoolVar(&o.recompute, "recompute", false, "recompute activations")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "bench/train:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) error {
	if o.threads < 1 || o.rounds < 2 {
		return fmt.Errorf("%d threads, %d rounds: want at least 1 and 2", o.threads, o.rounds)
	}
	var theirs *torch
	if o.python != "" {
		if _, err := os.Stat(o.python); err != nil {
			return fmt.Errorf("%w: run tools/venv.sh from the repository's root, or give -python \"\" for ours alone", err)
		}
		var err error
		if theirs, err = startTorch(ctx, o.python, o.threads); err != nil {
			return err
		}
		defer theirs.close()
	}
	if err := header(o, theirs); err != nil {
		return err
	}
	for _, s := range shapes {
		if !strings.Contains(s.String(), o.only) {
			continue
		}
		if err := measure(ctx, o, s, theirs); err != nil {
			return fmt.Errorf("%s: %w", s, err)
		}
	}
	return nil
}

// header says what is measured where, and begins the table.
func header(o options, theirs *torch) error {
	b, err := cpu.Open(cpu.Options{Threads: o.threads})
	if err != nil {
		return err
	}
	caps := b.Caps()
	if err := b.Close(); err != nil {
		return err
	}
	fmt.Printf("A training step of SmolLM2-135M, 1 worker x %d threads: median of %d steps, tokens/s.\n", o.threads, o.rounds-1)
	fmt.Printf("%s, %d cores; zerofleet: %s, %s", processor(), runtime.NumCPU(), caps.ISA, caps.Products)
	if theirs == nil {
		fmt.Print("\n\n| precision | batch | zerofleet |\n|---|---|--:|\n")
		return nil
	}
	fmt.Printf("; torch %s, transformers %s\n\n", theirs.versions.Torch, theirs.versions.Transformers)
	fmt.Print("| precision | batch | zerofleet | torch | ratio | lowest and highest |\n|---|---|--:|--:|--:|--:|\n")
	return nil
}

// processor is the machine's name for its processor.
func processor() string {
	info, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return runtime.GOARCH
	}
	for line := range strings.Lines(string(info)) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return runtime.GOARCH
}

func measure(ctx context.Context, o options, s shape, theirs *torch) (err error) {
	ours, err := newStepper(ctx, o, s)
	if err != nil {
		return err
	}
	defer func() {
		if e := ours.close(); err == nil {
			err = e
		}
	}()
	var a, b, ratios []float64
	for round := range o.rounds {
		if round == 1 {
			ours.profile.reset()
		}
		our, err := ours.step(ctx)
		if err != nil {
			return err
		}
		var their float64
		if theirs != nil {
			if their, err = theirs.step(s); err != nil {
				return err
			}
		}
		if round == 0 {
			continue
		}
		tokens := float64(s.sequences * s.tokens)
		a, b, ratios = append(a, tokens/our), append(b, tokens/their), append(ratios, their/our)
	}
	if theirs == nil {
		fmt.Printf("| %s | %s | %.1f |\n", s.act, s.batch(), median(a))
	} else {
		fmt.Printf("| %s | %s | %.1f | %.1f | %.2f | %.2f, %.2f |\n", s.act, s.batch(), median(a), median(b), median(ratios),
			slices.Min(ratios), slices.Max(ratios))
	}
	if o.profile {
		ours.profile.print(os.Stdout, o.rounds-1)
	}
	return nil
}

func median(x []float64) float64 {
	x = slices.Sorted(slices.Values(x))
	return (x[(len(x)-1)/2] + x[len(x)/2]) / 2
}
