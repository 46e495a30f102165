package train

import (
	"context"
	"errors"
	"fmt"

	"github.com/zerofleet/zerofleet/checkpoint"
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
	// held has the state that a later generation may be built from, work the rest: nil once retired.
	held, work *kernels.Arena
	stream     kernels.Stream

	units   []unit
	slots   []slot
	staging kernels.Buffer // wire type, the largest unit: see needsStaging
	squares kernels.Buffer // f64, one per block of the largest part
	pass    *model.Pass

	maxPadded, maxPart int

	// step is how many steps have committed, optimizerStep how many of them updated. last is what the newest of them was
	// computed from: all ranks' records, nil before this generation's first.
	step, optimizerStep int64
	last                [][]byte
	// cursor is where the data stream stands after step, next after the step that is open.
	cursor, next checkpoint.Cursor
	computed     func(step int64, leaf int) // see Run
	shipping     shipment
	clock        clock
}

// New takes the memory of rank group.Rank() and leaves the state zero: Init, Restore or TakeOver fills it. Close frees it,
// after the Group was closed: peers read in it.
func New(ctx context.Context, o Options, dec *model.Decoder, dev Device, group collective.Group) (*Trainer, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	measured, err := build(o, dec, dev, group.Rank(), group.Size(), &kernels.Arena{}, &kernels.Arena{})
	if err != nil {
		return nil, err
	}
	fail := func(err error) error {
		return fmt.Errorf("training state of rank %d of %d: %w", group.Rank(), group.Size(), err)
	}
	held, err := measured.held.Allocate(dev.Backend)
	if err != nil {
		return nil, fail(err)
	}
	work, err := measured.work.Allocate(dev.Backend)
	if err != nil {
		return nil, fail(errors.Join(err, held.Free()))
	}
	t, err := build(o, dec, dev, group.Rank(), group.Size(), held, work)
	if err != nil {
		return nil, errors.Join(err, held.Free(), work.Free())
	}
	t.group = group
	if err := errors.Join(held.Shared(group.Share), work.Shared(group.Share)); err != nil {
		return nil, errors.Join(fail(err), held.Free(), work.Free())
	}
	if t.stream, err = dev.Backend.NewStream("train"); err != nil {
		return nil, errors.Join(err, held.Free(), work.Free())
	}
	if err := t.pass.Init(t.stream); err != nil {
		return nil, errors.Join(err, t.Close())
	}
	return t, nil
}

// Measure is the bytes by use that rank of world would take, without taking them.
func Measure(o Options, dec *model.Decoder, dev Device, rank, world int) (map[kernels.Use]int64, error) {
	t, err := build(o, dec, dev, rank, world, &kernels.Arena{}, &kernels.Arena{})
	if err != nil {
		return nil, err
	}
	return t.Usage(), nil
}

func build(o Options, dec *model.Decoder, dev Device, rank, world int, held, work *kernels.Arena) (*Trainer, error) {
	t := &Trainer{o: o, dec: dec, dev: dev, rank: rank, world: world, held: held, work: work,
		schedule: shard.NewSchedule(len(dec.Units()), dec.Tied(), o.Stage)}
	t.schedule.Serial = o.Serial
	if err := t.take(held, work); err != nil {
		return nil, fmt.Errorf("plan memory: %w", err)
	}
	return t, nil
}

func (t *Trainer) passOptions() model.PassOptions {
	return model.PassOptions{B: t.o.MicroBatch, T: t.o.SequenceLen, Recompute: t.o.Recompute, Train: true}
}

// Usage is the bytes taken by use.
func (t *Trainer) Usage() map[kernels.Use]int64 {
	u := t.held.Usage()
	if t.work != nil {
		for use, n := range t.work.Usage() {
			u[use] += n
		}
	}
	return u
}

// Step is how many steps have committed, OptimizerStep how many of them updated.
func (t *Trainer) Step() int64          { return t.step }
func (t *Trainer) OptimizerStep() int64 { return t.optimizerStep }

// Cursor is where the data stream stands after Step.
func (t *Trainer) Cursor() checkpoint.Cursor { return t.cursor }

// Rank and World are the place that the state was cut for.
func (t *Trainer) Rank() int  { return t.rank }
func (t *Trainer) World() int { return t.world }

// Retire ends training with what t has: its generation is over, and its Group closed. The state stays, for the next
// generation to take over; all other memory is given back. Close frees the rest. It may be called again.
func (t *Trainer) Retire(ctx context.Context) error {
	if t.work == nil {
		return nil
	}
	if err := t.stream.Sync(ctx); err != nil {
		return fmt.Errorf("retire rank %d of %d: %w", t.rank, t.world, err)
	}
	err := t.work.Free()
	t.work, t.group, t.pass, t.slots = nil, nil, nil, nil
	return err
}

// Close frees the stream and the memory. No collective may be under way.
func (t *Trainer) Close() error {
	err := errors.Join(t.stream.Close(), t.held.Free())
	if t.work != nil {
		err = errors.Join(err, t.work.Free())
	}
	return err
}
