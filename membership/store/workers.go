package store

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/zerofleet/zerofleet/membership"
)

// Worker is a registered worker: a key under its lease.
type Worker struct {
	ID          string    `json:"id"`
	Incarnation uint64    `json:"incarnation"`
	Addr        string    `json:"addr"`
	Host        string    `json:"host"`
	Device      string    `json:"device"`
	PID         int       `json:"pid"`
	Threads     int       `json:"threads"`
	Nonce       []byte    `json:"nonce"`
	Lease       int64     `json:"lease"`
	Registered  time.Time `json:"registered"`
	// Removed marks an incarnation whose process is known to be gone, or that a generation was written without: its lease
	// is never granted again.
	Removed bool   `json:"removed,omitempty"`
	Gossip  string `json:"gossip,omitempty"` // host:port of its failure detector
	// Lost says why it was removed, of one that its peers and the coordinator have looked after.
	Lost *Lost `json:"lost,omitempty"`
}

// Lost is what was found of a worker that was removed for it.
type Lost struct {
	Time time.Time `json:"time"`
	Why  string    `json:"why"`
}

// registerTries bounds how often two registrations of one id may get into each other's way.
const registerTries = 8

// Register makes w the living incarnation of its id, under a new lease of ttl, and returns it with incarnation and lease
// filled in. The same nonce again gives the same registration. ErrTaken when another process holds the id.
func (s *Store) Register(ctx context.Context, w Worker, ttl time.Duration, now time.Time) (Worker, error) {
	for range registerTries {
		registered, err := s.register(ctx, w, ttl, now)
		if !errors.Is(err, ErrConflict) {
			return registered, err
		}
	}
	return Worker{}, fmt.Errorf("register worker %s: %w", w.ID, ErrConflict)
}

func (s *Store) register(ctx context.Context, w Worker, ttl time.Duration, now time.Time) (Worker, error) {
	var present Worker
	at, err := s.get(ctx, s.key("workers", w.ID), &present)
	if err != nil {
		return Worker{}, err
	}
	if at != 0 {
		if bytes.Equal(present.Nonce, w.Nonce) {
			return present, nil
		}
		return Worker{}, fmt.Errorf("%w: %s is process %d on %s", ErrTaken, w.ID, present.PID, present.Host)
	}
	counter := s.key("incarnations", w.ID)
	var lived uint64
	counted, err := s.get(ctx, counter, &lived)
	if err != nil {
		return Worker{}, err
	}
	lease, err := s.etcd.Grant(ctx, int64(ttl/time.Second))
	if err != nil {
		return Worker{}, fmt.Errorf("grant lease to worker %s: %w", w.ID, err)
	}
	w.Incarnation, w.Lease, w.Registered = lived+1, int64(lease.ID), now
	value, err := json.Marshal(w)
	if err != nil {
		return Worker{}, fmt.Errorf("encode worker %s: %w", w.ID, err)
	}
	r, err := s.etcd.Txn(ctx).If(
		clientv3.Compare(clientv3.CreateRevision(s.key("workers", w.ID)), "=", 0),
		clientv3.Compare(clientv3.ModRevision(counter), "=", counted),
	).Then(
		clientv3.OpPut(counter, fmt.Sprint(w.Incarnation)),
		clientv3.OpPut(s.key("registrations", w.ID), string(value)),
		clientv3.OpPut(s.key("workers", w.ID), string(value), clientv3.WithLease(lease.ID)),
		clientv3.OpDelete(s.key("states", w.ID)),
		clientv3.OpDelete(s.key("finished", w.ID)),
		clientv3.OpDelete(s.key("promises", w.ID)),
		clientv3.OpDelete(s.key("shares", w.ID)),
		clientv3.OpDelete(s.key("drains", w.ID)),
	).Commit()
	if err == nil && r.Succeeded {
		return w, nil
	}
	if _, e := s.etcd.Revoke(ctx, lease.ID); e != nil {
		err = errors.Join(err, e)
	}
	if err != nil {
		return Worker{}, fmt.Errorf("register worker %s: %w", w.ID, err)
	}
	return Worker{}, ErrConflict
}

// Registered returns an incarnation that is not fenced: it is the newest of its id, its process is not known to be gone,
// and no generation that follows one with it was written without it. Its lease may have ended: Renew grants it again.
// ErrNotRegistered otherwise.
func (s *Store) Registered(ctx context.Context, id string, incarnation uint64) (Worker, error) {
	w, _, _, err := s.registered(ctx, id, incarnation)
	return w, err
}

// registered also returns the revisions of the registration and of the newest generation, which a transaction that
// relies on the answer compares.
func (s *Store) registered(ctx context.Context, id string, incarnation uint64) (w Worker, at, generationAt int64, err error) {
	if at, err = s.get(ctx, s.key("registrations", id), &w); err != nil {
		return Worker{}, 0, 0, err
	}
	_, generationAt, err = s.Generation(ctx)
	if err != nil {
		return Worker{}, 0, 0, err
	}
	if w.Incarnation < incarnation { // it began after the copy of etcd was made that this one was restored from
		if err := s.lived(ctx, id, incarnation); err != nil {
			return Worker{}, 0, 0, err
		}
	}
	if at == 0 || w.Incarnation != incarnation || w.Removed {
		return Worker{}, 0, 0, fmt.Errorf("%w: worker %s incarnation %d", ErrNotRegistered, id, incarnation)
	}
	return w, at, generationAt, nil
}

// lived counts on from an incarnation that is heard of, so that no other life has its number.
func (s *Store) lived(ctx context.Context, id string, incarnation uint64) error {
	counter := s.key("incarnations", id)
	for range registerTries {
		var lived uint64
		at, err := s.get(ctx, counter, &lived)
		if err != nil || lived >= incarnation {
			return err
		}
		r, err := s.etcd.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(counter), "=", at)).
			Then(clientv3.OpPut(counter, fmt.Sprint(incarnation))).Commit()
		if err != nil {
			return fmt.Errorf("count the lives of worker %s: %w", id, err)
		}
		if r.Succeeded {
			return nil
		}
	}
	return fmt.Errorf("count the lives of worker %s: %w", id, ErrConflict)
}

// Renew keeps a worker's lease for another ttl. A lease that ended while nobody could renew it (the coordinator was
// stopped or away) is granted again, to the same incarnation, if nothing has been decided without the worker meanwhile.
// ErrNotRegistered otherwise: the worker is fenced.
func (s *Store) Renew(ctx context.Context, id string, incarnation uint64, ttl time.Duration) error {
	w, at, generationAt, err := s.registered(ctx, id, incarnation)
	if err != nil {
		return err
	}
	_, err = s.etcd.KeepAliveOnce(ctx, clientv3.LeaseID(w.Lease))
	if errors.Is(err, rpctypes.ErrLeaseNotFound) {
		return s.readmit(ctx, w, at, generationAt, ttl)
	}
	if err != nil {
		return fmt.Errorf("renew lease of worker %s: %w", id, err)
	}
	return nil
}

// readmit gives a registration, as of revision at, whose lease has ended a new one. The transaction compares the newest
// generation: once one is written without the worker, there is no way back for this incarnation.
func (s *Store) readmit(ctx context.Context, w Worker, at, generationAt int64, ttl time.Duration) error {
	id := w.ID
	lease, err := s.etcd.Grant(ctx, int64(ttl/time.Second))
	if err != nil {
		return fmt.Errorf("grant lease to worker %s: %w", id, err)
	}
	w.Lease = int64(lease.ID)
	value, err := json.Marshal(w)
	if err != nil {
		return fmt.Errorf("encode worker %s: %w", id, err)
	}
	r, err := s.etcd.Txn(ctx).If(
		clientv3.Compare(clientv3.ModRevision(s.key("registrations", id)), "=", at),
		clientv3.Compare(clientv3.ModRevision(s.key("signals", signalGeneration)), "=", generationAt),
		clientv3.Compare(clientv3.CreateRevision(s.key("workers", id)), "=", 0),
	).Then(
		clientv3.OpPut(s.key("registrations", id), string(value)),
		clientv3.OpPut(s.key("workers", id), string(value), clientv3.WithLease(lease.ID)),
	).Commit()
	if err == nil && r.Succeeded {
		return nil
	}
	if _, e := s.etcd.Revoke(ctx, lease.ID); e != nil {
		err = errors.Join(err, e)
	}
	if err != nil {
		return fmt.Errorf("renew lease of worker %s: %w", id, err)
	}
	return fmt.Errorf("renew lease of worker %s: %w", id, ErrConflict)
}

// Remove ends a worker's incarnation at once, for good: its process is known to be gone, or to hang.
func (s *Store) Remove(ctx context.Context, w Worker) error {
	w.Removed = true
	if err := s.put(ctx, s.key("registrations", w.ID), w); err != nil {
		return err
	}
	_, err := s.etcd.Revoke(ctx, clientv3.LeaseID(w.Lease))
	if err != nil && !errors.Is(err, rpctypes.ErrLeaseNotFound) {
		return fmt.Errorf("revoke lease of worker %s: %w", w.ID, err)
	}
	return nil
}

// State is what a worker last said of itself.
type State struct {
	Incarnation uint64           `json:"incarnation"`
	Phase       membership.Phase `json:"phase"`
	Message     string           `json:"message,omitempty"`
	Step        uint64           `json:"step"`
	MemoryBytes map[string]int64 `json:"memory_bytes,omitempty"`
}

// PutState keeps a worker's state.
func (s *Store) PutState(ctx context.Context, id string, st State) error {
	return s.put(ctx, s.key("states", id), st)
}

// Finished is how a worker's part of the job ended.
type Finished struct {
	Incarnation uint64             `json:"incarnation"`
	Outcome     membership.Outcome `json:"outcome"`
	Step        uint64             `json:"step"`
	Message     string             `json:"message,omitempty"`
	Time        time.Time          `json:"time"`
}

// PutFinished keeps it.
func (s *Store) PutFinished(ctx context.Context, id string, f Finished) error {
	return s.put(ctx, s.key("finished", id), f)
}
