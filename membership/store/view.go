package store

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/zerofleet/zerofleet/membership"
)

// View is everything a coordinator decides from, as of one revision.
type View struct {
	Run     Run
	Workers map[string]Worker // whose leases live
	// Registrations holds the newest incarnation of every id, living or not.
	Registrations map[string]Worker
	Incarnations  map[string]uint64 // how often each id has registered
	Processes     map[string]Process
	States        map[string]State
	Finished      map[string]Finished
	Generation    membership.Generation // Number 0: none of this run yet
	Settled       membership.Generation // the one that Mark.Settled names; Number 0: none of this run yet
	Mark          membership.Mark
	Promises      map[string]membership.Promise
	Shares        map[string]Share
	Drains        map[string]membership.Drain
	Instruction   membership.Instruction
	Fingerprint   Fingerprint
	Manifest      Manifest // the newest of this run; Step 0: none
	Outcome       *Outcome // nil while the run goes on
}

// Started says whether the run has a generation.
func (v View) Started() bool { return v.Generation.Number > 0 }

// View reads it.
func (s *Store) View(ctx context.Context) (View, error) {
	v := View{
		Workers: map[string]Worker{}, Registrations: map[string]Worker{}, Processes: map[string]Process{},
		States: map[string]State{}, Finished: map[string]Finished{}, Promises: map[string]membership.Promise{}, Shares: map[string]Share{},
		Drains: map[string]membership.Drain{}, Incarnations: map[string]uint64{},
	}
	r, err := s.etcd.Get(ctx, s.prefix, clientv3.WithPrefix())
	if err != nil {
		return View{}, fmt.Errorf("read job: %w", err)
	}
	for _, kv := range r.Kvs {
		name := strings.TrimPrefix(string(kv.Key), s.prefix)
		if err := v.take(name, kv.Value); err != nil {
			return View{}, fmt.Errorf("decode %s: %w", name, err)
		}
	}
	// A generation is written once, so reading it apart from the rest is the same.
	if v.Mark.Settled > 0 {
		v.Settled, err = s.GenerationNumbered(ctx, v.Mark.Settled)
	}
	return v, err
}

func (v *View) take(name string, value []byte) error {
	kind, id, _ := strings.Cut(name, "/")
	switch kind {
	case "run":
		return json.Unmarshal(value, &v.Run)
	case "workers":
		return takeInto(v.Workers, id, value)
	case "registrations":
		return takeInto(v.Registrations, id, value)
	case "incarnations":
		return takeInto(v.Incarnations, id, value)
	case "processes":
		return takeInto(v.Processes, id, value)
	case "states":
		return takeInto(v.States, id, value)
	case "finished":
		return takeInto(v.Finished, id, value)
	case "promises":
		return takeInto(v.Promises, id, value)
	case "drains":
		return takeInto(v.Drains, id, value)
	case "shares":
		return takeInto(v.Shares, id, value)
	case "fingerprint":
		return json.Unmarshal(value, &v.Fingerprint)
	case "manifest":
		return json.Unmarshal(value, &v.Manifest)
	case "outcome":
		return json.Unmarshal(value, &v.Outcome)
	case "signals":
		switch id {
		case signalGeneration:
			return json.Unmarshal(value, &v.Generation)
		case signalMark:
			return json.Unmarshal(value, &v.Mark)
		case signalEnded:
			return nil // workers watch it; a coordinator decides anew
		}
		var i instruction
		if err := json.Unmarshal(value, &i); err != nil {
			return err
		}
		v.Instruction = i.value()
	}
	return nil
}

func takeInto[T any](m map[string]T, id string, value []byte) error {
	var t T
	if err := json.Unmarshal(value, &t); err != nil {
		return err
	}
	m[id] = t
	return nil
}
