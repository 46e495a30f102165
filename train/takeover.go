package train

import (
	"context"
	"fmt"
	"slices"

	"github.com/zerofleet/zerofleet/checkpoint"
	"github.com/zerofleet/zerofleet/collective"
	"github.com/zerofleet/zerofleet/kernels"
	"github.com/zerofleet/zerofleet/shard"
	"github.com/zerofleet/zerofleet/train/fault"
)

// Handover says where the state of a settled generation is now: what a new generation is built from.
type Handover struct {
	// World is the settled generation's number of ranks, and Holders[r] who has rank r's shard. At stage 0, where all
	// have everything, World is 1 and every member that has the state is a holder of it.
	World   int
	Holders []Holder
	// Step is the newest committed step. A holder that is one behind completes it from Records, the encoded records of all
	// ranks of the settled generation.
	Step, OptimizerStep int64
	Records             [][]byte
	Cursor              checkpoint.Cursor // of the data, after Step
}

// Holder is a rank of the new generation, which has a shard as its owner or as its replica.
type Holder struct {
	Rank    int
	Replica bool
}

// Complete brings a retired state to step, if it is one behind: some rank knew that the step was committed and this one
// did not. Its gradients are whole, since it has sent its record.
func (t *Trainer) Complete(step int64, records [][]byte) error {
	if t.step == step {
		return nil
	}
	if t.step != step-1 {
		return fmt.Errorf("complete step %d: rank %d of %d is at step %d", step, t.rank, t.world, t.step)
	}
	c, err := MergeEncoded(uint64(step), records)
	if err == nil {
		_, err = t.apply(c)
	}
	if err != nil {
		return fmt.Errorf("complete step %d: %w", step, err)
	}
	return nil
}

// LastRecords are the encoded records that the newest step was computed from; nil before this generation's first.
func (t *Trainer) LastRecords() [][]byte { return t.last }

// transfer is elements [lo, hi) of a unit, on their way from a holder to a rank of this generation.
type transfer struct {
	unit, lo, hi int
	from         Holder
	held         int // the settled generation's rank whose shard it is
	to           int
	replica      bool // to keeps it as a replica
}

const (
	// maxHandoverElems is how much of a unit one message carries at most, of each of master, m and v: 12 MiB.
	maxHandoverElems = 1 << 20
	// handoverWindow is how many messages are under way at most, in memory that leaf gradients have later.
	handoverWindow = 4
	// stateBytes are an element's master, m and v.
	stateBytes = int(checkpoint.Fields) * 4
)

// handoverStaging is the memory that messages are made in, and how many elements one has: the same at every rank.
func (t *Trainer) handoverStaging() (b []byte, elems int, err error) {
	largest := &t.slots[0]
	for i := range t.slots {
		if s := &t.slots[i]; s.wireGrad.Bytes() > largest.wireGrad.Bytes() {
			largest = s
		}
	}
	b, err = largest.wireGrad.Host()
	return b, max(1, min(maxHandoverElems, len(b)/stateBytes/handoverWindow)), err
}

// TakeOver builds the state of this generation from a settled one's, whose retired Trainer old is; nil for a rank that
// was not in it, and at h's step otherwise. It is collective: all ranks of the group call it with the same h. It moves each
// element to its new owner and to the owner's buddy, in canonical order, and ends by publishing the parameters.
func (t *Trainer) TakeOver(ctx context.Context, old *Trainer, h Handover) (moved int64, err error) {
	if old != nil && old.step != h.Step { // it has promised to stay where it was
		return 0, fmt.Errorf("take over the state of step %d: rank %d of %d has it at step %d", h.Step, old.rank, old.world, old.step)
	}
	if err := t.stream.Sync(ctx); err != nil {
		return 0, err
	}
	staging, elems, err := t.handoverStaging()
	if err != nil {
		return 0, err
	}
	all, err := t.transfers(h, elems)
	if err != nil {
		return 0, err
	}
	moved, err = t.carry(ctx, old, all, staging, elems*stateBytes)
	if err != nil {
		return moved, fmt.Errorf("take over the state of step %d: %w", h.Step, err)
	}
	t.step, t.optimizerStep, t.cursor = h.Step, h.OptimizerStep, h.Cursor
	return moved, t.publish(ctx)
}

// transfers is the whole plan, the same list at every rank.
func (t *Trainer) transfers(h Handover, elems int) ([]transfer, error) {
	if t.o.Stage == shard.Replicated && h.World != 1 || t.o.Stage != shard.Replicated && len(h.Holders) != h.World || len(h.Holders) == 0 {
		return nil, fmt.Errorf("handover at stage %d: %d holders of %d ranks", t.o.Stage, len(h.Holders), h.World)
	}
	var all []transfer
	for i := range t.units {
		u := &t.units[i]
		from, err := shard.NewLayout(u.Elems, h.World)
		if err != nil {
			return nil, err
		}
		if t.o.Stage == shard.Replicated {
			for to := range t.world {
				holder := h.Holders[0]
				if k := slices.IndexFunc(h.Holders, func(x Holder) bool { return x.Rank == to }); k >= 0 {
					holder = h.Holders[k] // what a rank has itself is not sent to it
				}
				all = cut(all, transfer{unit: i, hi: u.Elems, from: holder, to: to}, elems)
			}
			continue
		}
		moves, err := shard.Reshard(from, u.layout)
		if err != nil {
			return nil, err
		}
		for _, m := range moves {
			x := transfer{unit: i, lo: m.Lo, hi: m.Hi, from: h.Holders[m.From], held: m.From, to: m.To}
			all = cut(all, x, elems)
			if t.replicates() {
				x.to, x.replica = shard.Buddy(m.To, t.world), true
				all = cut(all, x, elems)
			}
		}
	}
	return all, nil
}

// cut appends x in messages of so many elements.
func cut(all []transfer, x transfer, elems int) []transfer {
	for lo, hi := x.lo, x.hi; lo < hi; lo += elems {
		x.lo, x.hi = lo, min(lo+elems, hi)
		all = append(all, x)
	}
	return all
}

// message is a transfer under way.
type message struct {
	transfer
	bytes   []byte
	pending *collective.Pending
}

// carry moves everything, and returns the bytes that this rank received from others. All ranks go through the list in its
// order, with a few messages under way: the oldest that is unfinished anywhere has been begun at both its ends, so
// none waits for ever.
func (t *Trainer) carry(ctx context.Context, old *Trainer, all []transfer, staging []byte, each int) (received int64, err error) {
	var way []message
	begun := 0
	for _, x := range all {
		switch {
		case x.from.Rank != t.rank && x.to != t.rank:
			continue
		case x.from.Rank == x.to:
			if err := t.copyOwn(old, x); err != nil {
				return received, err
			}
			continue
		}
		if len(way) == handoverWindow {
			if err := t.finish(ctx, way[0]); err != nil {
				return received, err
			}
			way = way[1:]
		}
		at := begun % handoverWindow * each
		begun++
		m, err := t.begin(ctx, old, x, staging[at:at+each])
		if err != nil {
			return received, err
		}
		if x.to == t.rank {
			received += int64(len(m.bytes))
		}
		way = append(way, m)
	}
	for _, m := range way {
		if err := t.finish(ctx, m); err != nil {
			return received, err
		}
	}
	if err := t.stream.Sync(ctx); err != nil {
		return received, err
	}
	// A leaf's gradient does not reach its buffer's padding, which is sent and summed with the rest: it has to be zero again.
	clear(staging[:handoverWindow*each])
	return received, nil
}

// begin sends or receives one message.
func (t *Trainer) begin(ctx context.Context, old *Trainer, x transfer, staging []byte) (m message, err error) {
	m = message{transfer: x, bytes: staging[:stateBytes*(x.hi-x.lo)]}
	b := collective.Buffer{Bytes: m.bytes, Type: kernels.F32}
	name := "hand over " + t.units[x.unit].Name
	if x.to == t.rank {
		m.pending = t.group.Recv(ctx, name, x.from.Rank, b)
		return m, nil
	}
	if err := old.lend(ctx, x, m.bytes); err != nil {
		return m, err
	}
	m.pending = t.group.Send(ctx, name, x.to, b)
	fault.At(fault.Sending, int64(t.group.Generation()))
	return m, nil
}

// finish waits for a message, and puts what has arrived where it belongs. Its staging is free then.
func (t *Trainer) finish(ctx context.Context, m message) error {
	if err := m.pending.Wait(ctx); err != nil || m.to != t.rank {
		return err
	}
	u := &t.units[m.unit]
	s := u.shard()
	if m.replica {
		s = u.replica
	}
	n := 4 * (m.hi - m.lo)
	for f, b := range s.fields() {
		if err := t.stream.Upload(b.Slice(m.lo-s.base, m.hi-s.base), m.bytes[f*n:(f+1)*n]); err != nil {
			return err
		}
	}
	fault.At(fault.Receiving, int64(t.group.Generation()))
	return t.stream.Sync(ctx)
}

// copyOwn copies what this rank itself had.
func (t *Trainer) copyOwn(old *Trainer, x transfer) error {
	from, err := old.holds(x)
	if err != nil {
		return err
	}
	u := &t.units[x.unit]
	to := u.shard()
	if x.replica {
		to = u.replica
	}
	src := from.fields()
	for f, b := range to.fields() {
		if err := t.stream.Copy(b.Slice(x.lo-to.base, x.hi-to.base), src[f].Slice(x.lo-from.base, x.hi-from.base)); err != nil {
			return err
		}
	}
	return nil
}

// holds is what a retired state has of x.
func (t *Trainer) holds(x transfer) (shardOf, error) {
	if t == nil {
		return shardOf{}, fmt.Errorf("rank %d of the settled generation is said to be here, and nothing is", x.held)
	}
	u := &t.units[x.unit]
	s := u.shard()
	if x.from.Replica {
		s = u.replica
	}
	if s.master.IsZero() || x.lo < s.lo || x.hi > s.hi {
		return s, fmt.Errorf("elements [%d,%d) of %s are asked of rank %d of %d, which has [%d,%d)", x.lo, x.hi, u.Name, t.rank, t.world, s.lo, s.hi)
	}
	return s, nil
}

// lend copies what a retired state has of x to dst: master, m, v.
func (t *Trainer) lend(ctx context.Context, x transfer, dst []byte) error {
	s, err := t.holds(x)
	if err != nil {
		return err
	}
	n := 4 * (x.hi - x.lo)
	for f, b := range s.fields() {
		if err := t.stream.Download(dst[f*n:(f+1)*n], b.Slice(x.lo-s.base, x.hi-s.base)); err != nil {
			return err
		}
	}
	return t.stream.Sync(ctx)
}
