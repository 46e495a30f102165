package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/zerofleet/zerofleet/membership"
)

// Run is one launch of a job: everything that a coordinator which takes it over must know.
type Run struct {
	Job          string   `json:"job"`
	ResolvedYAML []byte   `json:"resolved_yaml"`
	JobFile      string   `json:"job_file"` // as given on the command line, for the line that resumes
	Set          []string `json:"set,omitempty"`
	Dir          string   `json:"dir"` // absolute
	Min          int      `json:"min"`
	Max          int      `json:"max"`
	// Replicas, Whole (stage 0: every rank has everything), Restart and FailBelowMin are the job's say in recovery; Store is
	// where its checkpoints are.
	Replicas     int    `json:"replicas"`
	Whole        bool   `json:"whole,omitempty"`
	Restart      bool   `json:"restart,omitempty"`
	FailBelowMin bool   `json:"fail_below_min,omitempty"`
	Store        string `json:"store"`
	// Prices of a worker for an hour, 0 when they are not known.
	Price         float64 `json:"price,omitempty"`
	OnDemandPrice float64 `json:"on_demand_price,omitempty"`
	StopAt        uint64  `json:"stop_at,omitempty"`
	// Paused says that the job waits until it is asked to go on; Resumed is when that was last.
	Paused  bool                `json:"paused,omitempty"`
	Resumed time.Time           `json:"resumed,omitzero"`
	Restore *membership.Restore `json:"restore,omitempty"`
	// Fingerprint is what the kernels must compute, when that is known already; "": whatever generation 1's rank 0 does.
	Fingerprint string `json:"fingerprint,omitempty"`
	// Local is how many workers the launcher starts on its machine; nil: as many as the job may use. Listen is the address
	// that was asked for.
	Local  *int   `json:"local,omitempty"`
	Listen string `json:"listen,omitempty"`
	// After is the generation that this launch goes on from: its first has number After+1.
	After   uint64    `json:"after"`
	Started time.Time `json:"started"`
}

// Authority is a job's certificate authority and token, PEM and text.
type Authority struct {
	Certificate []byte `json:"certificate"`
	Key         []byte `json:"key"`
	Token       string `json:"token"`
}

// Outcome is how a run ended.
type Outcome struct {
	State   string    `json:"state"` // done, stopped, interrupted or failed
	Step    uint64    `json:"step"`
	Message string    `json:"message,omitempty"`
	Time    time.Time `json:"time"`
}

// How a run can end.
const (
	StateDone        = "done"
	StateStopped     = "stopped"     // by --stop-at or train.max_seconds, with a checkpoint
	StateInterrupted = "interrupted" // by its user
	StateFailed      = "failed"
)

// Process is a worker process that the local launcher started. PID and Start together name one process of this boot.
type Process struct {
	ID      string    `json:"id"`
	PID     int       `json:"pid"`
	Start   uint64    `json:"start"` // clock ticks since boot, from /proc/PID/stat
	Started time.Time `json:"started"`
	Exited  bool      `json:"exited,omitempty"`
	Status  string    `json:"status,omitempty"` // in words: "exit status 1", "killed by SIGKILL"
	Time    time.Time `json:"time"`             // of the exit
	// EarlyEnds is how often in a row this id's processes ended before they were members of a generation.
	EarlyEnds int `json:"early_ends,omitempty"`
}

// Begin starts a run in this store, in place of any earlier one: workers, states, signals and outcome of that are gone,
// its generations and incarnations are counted on.
func (l *Leader) Begin(ctx context.Context, run Run) (Run, error) {
	newest, _, err := l.Generation(ctx)
	if err != nil {
		return Run{}, err
	}
	run.After = max(run.After, newest.Number)
	workers, err := l.etcd.Get(ctx, l.key("workers/"), clientv3.WithPrefix())
	if err != nil {
		return Run{}, fmt.Errorf("read workers of the previous run: %w", err)
	}
	for _, kv := range workers.Kvs {
		if _, err := l.etcd.Revoke(ctx, clientv3.LeaseID(kv.Lease)); err != nil {
			return Run{}, fmt.Errorf("end the lease of %s: %w", kv.Key, err)
		}
	}
	value, err := json.Marshal(run)
	if err != nil {
		return Run{}, fmt.Errorf("encode run: %w", err)
	}
	ops := []clientv3.Op{clientv3.OpPut(l.key("run"), string(value))}
	for _, k := range []string{"workers/", "registrations/", "processes/", "states/", "finished/", "promises/", "shares/", "drains/", "signals/"} {
		ops = append(ops, clientv3.OpDelete(l.key(k), clientv3.WithPrefix()))
	}
	ops = append(ops, clientv3.OpDelete(l.key("outcome")), clientv3.OpDelete(l.key("manifest")))
	if run.Fingerprint == "" {
		ops = append(ops, clientv3.OpDelete(l.key("fingerprint")))
	} else {
		f, err := json.Marshal(Fingerprint{Value: run.Fingerprint, Worker: "the run that is resumed"})
		if err != nil {
			return Run{}, fmt.Errorf("encode fingerprint: %w", err)
		}
		ops = append(ops, clientv3.OpPut(l.key("fingerprint"), string(f)))
	}
	if _, err := l.decide(ctx, "begin run", nil, ops...); err != nil {
		return Run{}, err
	}
	return run, nil
}

// PutRun changes what was launched.
func (l *Leader) PutRun(ctx context.Context, run Run) error {
	return l.decidePut(ctx, "write run", l.key("run"), run)
}

// Run is what was launched here; ok is false if nothing was.
func (s *Store) Run(ctx context.Context) (run Run, ok bool, err error) {
	at, err := s.get(ctx, s.key("run"), &run)
	return run, at != 0, err
}

// Authority is the job's authority. The first caller makes it; all later ones get the same.
func (s *Store) Authority(ctx context.Context, create func() (Authority, error)) (Authority, error) {
	var a Authority
	at, err := s.get(ctx, s.key("authority"), &a)
	if err != nil || at != 0 {
		return a, err
	}
	if a, err = create(); err != nil {
		return Authority{}, err
	}
	b, err := json.Marshal(a)
	if err != nil {
		return Authority{}, fmt.Errorf("encode authority: %w", err)
	}
	r, err := s.etcd.Txn(ctx).
		If(clientv3.Compare(clientv3.CreateRevision(s.key("authority")), "=", 0)).
		Then(clientv3.OpPut(s.key("authority"), string(b))).Commit()
	if err != nil {
		return Authority{}, fmt.Errorf("write authority: %w", err)
	}
	if !r.Succeeded {
		return Authority{}, errors.New("write authority: another coordinator made one at the same time")
	}
	return a, nil
}

// PutProcess keeps what is known of a worker's process.
func (l *Leader) PutProcess(ctx context.Context, p Process) error {
	return l.decidePut(ctx, "write process of worker "+p.ID, l.key("processes", p.ID), p)
}

// PutOutcome ends the run.
func (l *Leader) PutOutcome(ctx context.Context, o Outcome) error {
	return l.decidePut(ctx, "write outcome", l.key("outcome"), o)
}
