// Command checkpoint measures what checkpoints cost, on the disk of a folder: how long a step waits for one, how fast one
// is written beside fio, and how much a rank reads when another number of ranks restores it.
//
//	make build && go run ./bench/checkpoint -dir .
//
// It prints three tables; README.md here says what stands in them.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"text/tabwriter"

	"github.com/zerofleet/zerofleet/model/spec"
)

// smolLM2 is SmolLM2-135M's shape.
var smolLM2 = spec.Config{
	Architecture: spec.Llama,
	Vocab:        49152, Width: 576, Layers: 30, Heads: 9, KVHeads: 3, HeadWidth: 64, FeedForward: 1536,
	NormEps: 1e-5, RopeTheta: 100000, Tied: true, MaxPositions: 8192,
	BOS: 1, EOS: []int{2}, Pad: 2,
}

func main() {
	dir := flag.String("dir", ".", "a folder on the disk that is measured")
	rounds := flag.Int("rounds", 5, "how often each side of a comparison is measured")
	only := flag.String("only", "", "wait, write or read: one table alone")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, *dir, *only, *rounds); err != nil {
		fmt.Fprintln(os.Stderr, "bench/checkpoint:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, dir, only string, rounds int) error {
	dir, err := os.MkdirTemp(dir, "bench-checkpoint-*")
	if err != nil {
		return fmt.Errorf("make a folder: %w", err)
	}
	defer os.RemoveAll(dir)
	tiny, err := spec.Preset("preset://tiny")
	if err != nil {
		return err
	}
	t := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	for _, table := range []struct {
		name string
		do   func() error
	}{
		{"wait", func() error {
			return waits(ctx, t, dir, rounds, []shape{{"tiny", tiny, 64, 128}, {"SmolLM2-135M", smolLM2, 4, 128}})
		}},
		{"write", func() error { return writes(ctx, t, dir, rounds) }},
		{"read", func() error { return reads(ctx, t, dir) }},
	} {
		if only != "" && only != table.name {
			continue
		}
		if err := table.do(); err != nil {
			return fmt.Errorf("%s: %w", table.name, err)
		}
		fmt.Fprintln(t)
		if err := t.Flush(); err != nil {
			return err
		}
	}
	return nil
}

func median(list []float64) float64 {
	s := slices.Sorted(slices.Values(list))
	return (s[(len(s)-1)/2] + s[len(s)/2]) / 2
}
