package train

import (
	"context"
	"encoding/binary"
	"fmt"

	"github.com/zeebo/xxh3"

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
	if err := waitAll(ctx, way.received); err != nil {
		return fmt.Errorf("take the gradient of rank %d: %w", ward, err)
	}
	one := []byte{1}
	receipt := collective.Buffer{Bytes: make([]byte, 1), Type: kernels.U8}
	given := t.group.Send(ctx, "receipt", ward, collective.Buffer{Bytes: one, Type: kernels.U8})
	if err := t.group.Recv(ctx, "receipt", buddy, receipt).Wait(ctx); err != nil {
		return fmt.Errorf("wait for the receipt of rank %d: %w", buddy, err)
	}
	return waitAll(ctx, append(way.sent, given))
}

func waitAll(ctx context.Context, all []*collective.Pending) error {
	for _, p := range all {
		if err := p.Wait(ctx); err != nil {
			return err
		}
	}
	return nil
}

// CheckReplicas compares every shard with its replica: a digest of master, m and v of all units. It is collective.
//
// A replica that differs is a fault of memory or of the network that no checksum saw, or a bug.
func (t *Trainer) CheckReplicas(ctx context.Context) error {
	if !t.replicates() {
		return nil
	}
	record := make([]byte, 0, 16)
	for _, of := range []func(u *unit) shardOf{(*unit).shard, func(u *unit) shardOf { return u.replica }} {
		h := xxh3.New()
		chunk := make([]byte, 4*chunkElems)
		for i := range t.units {
			s := of(&t.units[i])
			for _, b := range s.fields() {
				for lo := s.lo; lo < s.hi; lo += chunkElems {
					hi := min(lo+chunkElems, s.hi)
					part := chunk[:4*(hi-lo)]
					if err := t.stream.Download(part, b.Slice(lo-s.base, hi-s.base)); err != nil {
						return err
					}
					if err := t.stream.Sync(ctx); err != nil {
						return err
					}
					h.Write(part)
				}
			}
		}
		record = binary.LittleEndian.AppendUint64(record, h.Sum64())
	}
	all, err := t.group.Exchange(ctx, record)
	if err != nil {
		return fmt.Errorf("compare replicas: %w", err)
	}
	for rank, r := range all {
		buddy := shard.Buddy(rank, t.world)
		if len(r) != 16 || len(all[buddy]) != 16 {
			return fmt.Errorf("compare replicas: rank %d sent %d bytes, want 16", rank, len(r))
		}
		own, kept := binary.LittleEndian.Uint64(r), binary.LittleEndian.Uint64(all[buddy][8:])
		if own != kept {
			return fmt.Errorf("replica of rank %d differs: its state has digest %016x, what rank %d keeps %016x", rank, own, buddy, kept)
		}
	}
	return nil
}
