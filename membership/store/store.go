// Package store keeps a job's membership in etcd, which is its only authority: what is not here is not so, unless the
// etcd is an older copy than what others know (Complete).
//
// The keys of a job, all under one prefix:
//
//	leader/...        the election; its newest holder is the coordinator
//	run               what was launched: the resolved job, limits, where it starts from
//	authority         the job's certificate authority and token
//	workers/ID        a worker, under its lease: gone when the lease ends
//	registrations/ID  the same without a lease: what a worker whose lease ended with nobody at fault comes back by
//	incarnations/ID   how often the worker has registered
//	processes/ID      a process that the local launcher started, and how it ended
//	states/ID         what the worker last said it is doing
//	finished/ID       how its part of the job ended
//	signals/generation, signals/instruction, signals/mark, signals/ended
//	                  the newest of each, which every worker watches
//	generations/N     all of them
//	fingerprint       what the job's kernels compute
//	manifest          the newest committed checkpoint
//	outcome           how the run ended
//
// Values are JSON. Whatever only one coordinator may decide is written in a transaction that compares its election key.
package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	clientv3 "go.etcd.io/etcd/client/v3"
)

var (
	// ErrNotLeader says that another coordinator has taken the job over: this one must stop deciding.
	ErrNotLeader = errors.New("another coordinator leads the job")
	// ErrConflict says that what a transaction was computed from has changed: read again and decide again.
	ErrConflict = errors.New("the job's state has changed")
	// ErrNotRegistered says that an incarnation's lease is gone: it is fenced.
	ErrNotRegistered = errors.New("no such incarnation is registered")
	// ErrTaken says that another living process has the worker's id.
	ErrTaken = errors.New("worker id is taken")
)

// Store is one job's keys. Its methods may be called by several goroutines, and by several coordinators.
type Store struct {
	etcd   *clientv3.Client
	prefix string
}

// New is the store of a job in an etcd.
func New(etcd *clientv3.Client, job string) *Store {
	return &Store{etcd: etcd, prefix: "/zerofleet/" + job + "/"}
}

func (s *Store) key(parts ...string) string {
	k := s.prefix
	for i, p := range parts {
		if i > 0 {
			k += "/"
		}
		k += p
	}
	return k
}

// get reads one key into v. It returns the revision of the key's last change, 0 when there is no such key.
func (s *Store) get(ctx context.Context, key string, v any) (revision int64, err error) {
	r, err := s.etcd.Get(ctx, key)
	if err != nil {
		return 0, fmt.Errorf("read %s: %w", key, err)
	}
	if len(r.Kvs) == 0 {
		return 0, nil
	}
	if err := json.Unmarshal(r.Kvs[0].Value, v); err != nil {
		return 0, fmt.Errorf("decode %s: %w", key, err)
	}
	return r.Kvs[0].ModRevision, nil
}

func (s *Store) put(ctx context.Context, key string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode %s: %w", key, err)
	}
	if _, err := s.etcd.Put(ctx, key, string(b)); err != nil {
		return fmt.Errorf("write %s: %w", key, err)
	}
	return nil
}

// Changes sends a token whenever something under the job's prefix has changed, until ctx ends. Changes that follow each
// other closely may share one.
func (s *Store) Changes(ctx context.Context) <-chan struct{} {
	tell := make(chan struct{}, 1)
	watch := s.etcd.Watch(ctx, s.prefix, clientv3.WithPrefix())
	go func() {
		defer close(tell)
		for range watch {
			select {
			case tell <- struct{}{}:
			default:
			}
		}
	}()
	return tell
}
