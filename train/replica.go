package train

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/zeebo/xxh3"

	"github.com/zerofleet/zerofleet/checkpoint"
	"github.com/zerofleet/zerofleet/collective"
	"github.com/zerofleet/zerofleet/kernels"
	"github.com/zerofleet/zerofleet/shard"
	"github.com/zerofleet/zerofleet/train/fault"
)

// replicates says whether this rank keeps its ward's replica, and its buddy one of its own shard. At stage 0 every rank
// has everything, and one rank alone has no other.
func (t *Trainer) replicates() bool {
	return t.o.Replicas > 0 && t.o.Stage != shard.Replicated && t.world > 1
}

// shipment is a step's gradients on their way to the buddy, and from the ward.
type shipment struct {
	sent, received []*collective.Pending
}

// ship starts to give a unit's folded gradient to the buddy, and to take the ward's. A step ships a gradient, not the
// state: the replica follows by applying the same update. Units go as their last leaf is folded, while others are still
// computed; the order is the schedule's, so it is the same at every rank.
func (t *Trainer) ship(ctx context.Context, unit int) error {
	if !t.replicates() {
		return nil
	}
	u := &t.units[unit]
	own, err := u.own(t.rank).Host() // only folds have touched it since it was cleared
	if err != nil {
		return err
	}
	theirs, err := u.replica.acc.Host()
	if err != nil {
		return err
	}
	name := "gradient " + u.Name
	t.shipping.sent = append(t.shipping.sent,
		t.group.Send(ctx, name, shard.Buddy(t.rank, t.world), collective.Buffer{Bytes: own, Type: kernels.F32}))
	t.shipping.received = append(t.shipping.received,
		t.group.Recv(ctx, name, shard.Ward(t.rank, t.world), collective.Buffer{Bytes: theirs, Type: kernels.F32}))
	return nil
}

// shipped waits until the ward's gradient is here and the buddy has said that it has all of this rank's: when it returns,
// the gradient of this shard is in two places.
func (t *Trainer) shipped(ctx context.Context) error {
	if !t.replicates() {
		return nil
	}
	buddy, ward := shard.Buddy(t.rank, t.world), shard.Ward(t.rank, t.world)
	way := t.shipping
	t.shipping = shipment{}
	t.at(fault.InShip)
	if err := t.waitAll(ctx, way.received); err != nil {
		return fmt.Errorf("take the gradient of rank %d: %w", ward, err)
	}
	one := []byte{1}
	receipt := collective.Buffer{Bytes: make([]byte, 1), Type: kernels.U8}
	given := t.group.Send(ctx, "receipt", ward, collective.Buffer{Bytes: one, Type: kernels.U8})
	if err := t.wait(ctx, t.group.Recv(ctx, "receipt", buddy, receipt)); err != nil {
		return fmt.Errorf("wait for the receipt of rank %d: %w", buddy, err)
	}
	return t.waitAll(ctx, append(way.sent, given))
}

func (t *Trainer) waitAll(ctx context.Context, all []*collective.Pending) error {
	for _, p := range all {
		if err := t.wait(ctx, p); err != nil {
			return err
		}
	}
	return nil
}

// ReplicaError says that a shard and its replica are not the same. Which of the two is right cannot be told from them: see
// Run.
type ReplicaError struct {
	Step        int64  // of the state that was compared
	Rank, Buddy int    // whose shard, and who keeps the replica
	Unit        string // the first that differs
	Field       checkpoint.Field
	Own, Kept   uint64 // the digests
}

func (e *ReplicaError) Error() string {
	return fmt.Sprintf("replica of rank %d differs in step %d: %s of %s has digest %016x there, and %016x in what rank %d keeps",
		e.Rank, e.Step, e.Field, e.Unit, e.Own, e.Kept, e.Buddy)
}

// digestElems is how much is digested at once: a piece that stays in a core's cache between its copy and its digest.
const digestElems = 128 << 10

// digests are the xxh3 of a shard's fields, in the order of units and fields.
func (t *Trainer) digests(ctx context.Context, stream kernels.Stream, of func(*unit) shardOf) ([]uint64, error) {
	all := make([]uint64, 0, len(t.units)*int(checkpoint.Fields))
	chunk := make([]byte, 4*digestElems)
	for i := range t.units {
		s := of(&t.units[i])
		for _, b := range s.fields() {
			h := xxh3.New()
			for lo := s.lo; lo < s.hi; lo += digestElems {
				hi := min(lo+digestElems, s.hi)
				part := chunk[:4*(hi-lo)]
				if err := download(ctx, stream, part, b.Slice(lo-s.base, hi-s.base)); err != nil {
					return nil, fmt.Errorf("digest %s: %w", t.units[i].Name, err)
				}
				h.Write(part)
			}
			all = append(all, h.Sum64())
		}
	}
	return all, nil
}

// compareReplicas holds every rank's digests of its shard against its buddy's of the replica.
func (t *Trainer) compareReplicas(step int64, own, kept [][]uint64) error {
	want := len(t.units) * int(checkpoint.Fields)
	for rank := range own {
		buddy := shard.Buddy(rank, t.world)
		if len(own[rank]) != want || len(kept[buddy]) != want {
			return fmt.Errorf("compare replicas of step %d: ranks %d and %d sent %d and %d digests, want %d", step, rank, buddy, len(own[rank]), len(kept[buddy]), want)
		}
		for i, d := range own[rank] {
			if k := kept[buddy][i]; k != d {
				return &ReplicaError{Step: step, Rank: rank, Buddy: buddy, Unit: t.units[i/int(checkpoint.Fields)].Name,
					Field: checkpoint.Field(i % int(checkpoint.Fields)), Own: d, Kept: k}
			}
		}
	}
	return nil
}

// CheckReplicas compares every shard with its replica: master, m and v of every unit. It is collective, and a *ReplicaError
// at every rank when two differ: a fault of memory or of the network that no checksum saw, or a bug.
func (t *Trainer) CheckReplicas(ctx context.Context) error {
	if !t.replicates() {
		return nil
	}
	own, err := t.digests(ctx, t.stream, (*unit).shard)
	if err != nil {
		return err
	}
	kept, err := t.digests(ctx, t.stream, func(u *unit) shardOf { return u.replica })
	if err != nil {
		return err
	}
	var record []byte
	for _, d := range slices.Concat(own, kept) {
		record = binary.LittleEndian.AppendUint64(record, d)
	}
	all, err := t.group.Exchange(ctx, record)
	if err != nil {
		return fmt.Errorf("compare replicas: %w", err)
	}
	owns, kepts := make([][]uint64, t.world), make([][]uint64, t.world)
	for rank, b := range all {
		var list []uint64
		for ; len(b) >= 8; b = b[8:] {
			list = append(list, binary.LittleEndian.Uint64(b))
		}
		owns[rank], kepts[rank] = list[:len(list)/2], list[len(list)/2:]
	}
	return t.compareReplicas(t.step, owns, kepts)
}
