package train

import (
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/zerofleet/zerofleet/collective"
	"github.com/zerofleet/zerofleet/kernels"
	"github.com/zerofleet/zerofleet/model/spec"
	"github.com/zerofleet/zerofleet/shard"
)

// unit is one unit's state on this rank. Part is the rank's part of the padded flat buffer.
type unit struct {
	spec.Unit
	layout shard.Layout
	// lo, hi are the canonical elements that master, m, v and acc hold, without padding: the rank's own, or all at stage 0.
	// base is the canonical element of their first.
	lo, hi, base int
	// whole is what is computed with, padded: stages 0 to 2. At stage 3 a slot takes its place.
	whole kernels.Buffer
	// wirePart is what the other ranks gather, the part in wire.parameters: stage 3. It may be master itself.
	wirePart kernels.Buffer
	// master, m, v: f32, the part; at stage 0 all, padded. master may be a slice of whole.
	master, m, v kernels.Buffer
	// acc is the fold's accumulator in Host memory, f32, the part. At stage 0 all, padded: the fold fills
	// the rank's part and a gather the rest.
	acc kernels.Buffer
	// levels are what Tree8 has not yet added to acc, f32, the part each; none for Fold.
	levels [treeLevels]kernels.Buffer
	// replica is the ward's shard, and its gradient once it has shipped it.
	replica shardOf
	// folded counts the elements that this step's leaves added to the rank's part of acc.
	folded *atomic.Int64
	// firstTensor is the canonical index of the unit's first tensor in the model.
	firstTensor int
}

// own is the rank's part of acc.
func (u *unit) own(rank int) kernels.Buffer {
	lo, hi := u.layout.Part(rank)
	return u.acc.Slice(lo-u.base, hi-u.base)
}

// levelsHost are u's levels as the fold takes them. Nothing but folds touches them.
func (u *unit) levelsHost() (all [treeLevels][]float32, err error) {
	if u.levels[0].IsZero() {
		return all, nil
	}
	for i, l := range u.levels {
		b, err := l.Host()
		if err != nil {
			return all, err
		}
		all[i] = floats(b)
	}
	return all, nil
}

// slot is the memory that units of one kind are gathered into and leave their leaf gradient in, one after the other.
type slot struct {
	elems int // padded elements of the largest unit
	// wire is what a gather fills, Host memory in wire.parameters; params is what is computed with. They may be one.
	wire, params kernels.Buffer
	// grad is the leaf gradient, f32; wireGrad is what is sent, Host memory in wire.gradients. They may be one.
	grad, wireGrad kernels.Buffer
	gathering      *collective.Pending
	reducing       *collective.Pending
	// reduces is the unit that is being reduced, and last that no leaf of the step follows.
	reduces int
	last    bool
}

// shardOf is one rank's shard of a unit as somebody holds it: its owner, or its buddy as a replica. What is held are
// canonical elements [lo, hi), without padding; base is that of the buffers' first element.
type shardOf struct {
	lo, hi, base      int
	master, m, v, acc kernels.Buffer
}

// own is what the rank holds for itself: its shard, or at stage 0 everything.
func (u *unit) shard() shardOf {
	return shardOf{lo: u.lo, hi: u.hi, base: u.base, master: u.master, m: u.m, v: u.v, acc: u.acc}
}

// shards are what this rank keeps up to date of u: its own, and its ward's replica where there is one.
func (t *Trainer) shards(u *unit) []shardOf {
	if t.replicates() {
		return []shardOf{u.shard(), u.replica}
	}
	return []shardOf{u.shard()}
}

// take takes all memory, in an order that depends on the options alone: from held what the next generation may need, from
// a the rest.
func (t *Trainer) take(held, a *kernels.Arena) error {
	g, h := &grabber{a: a}, &grabber{a: held}
	stage, unified := t.o.Stage, t.dev.Backend.Caps().Unified
	alias := t.o.mastersAreParameters(unified)
	mainKind := kernels.Device
	if unified {
		mainKind = kernels.Host // what crosses the wire needs no staging
	}
	tensors := 0
	specs := t.dec.Units()
	t.units = make([]unit, len(specs))
	t.slots = make([]slot, 2+shard.BlockSlots)
	for i, s := range specs {
		layout, err := shard.NewLayout(s.Elems, t.world)
		if err != nil {
			return fmt.Errorf("unit %s: %w", s.Name, err)
		}
		u := unit{Unit: s, layout: layout, firstTensor: tensors, folded: new(atomic.Int64)}
		tensors += len(s.Tensors)
		padded, part := layout.PaddedElems(), layout.PartElems()
		partLo, partHi := layout.Part(t.rank)
		elems := part
		u.lo, u.hi = layout.Owned(t.rank)
		u.base = partLo
		if stage == shard.Replicated {
			elems, u.lo, u.hi, u.base = padded, 0, s.Elems, 0
		}
		switch {
		case stage == shard.Parameters && alias:
			u.master = h.take(kernels.Parameters, mainKind, kernels.F32, part)
			u.wirePart = u.master
		case stage == shard.Parameters:
			u.wirePart = g.take(kernels.Parameters, kernels.Host, t.o.WireParameters, part)
			u.master = h.take(kernels.Optimizer, kernels.Device, kernels.F32, part)
		default:
			whole := g
			if alias {
				whole = h
			}
			u.whole = whole.take(kernels.Parameters, mainKind, t.o.Compute, padded)
			if alias {
				u.master = u.whole
				if stage != shard.Replicated {
					u.master = u.whole.Slice(partLo, partHi)
				}
			} else {
				u.master = h.take(kernels.Optimizer, kernels.Device, kernels.F32, elems)
			}
		}
		u.m = h.take(kernels.Optimizer, kernels.Device, kernels.F32, elems)
		u.v = h.take(kernels.Optimizer, kernels.Device, kernels.F32, elems)
		u.acc = h.take(kernels.Gradients, kernels.Host, kernels.F32, elems)
		if t.o.Reduction == Tree8 {
			for k := range u.levels {
				u.levels[k] = g.take(kernels.Gradients, kernels.Host, kernels.F32, part)
			}
		}
		if t.replicates() {
			ward := shard.Ward(t.rank, t.world)
			r := &u.replica
			r.base, _ = layout.Part(ward)
			r.lo, r.hi = layout.Owned(ward)
			for _, b := range []*kernels.Buffer{&r.master, &r.m, &r.v, &r.acc} {
				*b = h.take(kernels.Replica, kernels.Host, kernels.F32, part)
			}
		}
		t.units[i] = u
		sl := &t.slots[t.schedule.Slot(i)]
		sl.elems = max(sl.elems, padded)
		t.maxPadded, t.maxPart = max(t.maxPadded, padded), max(t.maxPart, part)
	}
	for i := range t.slots {
		sl := &t.slots[i]
		if stage == shard.Parameters {
			sl.wire = g.take(kernels.Gathered, kernels.Host, t.o.WireParameters, sl.elems)
			sl.params = sl.wire
			if !unified || t.o.WireParameters != t.o.Compute {
				sl.params = g.take(kernels.Gathered, kernels.Device, t.o.Compute, sl.elems)
			}
		}
		sl.grad = g.take(kernels.LeafGrads, mainKind, kernels.F32, sl.elems)
		sl.wireGrad = sl.grad
		if !unified || t.o.WireGradients != kernels.F32 {
			sl.wireGrad = g.take(kernels.LeafGrads, kernels.Host, t.o.WireGradients, sl.elems)
		}
	}
	if t.needsStaging(unified) {
		t.staging = g.take(kernels.Staging, kernels.Host, t.o.WireParameters, t.maxPadded)
	}
	t.squares = g.take(kernels.Workspace, kernels.Device, kernels.F64, t.maxPart/shard.BlockElems)
	if err := errors.Join(h.err, g.err); err != nil {
		return err
	}
	var err error
	t.pass, err = t.dec.NewPass(a, t.passOptions())
	return err
}

// needsStaging says whether publish cannot work in place on whole: it has another type than the wire, or memory that
// peers cannot be served from.
func (t *Trainer) needsStaging(unified bool) bool {
	switch t.o.Stage {
	case shard.Parameters:
		return false
	case shard.Replicated:
		return t.o.WireParameters != kernels.F32 && t.o.WireParameters != t.o.Compute
	}
	return !unified || t.o.WireParameters != t.o.Compute
}

// grabber takes buffers until the first error.
type grabber struct {
	a   *kernels.Arena
	err error
}

func (g *grabber) take(use kernels.Use, kind kernels.Kind, t kernels.DType, n int) kernels.Buffer {
	if g.err != nil {
		return kernels.Buffer{}
	}
	var b kernels.Buffer
	b, g.err = g.a.Take(use, kind, t, n)
	return b
}
