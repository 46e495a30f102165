package store

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/zerofleet/zerofleet/membership"
)

// Lacking is what an etcd that was restored from an older copy lacks, as others know it. What is zero or empty is not lacking.
type Lacking struct {
	Generation   membership.Generation // the newest
	Settled      membership.Generation // the one that Mark names
	Mark         membership.Mark
	Instruction  membership.Instruction
	Fingerprint  Fingerprint
	Manifest     Manifest
	Heard        []Worker // lives that have called: each gets a lease
	Unheard      []Worker // lives that a generation names
	Processes    []Process
	Incarnations map[string]uint64
}

// Empty says that nothing is lacking.
func (k Lacking) Empty() bool {
	return k.Generation.Number == 0 && k.Settled.Number == 0 && k.Mark == (membership.Mark{}) && k.Instruction.Sequence == 0 &&
		k.Fingerprint.Value == "" && k.Manifest.Step == 0 && len(k.Heard)+len(k.Unheard)+len(k.Processes)+len(k.Incarnations) == 0
}

// Complete writes what is lacking in one transaction, which compares the election key and that the newest generation is
// still the one that lacking was computed from. Leases are of ttl.
func (l *Leader) Complete(ctx context.Context, from uint64, k Lacking, ttl time.Duration) error {
	const what = "write what etcd lacks"
	newest, at, err := l.Generation(ctx)
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	if newest.Number != from {
		return fmt.Errorf("%s: generation %d, it was %d: %w", what, newest.Number, from, ErrConflict)
	}
	var ops []clientv3.Op
	put := func(v any, key string, o ...clientv3.OpOption) {
		b, e := json.Marshal(v)
		if e != nil && err == nil {
			err = fmt.Errorf("%s: encode %s: %w", what, key, e)
		}
		ops = append(ops, clientv3.OpPut(key, string(b), o...))
	}
	if g := k.Generation; g.Number > 0 {
		put(g, l.generationKey(g.Number))
		put(g, l.key("signals", signalGeneration))
	}
	if g := k.Settled; g.Number > 0 && g.Number != k.Generation.Number {
		put(g, l.generationKey(g.Number))
	}
	if k.Mark != (membership.Mark{}) {
		put(k.Mark, l.key("signals", signalMark))
	}
	if i := k.Instruction; i.Sequence > 0 {
		put(instruction{i.Sequence, i.Kind, i.Why}, l.key("signals", signalInstruction))
	}
	if k.Fingerprint.Value != "" {
		put(k.Fingerprint, l.key("fingerprint"))
	}
	if k.Manifest.Step > 0 {
		put(k.Manifest, l.key("manifest"))
	}
	for _, w := range k.Heard {
		lease, e := l.etcd.Grant(ctx, int64(ttl/time.Second)) // one that comes to nothing ends by itself
		if e != nil {
			return fmt.Errorf("%s: grant lease to worker %s: %w", what, w.ID, e)
		}
		w.Lease = int64(lease.ID)
		put(w, l.key("registrations", w.ID))
		put(w, l.key("workers", w.ID), clientv3.WithLease(lease.ID))
	}
	for _, w := range k.Unheard {
		put(w, l.key("registrations", w.ID))
		ops = append(ops, clientv3.OpDelete(l.key("workers", w.ID))) // of a life before it
	}
	for _, p := range k.Processes {
		put(p, l.key("processes", p.ID))
	}
	for id, n := range k.Incarnations {
		put(n, l.key("incarnations", id))
	}
	if err != nil {
		return err
	}
	_, err = l.decide(ctx, what, []clientv3.Cmp{clientv3.Compare(clientv3.ModRevision(l.key("signals", signalGeneration)), "=", at)}, ops...)
	return err
}
