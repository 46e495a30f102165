package train

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"time"

	"github.com/zerofleet/zerofleet/collective"
	"github.com/zerofleet/zerofleet/data"
	"github.com/zerofleet/zerofleet/kernels"
	"github.com/zerofleet/zerofleet/model"
	"github.com/zerofleet/zerofleet/shard"
	"github.com/zerofleet/zerofleet/train/exactsum"
	"github.com/zerofleet/zerofleet/train/fault"
)

// Leaves is a step's global batch, cut into micro-batches.
type Leaves struct {
	Count int
	Leaf  func(i int) (data.Batch, error)
}

// Own is what this rank adds to its record of a step besides what it computed.
type Own struct {
	Instruction Instruction
	Stop        StopReason
	Note        []byte
}

// Reduce computes step t.Step()+1 up to the agreement: backward of all leaves, their fold, and the commit record that
// all ranks share. Nothing of the state has changed when it returns: Update applies the step.
func (t *Trainer) Reduce(ctx context.Context, leaves Leaves, own func() Own) (Commit, error) {
	rec, err := t.leaves(ctx, leaves)
	if err != nil {
		return Commit{}, fmt.Errorf("step %d, rank %d: %w", t.step+1, t.rank, err)
	}
	t.at(fault.AfterBackward)
	if err := t.shipped(ctx); err != nil {
		return Commit{}, fmt.Errorf("step %d, rank %d: %w", t.step+1, t.rank, err)
	}
	t.at(fault.AfterReceipt)
	o := own()
	rec.Instruction, rec.Stop, rec.Note = o.Instruction, o.Stop, o.Note
	fault.During(fault.InExchange, t.step+1)
	c, err := t.agree(ctx, rec)
	if err == nil {
		t.at(fault.Committed)
	}
	return c, err
}

// at passes a point of the open step.
func (t *Trainer) at(p fault.Point) { fault.At(p, t.step+1) }

func (t *Trainer) agree(ctx context.Context, rec Record) (Commit, error) {
	b, err := rec.MarshalBinary()
	if err != nil {
		return Commit{}, err
	}
	all, err := t.exchange(ctx, b)
	if err != nil {
		return Commit{}, fmt.Errorf("exchange records of step %d: %w", rec.Step, err)
	}
	return MergeEncoded(rec.Step, all)
}

// leaves runs the rounds: rank r computes leaves r, r+W, r+2W ... A rank without a leaf in the last round serves gathers
// and folds, and adds nothing.
func (t *Trainer) leaves(ctx context.Context, leaves Leaves) (Record, error) {
	rec := Record{Step: uint64(t.step + 1)}
	for i := range t.units {
		if err := t.stream.Launch(kernels.Fill{Dst: t.units[i].acc}); err != nil {
			return rec, err
		}
		t.units[i].folded.Store(0)
	}
	if err := t.stream.Sync(ctx); err != nil {
		return rec, err
	}
	for first := 0; first < leaves.Count; first += t.world {
		leaf := first + t.rank
		have := leaf < leaves.Count
		if have {
			reading := time.Now()
			batch, err := leaves.Leaf(leaf)
			t.clock.reading(reading)
			if err != nil {
				return rec, fmt.Errorf("leaf %d: %w", leaf, err)
			}
			rec.LossTokens += uint64(batch.LossTokens)
			if err := t.load(ctx, batch); err != nil {
				return rec, fmt.Errorf("leaf %d: %w", leaf, err)
			}
		}
		r := round{first: first, contributors: min(t.world, leaves.Count-first), leaves: leaves.Count, have: have, last: first+t.world >= leaves.Count}
		if err := t.run(ctx, t.schedule.Train(), r); err != nil {
			return rec, fmt.Errorf("leaf %d: %w", leaf, err)
		}
		if have {
			if err := t.addLosses(ctx, &rec.LossSum); err != nil {
				return rec, fmt.Errorf("leaf %d: %w", leaf, err)
			}
			if t.computed != nil {
				t.computed(t.step+1, leaf)
			}
		}
	}
	for i := range t.slots {
		if err := t.awaitReduction(ctx, &t.slots[i]); err != nil {
			return rec, err
		}
	}
	if !t.o.AnyOrder {
		if err := t.checkFolds(leaves.Count); err != nil {
			return rec, err
		}
	}
	if err := t.gradientSquares(ctx, &rec); err != nil {
		return rec, err
	}
	if t.o.Stage == shard.Replicated {
		return rec, t.gatherGradients(ctx)
	}
	return rec, nil
}

// checkFolds sees that every leaf was folded once onto every element that this rank owns. The sum alone does not tell: a
// rank that adds zeros for a leaf that is not there leaves every bit as it is, since an accumulator that starts at
// +0 is never -0.
func (t *Trainer) checkFolds(leaves int) error {
	for i := range t.units {
		u := &t.units[i]
		if got, want := u.folded.Load(), int64(leaves)*int64(u.layout.PartElems()); got != want {
			return fmt.Errorf("fold of %s: %d elements were added, want %d: %d leaves of %d", u.Name, got, want, leaves, u.layout.PartElems())
		}
	}
	return nil
}

func (t *Trainer) load(ctx context.Context, b data.Batch) error {
	return t.pass.Load(ctx, t.stream, model.Input{Tokens: b.Tokens, Labels: b.Labels, Positions: b.Positions,
		DocStart: b.DocStart, Scale: t.o.lossScale()})
}

func (t *Trainer) addLosses(ctx context.Context, sum *exactsum.Sum) error {
	losses, err := t.pass.Losses(ctx, t.stream)
	if err != nil {
		return err
	}
	for _, l := range losses {
		sum.Add(float64(l))
	}
	return nil
}

// round is one leaf a rank: ranks 0 .. contributors-1 compute leaves first, first+1 ...
type round struct {
	first, contributors int
	leaves              int // of the step
	have                bool
	last                bool // of the step
}

// run carries out a schedule. A rank that has no leaf takes part in the collectives alone.
func (t *Trainer) run(ctx context.Context, actions []shard.Action, r round) error {
	for _, a := range actions {
		u := &t.units[a.Unit]
		var err error
		began := time.Now()
		switch a.Do {
		case shard.Gather:
			err = t.gather(ctx, a.Unit)
		case shard.Await:
			err = t.awaitGather(ctx, a.Unit)
		case shard.Forward:
			if r.have {
				err = t.pass.Forward(t.stream, a.Unit, t.params(a.Unit))
			}
		case shard.Backward:
			if r.have {
				err = t.backward(ctx, a.Unit)
			}
		case shard.Reduce:
			err = t.reduce(ctx, a.Unit, r)
		}
		if err != nil {
			return fmt.Errorf("%s %s: %w", a.Do, u.Name, err)
		}
		if t.clock.sampling && a.Do != shard.Await && (r.have || a.Do == shard.Reduce) {
			t.clock.span(fmt.Sprintf("%s %s", a.Do, u.Name), began, time.Now())
		}
	}
	return nil
}

// slotOf is the slot of a unit.
func (t *Trainer) slotOf(unit int) *slot { return &t.slots[t.schedule.Slot(unit)] }

// params are the parameters that a unit computes with.
func (t *Trainer) params(unit int) model.Params {
	p := model.Params{Unit: t.weights(unit)}
	if unit == len(t.units)-1 && t.dec.Tied() {
		p.Embedding = t.weights(0)
	}
	return p
}

func (t *Trainer) weights(unit int) kernels.Buffer {
	u := &t.units[unit]
	if t.o.Stage == shard.Parameters {
		return t.slotOf(unit).params.Slice(0, u.layout.PaddedElems())
	}
	return u.whole
}

func (t *Trainer) gather(ctx context.Context, unit int) error {
	u, s := &t.units[unit], t.slotOf(unit)
	dst, part, err := t.gatherViews(ctx, s.wire.Slice(0, u.layout.PaddedElems()), u.wirePart)
	if err != nil {
		return err
	}
	s.gathering = t.group.AllGather(ctx, u.Name, dst, part)
	return nil
}

func (t *Trainer) awaitGather(ctx context.Context, unit int) error {
	u, s := &t.units[unit], t.slotOf(unit)
	if err := t.wait(ctx, s.gathering); err != nil {
		return err
	}
	if s.params == s.wire {
		return nil
	}
	n := u.layout.PaddedElems()
	return t.convert(s.params.Slice(0, n), s.wire.Slice(0, n))
}

func (t *Trainer) backward(ctx context.Context, unit int) error {
	switch unit {
	case len(t.units) - 1:
		t.at(fault.BeforeBackward)
	case len(t.units) / 2:
		t.at(fault.InBackward)
	}
	s := t.slotOf(unit)
	if err := t.awaitReduction(ctx, s); err != nil {
		return err
	}
	g := model.Grads{Unit: s.grad.Slice(0, t.units[unit].Elems)}
	if unit == len(t.units)-1 && t.dec.Tied() {
		e := t.slotOf(0)
		if err := t.awaitReduction(ctx, e); err != nil {
			return err
		}
		g.Embedding = e.grad.Slice(0, t.units[0].Elems)
	}
	return t.pass.Backward(t.stream, unit, t.params(unit), g)
}

// reduce rounds the leaf's gradient to wire.gradients and sends each owner its slice.
func (t *Trainer) reduce(ctx context.Context, unit int, r round) error {
	u, s := &t.units[unit], t.slotOf(unit)
	var src collective.Buffer
	if r.have {
		n := u.layout.PaddedElems()
		if s.wireGrad != s.grad {
			if err := t.convert(s.wireGrad.Slice(0, n), s.grad.Slice(0, n)); err != nil {
				return err
			}
		}
		var err error
		if src, err = t.hostView(ctx, s.wireGrad.Slice(0, n)); err != nil {
			return err
		}
	} else if err := t.awaitReduction(ctx, s); err != nil {
		return err
	}
	acc, err := u.own(t.rank).Host() // nothing that touches it has been enqueued since the step's beginning was synchronised
	if err != nil {
		return err
	}
	levels, err := u.levelsHost()
	if err != nil {
		return err
	}
	into := accumulator{acc: floats(acc), levels: levels, leaves: r.leaves, fold: t.dev.Fold, folded: u.folded}
	s.reduces, s.last = unit, r.last
	s.reducing = t.group.ReduceScatter(ctx, u.Name, into, src, r.first, r.contributors)
	if unit == len(t.units)/2 {
		t.at(fault.InReduce)
	}
	if t.o.Serial {
		return t.awaitReduction(ctx, s)
	}
	return nil
}

func (t *Trainer) awaitReduction(ctx context.Context, s *slot) error {
	if s.reducing == nil {
		return nil
	}
	err := t.wait(ctx, s.reducing)
	s.reducing = nil
	if err == nil && s.last {
		err = t.ship(ctx, s.reduces)
	}
	return err
}

// gatherGradients completes the folded gradient of every unit at stage 0.
func (t *Trainer) gatherGradients(ctx context.Context) error {
	for i := range t.units {
		u := &t.units[i]
		dst, part, err := t.gatherViews(ctx, u.acc, u.own(t.rank))
		if err != nil {
			return err
		}
		if err := t.wait(ctx, t.group.AllGather(ctx, "gradient "+u.Name, dst, part)); err != nil {
			return fmt.Errorf("gather gradient of %s: %w", u.Name, err)
		}
	}
	return nil
}

// gradientSquares adds this rank's share of the gradient's squares, exactly, block by block, and finds its first
// tensor that is not finite.
func (t *Trainer) gradientSquares(ctx context.Context, rec *Record) error {
	for i := range t.units {
		u := &t.units[i]
		own := u.own(t.rank)
		out := t.squares.Slice(0, own.Len()/shard.BlockElems)
		if err := t.stream.Launch(kernels.BlockSumSquares{Out: out, X: own}); err != nil {
			return err
		}
		bytes := make([]byte, out.Bytes())
		if err := t.stream.Download(bytes, out); err != nil {
			return err
		}
		if err := t.stream.Sync(ctx); err != nil {
			return err
		}
		var unitSum exactsum.Sum
		for at := 0; at < len(bytes); at += 8 {
			unitSum.Add(math.Float64frombits(binary.LittleEndian.Uint64(bytes[at:])))
		}
		if !unitSum.Finite() && rec.NonFinite == 0 {
			tensor, err := t.firstNonFinite(ctx, u)
			if err != nil {
				return err
			}
			rec.NonFinite = uint32(1 + tensor)
		}
		rec.SumSquares.Merge(unitSum)
	}
	return nil
}

// firstNonFinite is the canonical index of the first tensor with an Inf or a NaN in this rank's slice of u.
func (t *Trainer) firstNonFinite(ctx context.Context, u *unit) (int, error) {
	view, err := t.hostView(ctx, u.own(t.rank))
	if err != nil {
		return 0, err
	}
	lo, _ := u.layout.Part(t.rank)
	for i, x := range floats(view.Bytes) {
		if x-x != 0 {
			for k, tensor := range u.Tensors {
				if at := lo + i; at >= tensor.Offset && at < tensor.Offset+tensor.Elems {
					return u.firstTensor + k, nil
				}
			}
		}
	}
	return u.firstTensor, nil
}
