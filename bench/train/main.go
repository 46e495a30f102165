// Command train measures one training step of SmolLM2-135M's shape, beside transformers and torch on the
// same machine, in one interleaved run: one step of ours, one of theirs, and so on, because a virtual machine's
// speed swings from minute to minute. Believe the ratios.
//
//	go run ./bench/train -python .venv/bin/python
//	go run ./bench/train -profile -only f32/512      ours alone, by kernel
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
	"slices"
	"strings"

	"github.com/zerofleet/zerofleet/kernels"
)

// shape is one row of the table.
type shape struct {
	act               kernels.DType
	sequences, tokens int
}

func (s shape) String() string {
	if s.sequences == 1 {
		return fmt.Sprintf("%s/%d", s.act, s.tokens)
	}
	return fmt.Sprintf("%s/%dx%d", s.act, s.sequences, s.tokens)
}

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
	flag.IntVar(&o.rounds, "rounds", 7, "steps of each side and shape; the first is not counted")
	flag.StringVar(&o.python, "python", "", "a Python with torch and transformers; without it, ours alone")
	flag.StringVar(&o.only, "only", "", "measure only the shapes whose name holds this, such as f32/512")
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
		var err error
		if theirs, err = startTorch(ctx, o.python, o.threads); err != nil {
			return err
		}
		defer theirs.close()
		fmt.Printf("torch %s, transformers %s\n", theirs.versions.Torch, theirs.versions.Transformers)
	}
	fmt.Printf("%-12s %12s %12s %8s   tokens/s, median of %d steps, %d threads\n", "", "zerofleet", "torch", "ratio", o.rounds-1, o.threads)
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
	var a, b []float64
	for round := range o.rounds {
		if round == 1 {
			ours.profile.reset()
		}
		seconds, err := ours.step(ctx)
		if err != nil {
			return err
		}
		a = append(a, seconds)
		if theirs == nil {
			continue
		}
		if seconds, err = theirs.step(s); err != nil {
			return err
		}
		b = append(b, seconds)
	}
	tokens := float64(s.sequences * s.tokens)
	rate := func(seconds []float64) float64 { return tokens / median(seconds[1:]) }
	if theirs == nil {
		fmt.Printf("%-12s %12.1f\n", s, rate(a))
	} else {
		fmt.Printf("%-12s %12.1f %12.1f %8.2f\n", s, rate(a), rate(b), rate(a)/rate(b))
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
