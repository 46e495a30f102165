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
	// handoverElems is how much of a unit one message carries, of each of master, m and v: 12 MiB.
	handoverElems = 1 << 20
	// handoverBatch is how many messages are under way at most: with handoverElems it bounds the staging, 96 MiB a rank.
	handoverBatch = 8
)

// TakeOver builds the state of this generation from a settled one's, whose retired Trainer old is; nil for a rank that
// was not in it, and at h's step otherwise. It is collective: all ranks of the group call it with the same h. It moves each element to its new owner
// and to the owner's buddy, in canonical order, and ends by publishing the parameters.
func (t *Trainer) TakeOver(ctx context.Context, old *Trainer, h Handover) (moved int64, err error) {
	if old != nil && old.step != h.Step { // it has promised to stay where it was
		return 0, fmt.Errorf("take over the state of step %d: rank %d of %d has it at step %d", h.Step, old.rank, old.world, old.step)
	}
	all, err := t.transfers(h)
	if err != nil {
		return 0, err
	}
	staging := make([][]byte, handoverBatch)
	for batch := range slices.Chunk(all, handoverBatch) {
		n, err := t.carry(ctx, old, batch, staging)
		moved += n
		if err != nil {
			return moved, fmt.Errorf("take over the state of step %d: %w", h.Step, err)
		}
	}
	t.step, t.optimizerStep, t.cursor = h.Step, h.OptimizerStep, h.Cursor
	return moved, t.publish(ctx)
}

// transfers is the whole plan, the same list at every rank.
func (t *Trainer) transfers(h Handover) ([]transfer, error) {
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
				all = cut(all, transfer{unit: i, hi: u.Elems, from: holder, to: to})
			}
			continue
		}
		moves, err := shard.Reshard(from, u.layout)
		if err != nil {
			return nil, err
		}
		for _, m := range moves {
			x := transfer{unit: i, lo: m.Lo, hi: m.Hi, from: h.Holders[m.From], held: m.From, to: m.To}
			all = cut(all, x)
			if t.replicates() {
				x.to, x.replica = shard.Buddy(m.To, t.world), true
				all = cut(all, x)
			}
		}
	}
	return all, nil
}

// cut appends x in messages.
func cut(all []transfer, x transfer) []transfer {
	for lo, hi := x.lo, x.hi; lo < hi; lo += handoverElems {
		x.lo, x.hi = lo, min(lo+handoverElems, hi)
		all = append(all, x)
	}
	return all
}

// carry moves one batch, and returns the bytes that this rank received from others.
func (t *Trainer) carry(ctx context.Context, old *Trainer, batch []transfer, staging [][]byte) (received int64, err error) {
	pending := make([]*collective.Pending, len(batch))
	views := make([][]byte, len(batch))
	for i, x := range batch {
		if x.from.Rank != t.rank && x.to != t.rank {
			continue
		}
		bytes := int(checkpoint.Fields) * 4 * (x.hi - x.lo)
		if cap(staging[i]) < bytes {
			staging[i] = make([]byte, int(checkpoint.Fields)*4*handoverElems)
		}
		views[i] = staging[i][:bytes]
		if x.from.Rank == t.rank {
			if err := old.lend(ctx, x, views[i]); err != nil {
				return received, err
			}
		}
	}
	for i, x := range batch {
		b := collective.Buffer{Bytes: views[i], Type: kernels.F32}
		switch name := "hand over " + t.units[x.unit].Name; {
		case x.from.Rank == x.to:
		case x.from.Rank == t.rank:
			pending[i] = t.group.Send(ctx, name, x.to, b)
			fault.At(fault.Sending, int64(t.group.Generation()))
		case x.to == t.rank:
			pending[i] = t.group.Recv(ctx, name, x.from.Rank, b)
			received += int64(len(views[i]))
		}
	}
	for i, x := range batch {
		if pending[i] != nil {
			if err := pending[i].Wait(ctx); err != nil {
				return received, err
			}
		}
		if x.to == t.rank {
			if err := t.accept(x, views[i]); err != nil {
				return received, err
			}
			if pending[i] != nil {
				fault.At(fault.Receiving, int64(t.group.Generation()))
			}
		}
	}
	return received, t.stream.Sync(ctx)
}

// lend copies what a retired state has of x to dst: master, m, v.
func (t *Trainer) lend(ctx context.Context, x transfer, dst []byte) error {
	if t == nil {
		return fmt.Errorf("rank %d of the settled generation is said to be here, and nothing is", x.held)
	}
	u := &t.units[x.unit]
	s := u.shard()
	if x.from.Replica {
		s = u.replica
	}
	if s.master.IsZero() || x.lo < s.lo || x.hi > s.hi {
		return fmt.Errorf("elements [%d,%d) of %s are asked of rank %d of %d, which has [%d,%d)", x.lo, x.hi, u.Name, t.rank, t.world, s.lo, s.hi)
	}
	n := 4 * (x.hi - x.lo)
	for f, b := range s.fields() {
		if err := t.stream.Download(dst[f*n:(f+1)*n], b.Slice(x.lo-s.base, x.hi-s.base)); err != nil {
			return err
		}
	}
	return t.stream.Sync(ctx)
}

// accept puts what has arrived where it belongs.
func (t *Trainer) accept(x transfer, src []byte) error {
	u := &t.units[x.unit]
	s := u.shard()
	if x.replica {
		s = u.replica
	}
	n := 4 * (x.hi - x.lo)
	for f, b := range s.fields() {
		if err := t.stream.Upload(b.Slice(x.lo-s.base, x.hi-s.base), src[f*n:(f+1)*n]); err != nil {
			return err
		}
	}
	return nil
}
