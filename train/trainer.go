package train

import (
	"context"
	"fmt"

	"github.com/zerofleet/zerofleet/collective"
	"github.com/zerofleet/zerofleet/kernels"
	"github.com/zerofleet/zerofleet/model"
	"github.com/zerofleet/zerofleet/shard"
)

// Device is what this rank computes with.
type Device struct {
	Backend kernels.Backend
	// Fold adds one leaf's elements to the accumulator: acc[i] += src[i]. src holds len(acc) elements of type t and may
	// be unaligned. It is called by several goroutines at once, on different elements.
	Fold func(acc []float32, src []byte, t kernels.DType) error
}

// Trainer is one rank's training state in one generation. One goroutine uses it.
type Trainer struct {
	o           Options
	dec         *model.Decoder
	dev         Device
	group       collective.Group
	rank, world int
	schedule    *shard.Schedule
	arena       *kernels.Arena
	stream      kernels.Stream

	units   []unit
	slots   []slot
	staging kernels.Buffer // wire type, the largest unit: see needsStaging
	squares kernels.Buffer // f64, one per block of the largest part
	pass    *model.Pass

	maxPadded, maxPart int

	// step is how many steps have committed, optimizerStep how many of them updated.
	step, optimizerStep int64
}

// New takes the memory of rank group.Rank() and leaves the state zero: Init or Restore fills it. Close frees it.
func New(ctx context.Context, o Options, dec *model.Decoder, dev Device, group collective.Group) (*Trainer, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	measured, _, err := build(o, dec, dev, group.Rank(), group.Size(), &kernels.Arena{})
	if err != nil {
		return nil, err
	}
	arena, err := measured.Allocate(dev.Backend)
	if err != nil {
		return nil, fmt.Errorf("training state of rank %d of %d: %w", group.Rank(), group.Size(), err)
	}
	_, t, err := build(o, dec, dev, group.Rank(), group.Size(), arena)
	if err != nil {
		arena.Free()
		return nil, err
	}
	t.group = group
	if t.stream, err = dev.Backend.NewStream("train"); err != nil {
		arena.Free()
		return nil, err
	}
	if err := t.pass.Init(t.stream); err != nil {
		t.Close()
		return nil, err
	}
	return t, nil
}

// Measure is the bytes by use that rank of world would take, without taking them.
func Measure(o Options, dec *model.Decoder, dev Device, rank, world int) (map[kernels.Use]int64, error) {
	a, _, err := build(o, dec, dev, rank, world, &kernels.Arena{})
	if err != nil {
		return nil, err
	}
	return a.Usage(), nil
}

func build(o Options, dec *model.Decoder, dev Device, rank, world int, a *kernels.Arena) (*kernels.Arena, *Trainer, error) {
	t := &Trainer{o: o, dec: dec, dev: dev, rank: rank, world: world, arena: a,
		schedule: shard.NewSchedule(len(dec.Units()), dec.Tied(), o.Stage)}
	if err := t.take(a); err != nil {
		return nil, nil, fmt.Errorf("plan memory: %w", err)
	}
	return a, t, nil
}

func (t *Trainer) passOptions() model.PassOptions {
	return model.PassOptions{B: t.o.MicroBatch, T: t.o.SequenceLen, Recompute: t.o.Recompute, Train: true}
}

// Usage is the bytes taken by use.
func (t *Trainer) Usage() map[kernels.Use]int64 { return t.arena.Usage() }

// Step is how many steps have committed, OptimizerStep how many of them updated.
func (t *Trainer) Step() int64          { return t.step }
func (t *Trainer) OptimizerStep() int64 { return t.optimizerStep }

// Close frees the stream and the memory. No collective may be under way.
func (t *Trainer) Close() error {
	err := t.stream.Close()
	if e := t.arena.Free(); err == nil {
		err = e
	}
	return err
}
