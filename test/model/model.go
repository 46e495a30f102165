// Package model checks the step commit and the recovery from lost workers exhaustively, in small worlds: every
// interleaving of what workers and the coordinator do, with crashes wherever they can happen. Nothing is sampled.
//
// The planner is the real one: membership.Next decides in every state that is reached. The rest is a model, whose parts
// stand for
//
//	a worker's life       worker: take, sort, fill, promise; train: Complete, TakeOver, CheckReplicas
//	a step                train: ship, the exchange of records, apply
//	the coordinator       coordinator: decide, its mark of what is settled and what is over
//
// A World says what to explore, and Check explores it. A state in which something is wrong comes back as a *Violation,
// with the shortest history that leads to it. A Fault plants a mistake, which must be found.
//
// One action of the model is one thing that others can see. What happens within one process without a wait that could be
// cut short is one action with what comes before it: a worker that has all records applies the step; one that learns of a
// generation sorts what it keeps and completes it. A message that arrives after its sender's death is the same as one
// that arrives just before it, so that delivery has no action of its own. The coordinator keeps nothing but what is
// stored, so that its death is no action either; each of its acts is one transaction.
package model

import (
	"fmt"
	"strings"

	"github.com/zerofleet/zerofleet/membership"
)

// World is what is explored.
type World struct {
	Workers int  // ranks of the first generation, which is settled when the exploration begins
	Crashes int  // workers that may die, at any time
	Joiners int  // workers that may come, at any time
	Stalls  int  // times that a well worker may give up waiting for its peers
	Steps   int  // steps that each generation may commit before something else must happen; 0 means 1
	Shrink  int  // by how much the number of workers that the job may use can go down, once, at any time
	Min     int  // members that a generation needs; 0 means 1
	Grow    bool // the job may use the joiners beyond Workers
	Rejoin  bool // a joiner is the next life of a worker that died
	Lonely  bool // no replicas
	Whole   bool // stage 0: every rank has everything
	Pause   bool // the job may be asked to wait, once and at any time, and then to go on
}

func (w World) String() string {
	s := fmt.Sprintf("W=%d F=%d", w.Workers, w.Crashes)
	for _, x := range []struct {
		set  bool
		text string
	}{
		{w.Joiners > 0, fmt.Sprintf(" J=%d", w.Joiners)}, {w.Stalls > 0, fmt.Sprintf(" stalls=%d", w.Stalls)},
		{w.Steps > 1, fmt.Sprintf(" steps=%d", w.Steps)}, {w.Shrink > 0, fmt.Sprintf(" shrink=%d", w.Shrink)},
		{w.Min > 1, fmt.Sprintf(" min=%d", w.Min)}, {w.Grow, " grow"}, {w.Rejoin, " rejoin"}, {w.Lonely, " no replicas"}, {w.Whole, " stage 0"},
		{w.Pause, " pause"},
	} {
		if x.set {
			s += x.text
		}
	}
	return s
}

// Fault is a planted mistake. The zero value plants none.
type Fault struct {
	NoReceipt bool // a rank sends its record before its gradient is with its buddy
	NoWard    bool // a rank sends its record before it has its ward's gradient
	Early     bool // a rank writes its shard before it has all records
	// ReleaseEarly: a worker of a job that is to wait frees its state before the checkpoint of it is committed.
	ReleaseEarly bool
	FreeEarly    bool // a worker frees its old state when its share of the new one is in place, before the mark says settled
	RunEarly     bool // a worker runs in a generation when its share is in place, before the mark says settled
	// Plan stands in the planner's place; nil: membership.Next. ready says whether the open step's gradient of each shard
	// is whole where a plan would take the shard from, which no report says.
	Plan func(v membership.View, ready bool) membership.Decision
}

// Violation is something wrong, and the shortest history that leads to it.
type Violation struct {
	World   World
	Wrong   string
	History []string
}

func (v *Violation) Error() string {
	return fmt.Sprintf("%s: %s, after:\n  %s", v.World, v.Wrong, strings.Join(v.History, "\n  "))
}

// Result is what an exploration saw.
type Result struct {
	States, Plans, Generations int
	Restored                   bool // some history went back to the base model, or to an older checkpoint
	Saved                      bool // some history wrote a checkpoint
	Suspended                  bool // some history was suspended
}

// Check explores all of w, breadth first. limit bounds the states that are kept in memory; 0 means none.
func Check(w World, f Fault, limit int) (Result, error) {
	m, err := newMachine(w, f)
	if err != nil {
		return Result{}, err
	}
	first := m.first()
	type step struct {
		from int32
		act  action
	}
	index := map[state]int32{first: 0}
	states := []state{first}
	came := []step{{from: -1}}
	history := func(at int32, last ...string) []string {
		var h []string
		for ; came[at].from >= 0; at = came[at].from {
			h = append([]string{m.words(came[at].act)}, h...)
		}
		return append(h, last...)
	}
	for at := int32(0); int(at) < len(states); at++ {
		next, wrong := m.successors(states[at])
		if wrong != "" {
			return m.result(len(states)), &Violation{w, wrong, history(at)}
		}
		for _, n := range next {
			if n.wrong != "" {
				return m.result(len(states)), &Violation{w, n.wrong, history(at, m.words(n.act))}
			}
			if _, known := index[n.to]; known {
				continue
			}
			if limit > 0 && len(states) >= limit {
				return m.result(len(states)), fmt.Errorf("%s: more than %d states", w, limit)
			}
			index[n.to] = int32(len(states))
			states = append(states, n.to)
			came = append(came, step{at, n.act})
		}
	}
	return m.result(len(states)), nil
}
