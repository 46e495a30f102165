package store

import (
	"context"
	"encoding/json"
	"fmt"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/zerofleet/zerofleet/membership"
)

// signals are what every worker watches: values of protobuf messages would tie the store's format to the wire's, so
// they are JSON like the rest.
const (
	signalGeneration  = "generation"
	signalInstruction = "instruction"
	signalMark        = "mark"
	signalEnded       = "ended"
)

// PutGeneration writes the next generation: in one transaction that compares the election key and that previous, the number
// of the generation before it or 0, is still the newest. Members of that one that are not in g are removed with it, fenced,
// but those that stays names: what they have may be needed until g is settled.
func (l *Leader) PutGeneration(ctx context.Context, previous uint64, g membership.Generation, stays func(membership.Member) bool) error {
	newest, at, err := l.Generation(ctx)
	if err != nil {
		return err
	}
	what := fmt.Sprintf("write generation %d", g.Number)
	if newest.Number != previous {
		return fmt.Errorf("%s after %d: newest is %d: %w", what, previous, newest.Number, ErrConflict)
	}
	if g.Number <= previous {
		return fmt.Errorf("%s after %d: want a higher number", what, previous)
	}
	b, err := json.Marshal(g)
	if err != nil {
		return fmt.Errorf("%s: encode: %w", what, err)
	}
	signal := l.key("signals", signalGeneration)
	conditions := []clientv3.Cmp{clientv3.Compare(clientv3.ModRevision(signal), "=", at)}
	ops := []clientv3.Op{clientv3.OpPut(signal, string(b)), clientv3.OpPut(l.generationKey(g.Number), string(b))}
	var leave []membership.Member
	for _, m := range newest.Members {
		if _, member := g.Rank(m.ID, m.Incarnation); !member && !stays(m) {
			leave = append(leave, m)
		}
	}
	fenced, fences, err := l.fence(ctx, leave)
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	_, err = l.decide(ctx, what, append(conditions, fenced...), append(ops, fences...)...)
	return err
}

// fence is the part of a transaction that removes lives of workers.
func (l *Leader) fence(ctx context.Context, lives []membership.Member) (conditions []clientv3.Cmp, ops []clientv3.Op, err error) {
	for _, m := range lives {
		var w Worker
		registered, err := l.get(ctx, l.key("registrations", m.ID), &w)
		if err != nil {
			return nil, nil, err
		}
		if registered == 0 || w.Incarnation != m.Incarnation || w.Removed {
			continue // the id has begun another life
		}
		w.Removed = true
		value, err := json.Marshal(w)
		if err != nil {
			return nil, nil, fmt.Errorf("encode worker %s: %w", w.ID, err)
		}
		conditions = append(conditions, clientv3.Compare(clientv3.ModRevision(l.key("registrations", m.ID)), "=", registered))
		ops = append(ops, clientv3.OpPut(l.key("registrations", m.ID), string(value)), clientv3.OpDelete(l.key("workers", m.ID)))
	}
	return conditions, ops, nil
}

func (s *Store) generationKey(number uint64) string {
	return s.key("generations", fmt.Sprintf("%08d", number))
}

// GenerationNumbered is a generation of this job's past; Number 0 if there was none of that number.
func (s *Store) GenerationNumbered(ctx context.Context, number uint64) (membership.Generation, error) {
	var g membership.Generation
	_, err := s.get(ctx, s.generationKey(number), &g)
	return g, err
}

// PutMark says how far generations have come, and removes those that have left: fences them.
func (l *Leader) PutMark(ctx context.Context, m membership.Mark, left ...membership.Member) error {
	what := fmt.Sprintf("write that generation %d is settled and %d over", m.Settled, m.Over)
	b, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("%s: encode: %w", what, err)
	}
	conditions, ops, err := l.fence(ctx, left)
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	_, err = l.decide(ctx, what, conditions, append(ops, clientv3.OpPut(l.key("signals", signalMark), string(b)))...)
	return err
}

// Ended is how a run ends: its outcome, before it is written.
type Ended struct {
	State   string `json:"state"`
	Message string `json:"message,omitempty"`
}

// PutEnded tells every worker that the run ends now.
func (l *Leader) PutEnded(ctx context.Context, e Ended) error {
	return l.decidePut(ctx, "write the end", l.key("signals", signalEnded), e)
}

// PutPromise keeps what a worker has promised and reported.
func (s *Store) PutPromise(ctx context.Context, id string, p membership.Promise) error {
	return s.put(ctx, s.key("promises", id), p)
}

// PutDrain keeps that a worker's machine goes.
func (s *Store) PutDrain(ctx context.Context, id string, d membership.Drain) error {
	return s.put(ctx, s.key("drains", id), d)
}

// Share is a worker's word that its share of a generation's state is in place.
type Share struct {
	Incarnation   uint64 `json:"incarnation"`
	Generation    uint64 `json:"generation"`
	ReceivedBytes uint64 `json:"received_bytes"` // from other ranks
	RestoredBytes uint64 `json:"restored_bytes"` // from a checkpoint
}

// PutShare keeps it.
func (s *Store) PutShare(ctx context.Context, id string, share Share) error {
	return s.put(ctx, s.key("shares", id), share)
}

// Generation is the newest generation and the revision that wrote it; Number is 0 before the first.
func (s *Store) Generation(ctx context.Context) (membership.Generation, int64, error) {
	var g membership.Generation
	at, err := s.get(ctx, s.key("signals", signalGeneration), &g)
	return g, at, err
}

// instruction is the value of signals/instruction.
type instruction struct {
	Sequence uint64                     `json:"sequence"` // only grows: etcd's revisions do not when an older copy is restored
	Kind     membership.InstructionKind `json:"kind"`
	Why      string                     `json:"why"`
}

func (i instruction) value() membership.Instruction {
	return membership.Instruction{Sequence: i.Sequence, Kind: i.Kind, Why: i.Why}
}

// PutInstruction asks something of all ranks, in place of what was asked before.
func (l *Leader) PutInstruction(ctx context.Context, kind membership.InstructionKind, why string) error {
	const what = "write instruction"
	key := l.key("signals", signalInstruction)
	var was instruction
	at, err := l.get(ctx, key, &was)
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	g, _, err := l.Generation(ctx)
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	b, err := json.Marshal(instruction{max(was.Sequence, g.Handled) + 1, kind, why})
	if err != nil {
		return fmt.Errorf("%s: encode: %w", what, err)
	}
	_, err = l.decide(ctx, what, []clientv3.Cmp{clientv3.Compare(clientv3.ModRevision(key), "=", at)}, clientv3.OpPut(key, string(b)))
	return err
}

// Instruction is the newest instruction; the zero value if none is in force.
func (s *Store) Instruction(ctx context.Context) (membership.Instruction, error) {
	var i instruction
	_, err := s.get(ctx, s.key("signals", signalInstruction), &i)
	return i.value(), err
}

// Signal is one of its fields.
type Signal struct {
	Generation  *membership.Generation
	Instruction *membership.Instruction
	Mark        *membership.Mark
	Ended       *Ended
}

// Signals tells see of the newest generation, instruction and mark, and of the end if it has come, then of each later one, until ctx ends or either of
// see and etcd fails.
func (s *Store) Signals(ctx context.Context, see func(Signal) error) error {
	now, err := s.etcd.Get(ctx, s.key("signals/"), clientv3.WithPrefix())
	if err != nil {
		return fmt.Errorf("read signals: %w", err)
	}
	for _, kv := range now.Kvs {
		if err := s.signal(kv, see); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for r := range s.etcd.Watch(ctx, s.key("signals/"), clientv3.WithPrefix(), clientv3.WithRev(now.Header.Revision+1)) {
		if err := r.Err(); err != nil {
			return fmt.Errorf("watch signals: %w", err)
		}
		for _, e := range r.Events {
			if e.Type != mvccpb.Event_PUT {
				continue
			}
			if err := s.signal(e.Kv, see); err != nil {
				return err
			}
		}
	}
	return ctx.Err()
}

func (s *Store) signal(kv *mvccpb.KeyValue, see func(Signal) error) error {
	switch string(kv.Key) {
	case s.key("signals", signalGeneration):
		var g membership.Generation
		if err := json.Unmarshal(kv.Value, &g); err != nil {
			return fmt.Errorf("decode generation: %w", err)
		}
		return see(Signal{Generation: &g})
	case s.key("signals", signalInstruction):
		var i instruction
		if err := json.Unmarshal(kv.Value, &i); err != nil {
			return fmt.Errorf("decode instruction: %w", err)
		}
		value := i.value()
		return see(Signal{Instruction: &value})
	case s.key("signals", signalMark):
		var m membership.Mark
		if err := json.Unmarshal(kv.Value, &m); err != nil {
			return fmt.Errorf("decode mark: %w", err)
		}
		return see(Signal{Mark: &m})
	case s.key("signals", signalEnded):
		var e Ended
		if err := json.Unmarshal(kv.Value, &e); err != nil {
			return fmt.Errorf("decode the end: %w", err)
		}
		return see(Signal{Ended: &e})
	}
	return nil
}
