package store

import (
	"context"
	"encoding/json"
	"fmt"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// Manifest is the newest committed checkpoint of a run.
type Manifest struct {
	Step       uint64 `json:"step"`
	Generation uint64 `json:"generation"`
	Bytes      []byte `json:"bytes"`
	// Stored is the newest step whose manifest the checkpoint store has too, so that the store alone is enough; 0: none.
	Stored uint64 `json:"stored,omitempty"`
}

// CommitManifest makes the checkpoint of m.Step exist: in one transaction that compares that m.Generation is the newest
// generation and m.Step is later than the newest committed step. Otherwise committed is false and why says what it lost
// to. A step that is committed already is committed, whoever's manifest it has: the state of a step is the same in all.
func (s *Store) CommitManifest(ctx context.Context, m Manifest) (committed bool, why string, err error) {
	what := fmt.Sprintf("commit manifest of step %d", m.Step)
	for range registerTries {
		generation, generationAt, err := s.Generation(ctx)
		if err != nil {
			return false, "", err
		}
		newest, newestAt, err := s.Manifest(ctx)
		if err != nil {
			return false, "", err
		}
		switch {
		case newestAt != 0 && newest.Step == m.Step:
			return true, "", nil
		case generation.Number != m.Generation:
			return false, fmt.Sprintf("generation %d is not the newest, %d is", m.Generation, generation.Number), nil
		case newestAt != 0 && newest.Step > m.Step:
			return false, fmt.Sprintf("step %d is not later than step %d, which generation %d committed", m.Step, newest.Step, newest.Generation), nil
		}
		m.Stored = newest.Stored
		b, err := json.Marshal(m)
		if err != nil {
			return false, "", fmt.Errorf("%s: encode: %w", what, err)
		}
		r, err := s.etcd.Txn(ctx).If(
			clientv3.Compare(clientv3.ModRevision(s.key("signals", signalGeneration)), "=", generationAt),
			clientv3.Compare(clientv3.ModRevision(s.key("manifest")), "=", newestAt),
		).Then(clientv3.OpPut(s.key("manifest"), string(b))).Commit()
		if err != nil {
			return false, "", fmt.Errorf("%s: %w", what, err)
		}
		if r.Succeeded {
			return true, "", nil
		}
	}
	return false, "", fmt.Errorf("%s: %w", what, ErrConflict)
}

// ManifestStored keeps that the checkpoint store has the newest committed manifest, if that is of step, and says whether
// this is news.
func (s *Store) ManifestStored(ctx context.Context, step uint64) (news bool, err error) {
	what := fmt.Sprintf("keep that the manifest of step %d is stored", step)
	for range registerTries {
		m, at, err := s.Manifest(ctx)
		if err != nil || at == 0 || m.Step != step || m.Stored == step {
			return false, err
		}
		m.Stored = step
		b, err := json.Marshal(m)
		if err != nil {
			return false, fmt.Errorf("%s: encode: %w", what, err)
		}
		r, err := s.etcd.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(s.key("manifest")), "=", at)).
			Then(clientv3.OpPut(s.key("manifest"), string(b))).Commit()
		if err != nil {
			return false, fmt.Errorf("%s: %w", what, err)
		}
		if r.Succeeded {
			return true, nil
		}
	}
	return false, fmt.Errorf("%s: %w", what, ErrConflict)
}

// Manifest is the newest committed checkpoint and the revision that wrote it; 0 if there is none.
func (s *Store) Manifest(ctx context.Context) (m Manifest, revision int64, err error) {
	revision, err = s.get(ctx, s.key("manifest"), &m)
	return m, revision, err
}

// Fingerprint is what a job's kernels compute, and who said so first.
type Fingerprint struct {
	Value  string `json:"value"`
	Worker string `json:"worker"`
}

// OfferFingerprint makes f the job's if it has none, and returns the job's.
func (s *Store) OfferFingerprint(ctx context.Context, f Fingerprint) (Fingerprint, error) {
	b, err := json.Marshal(f)
	if err != nil {
		return Fingerprint{}, fmt.Errorf("encode fingerprint: %w", err)
	}
	r, err := s.etcd.Txn(ctx).
		If(clientv3.Compare(clientv3.CreateRevision(s.key("fingerprint")), "=", 0)).
		Then(clientv3.OpPut(s.key("fingerprint"), string(b))).
		Else(clientv3.OpGet(s.key("fingerprint"))).Commit()
	if err != nil {
		return Fingerprint{}, fmt.Errorf("write fingerprint: %w", err)
	}
	if r.Succeeded {
		return f, nil
	}
	kvs := r.Responses[0].GetResponseRange().Kvs
	if len(kvs) == 0 {
		return Fingerprint{}, fmt.Errorf("write fingerprint: %w", ErrConflict)
	}
	if err := json.Unmarshal(kvs[0].Value, &f); err != nil {
		return Fingerprint{}, fmt.Errorf("decode fingerprint: %w", err)
	}
	return f, nil
}

// AwaitFingerprint waits until the job has a fingerprint and returns it.
func (s *Store) AwaitFingerprint(ctx context.Context) (Fingerprint, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	watch := s.etcd.Watch(ctx, s.key("fingerprint"))
	for {
		var f Fingerprint
		at, err := s.get(ctx, s.key("fingerprint"), &f)
		if err != nil || at != 0 {
			return f, err
		}
		select {
		case <-ctx.Done():
			return Fingerprint{}, ctx.Err()
		case r, ok := <-watch:
			if !ok || r.Err() != nil {
				return Fingerprint{}, fmt.Errorf("watch fingerprint: %w", r.Err())
			}
		}
	}
}
