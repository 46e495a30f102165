package store

import (
	"context"
	"encoding/json"
	"fmt"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
)

// leaderTTL is in seconds: how long a coordinator that vanished still counts as the leader.
const leaderTTL = 5

// Leader is the right to decide about a job, for as long as its election key lives.
type Leader struct {
	*Store
	session  *concurrency.Session
	election *concurrency.Election
}

// Lead waits until this process leads the job. name is what others read about it. With alone, the caller knows that no
// other coordinator can be alive (it holds the lock of the etcd's own folder), so a predecessor's key is removed instead
// of waited for.
func (s *Store) Lead(ctx context.Context, name string, alone bool) (*Leader, error) {
	if alone {
		if _, err := s.etcd.Delete(ctx, s.key("leader/"), clientv3.WithPrefix()); err != nil {
			return nil, fmt.Errorf("remove the previous coordinator's election key: %w", err)
		}
	}
	session, err := concurrency.NewSession(s.etcd, concurrency.WithTTL(leaderTTL))
	if err != nil {
		return nil, fmt.Errorf("open election session: %w", err)
	}
	election := concurrency.NewElection(session, s.key("leader"))
	if err := election.Campaign(ctx, name); err != nil {
		return nil, fmt.Errorf("campaign for job: %w", joinClose(err, session))
	}
	return &Leader{Store: s, session: session, election: election}, nil
}

func joinClose(err error, session *concurrency.Session) error {
	if e := session.Close(); e != nil {
		return fmt.Errorf("%w (and close session: %w)", err, e)
	}
	return err
}

// Lost is closed when this process may no longer decide.
func (l *Leader) Lost() <-chan struct{} { return l.session.Done() }

// Resign gives the lead up at once.
func (l *Leader) Resign() error {
	if err := l.session.Close(); err != nil {
		return fmt.Errorf("close election session: %w", err)
	}
	return nil
}

// leads is the comparison that fences a former leader.
func (l *Leader) leads() clientv3.Cmp {
	return clientv3.Compare(clientv3.CreateRevision(l.election.Key()), "=", l.election.Rev())
}

// decide commits ops if this process leads and conditions hold. ErrNotLeader, or ErrConflict for the conditions.
func (l *Leader) decide(ctx context.Context, what string, conditions []clientv3.Cmp, ops ...clientv3.Op) (revision int64, err error) {
	at("before", what)
	defer at("after", what)
	r, err := l.etcd.Txn(ctx).
		If(append([]clientv3.Cmp{l.leads()}, conditions...)...).
		Then(ops...).
		Else(clientv3.OpGet(l.election.Key())).
		Commit()
	if err != nil {
		return 0, fmt.Errorf("%s: %w", what, err)
	}
	if r.Succeeded {
		return r.Header.Revision, nil
	}
	kvs := r.Responses[0].GetResponseRange().Kvs
	if len(kvs) == 0 || kvs[0].CreateRevision != l.election.Rev() {
		return 0, fmt.Errorf("%s: %w", what, ErrNotLeader)
	}
	return 0, fmt.Errorf("%s: %w", what, ErrConflict)
}

// decidePut is decide for one key that is to be set to v, whatever it was.
func (l *Leader) decidePut(ctx context.Context, what, key string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("%s: encode: %w", what, err)
	}
	_, err = l.decide(ctx, what, nil, clientv3.OpPut(key, string(b)))
	return err
}
