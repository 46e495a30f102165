package membership

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/zerofleet/zerofleet/shard"
)

// GatherGrace is how long after the last registration a job with fewer workers than it may use starts all the same.
const GatherGrace = 30 * time.Second

// Candidate is a living worker that could be a member.
type Candidate struct {
	ID          string
	Incarnation uint64
	Addr        string
	Host        string
	Gossip      string // host:port of its failure detector
	Registered  time.Time
	Ready       bool // it has loaded what the job needs, and waits
}

// View is what the planner decides from.
type View struct {
	Workers  []Candidate // living, in any order
	Current  Generation  // Number 0: this run has none yet
	After    uint64      // the run's first generation has a number above it
	Told     uint64      // the newest number that anybody was told of: it is not given again, though nobody knows that generation
	Min, Max int         // members a generation may have

	Mark     Mark
	Settled  Generation         // the generation that Mark.Settled names
	Gone     map[string]string  // members of Current that are known to be dead: why, by id
	Promises map[string]Promise // of Current's members, by id
	// Draining are members whose machines have been told to go, by id.
	Draining map[string]Drain
	// Replicas is how many other ranks keep each shard: 0 or 1.
	Replicas int
	// Whole says that every rank has everything: stage 0.
	Whole bool
	// Restore is where the job goes back to when state is lost: its newest committed checkpoint, or what it started from.
	Restore *Restore
	// Instruction is the newest one that is in force.
	Instruction Instruction
	// Paused says that the job is to be suspended until it is resumed.
	Paused bool
}

// Drain is a worker's word that its machine goes.
type Drain struct {
	Incarnation uint64
	Deadline    time.Time
	Why         string
}

// handoverTime is kept for a handover before a deadline: a generation that has not come to a boundary by then is
// abandoned in the middle of its step.
const handoverTime = 5 * time.Second

// Reasons that are given, and recognised.
const (
	askedToWait = "asked to wait"
	allGo       = "the machines of all workers go"
)

// Decision is what the planner wants. At most one of the first three is set.
type Decision struct {
	// Next is the generation to write; nil: none now.
	Next *Generation
	// Over says that the current generation is over, so that its members promise.
	Over bool
	// Reconfigure asks the members to end the generation after the running step.
	Reconfigure bool
	// Suspended says that the job waits: it was asked to, there are too few workers, or all machines go.
	// What was in memory is in a checkpoint.
	Suspended bool
	// Why says it in words, for the event log.
	Why string
	// Again is when to ask again although nothing has changed; zero: not before something does.
	Again time.Time
}

// Next decides who forms the next generation. It is a pure function: the same view and now give the same answer.
//
// A generation ends when a member is dead, when one says that its part has ended, or at a boundary that all were asked
// to stop at. Its living members then promise never to advance in it again and report what they hold; when all have, the
// next generation is planned from their reports alone.
func Next(v View, now time.Time) Decision {
	if v.Current.Number == 0 {
		return start(v, now)
	}
	var silent []string
	died, left := "", "" // the first reason of each kind: a death says more than what it did to the others
	for _, m := range v.Current.Members {
		p, promised := v.Promises[m.ID]
		promised = promised && p.Incarnation == m.Incarnation && p.Generation == v.Current.Number
		switch why, dead := v.Gone[m.ID]; {
		case dead && died == "":
			died = why
		case dead:
		case !promised:
			silent = append(silent, m.ID)
		case left == "" && p.Why != "":
			left = fmt.Sprintf("worker %s: %s", m.ID, p.Why)
		}
	}
	reason := left
	if v.Mark.Over == v.Current.Number {
		reason = cmp.Or(v.Mark.Why, left)
	}
	reason = cmp.Or(died, reason)
	over := len(silent) < len(v.Current.Members)
	switch {
	case over && len(silent) > 0 && reason == "" && (v.Current.Save || v.Instruction.Kind == Reconfigure && v.Instruction.Sequence > v.Current.Handled):
		// The first has come to the boundary that all were asked for. The others are on their way, and may be finishing a
		// checkpoint together: that is not cut short.
		return Decision{Why: fmt.Sprintf("generation %d ends", v.Current.Number)}
	case over && len(silent) > 0:
		return Decision{Over: v.Mark.Over < v.Current.Number, Why: reason}
	case over:
		switch { // all are well, and have ended it as they were asked
		case reason != "":
		case v.Instruction.Kind == Reconfigure && v.Instruction.Sequence > v.Current.Handled:
			reason = v.Instruction.Why
		case v.Mark.Over == v.Current.Number:
			reason = v.Mark.Why
		case v.Current.Save:
			reason = v.Current.Why
		}
		return plan(v, reason)
	case v.Current.Save:
		return Decision{Why: fmt.Sprintf("generation %d writes its state to a checkpoint", v.Current.Number)}
	case v.Mark.Settled < v.Current.Number:
		return Decision{Why: fmt.Sprintf("generation %d takes over its state", v.Current.Number)}
	}
	ask := v.Instruction.Kind != Reconfigure || v.Instruction.Sequence <= v.Current.Handled
	if why, deadline := drains(v); why != "" {
		latest := deadline.Add(-handoverTime)
		if !now.Before(latest) {
			return Decision{Over: v.Mark.Over < v.Current.Number, Why: why + ": too soon for the running step"}
		}
		return Decision{Reconfigure: ask, Why: why, Again: latest}
	}
	if why := other(v); why != "" {
		return Decision{Reconfigure: ask, Why: why}
	}
	return Decision{Why: fmt.Sprintf("generation %d stands", v.Current.Number)}
}

// drains says whose machine goes first, and when; "" for nobody's.
func drains(v View) (why string, deadline time.Time) {
	n := 0
	for _, m := range v.Current.Members {
		if d, ok := v.drains(m.ID, m.Incarnation); ok {
			if n++; why == "" || d.Deadline.Before(deadline) {
				why, deadline = fmt.Sprintf("worker %s drains: %s", m.ID, d.Why), d.Deadline
			}
		}
	}
	if n > 1 && n == len(v.Current.Members) {
		why = allGo
	}
	return why, deadline
}

// drains says whether this life of a worker is told that its machine goes.
func (v View) drains(id string, incarnation uint64) (Drain, bool) {
	d, ok := v.Draining[id]
	return d, ok && d.Incarnation == incarnation
}

// other says why the job should have other members, though all of them are well; "" when it should not.
func other(v View) string {
	have := len(v.Current.Members)
	if v.Paused {
		return askedToWait
	}
	if have > v.Max {
		return fmt.Sprintf("%d workers, and the job may use %d", have, v.Max)
	}
	if joiners := joiners(v); len(joiners) > 0 && have < v.Max {
		return fmt.Sprintf("worker %s has joined: %d of %d workers", joiners[0].ID, have, v.Max)
	}
	return ""
}

// joiners are the workers that wait to become members, in the order of their ids.
func joiners(v View) []Candidate {
	members := incarnations(v.Current.Members)
	var list []Candidate
	for _, w := range v.Workers {
		_, draining := v.drains(w.ID, w.Incarnation)
		if members[w.ID] != w.Incarnation && w.Ready && !draining {
			list = append(list, w)
		}
	}
	slices.SortFunc(list, func(a, b Candidate) int { return CompareIDs(a.ID, b.ID) })
	return list
}

// incarnations are the members' lives, by id; 0 is nobody's.
func incarnations(members []Member) map[string]uint64 {
	lives := make(map[string]uint64, len(members))
	for _, m := range members {
		lives[m.ID] = m.Incarnation
	}
	return lives
}

// plan is the generation after Current, whose living members have all promised.
func plan(v View, reason string) Decision {
	have := holders(v)
	stay := fewer(v, have)
	if free := v.Max - len(stay); free > 0 {
		come := joiners(v)
		stay = append(stay, come[:min(free, len(come))]...)
	}
	next := members(stay)
	from, lost := handover(v, have, next)
	wait := waits(v, stay)
	if wait != "" || lost != "" {
		// What only memory has, and the next generation would not have, is written down first.
		if g := save(v, have, reason); g != nil {
			return Decision{Next: g, Why: g.Why}
		}
	}
	if wait != "" {
		if reason != "" && !strings.HasPrefix(reason, wait) {
			wait = fmt.Sprintf("%s (%s)", wait, reason)
		}
		return Decision{Suspended: true, Why: wait}
	}
	if reason == askedToWait {
		reason = "asked to go on"
	}
	g := &Generation{Number: v.next(), Why: reason, Members: next, Handover: from, Handled: v.handled()}
	if from == nil {
		g.Restore = v.Restore
	}
	if lost != "" {
		back := "the base model"
		if g.Restore != nil {
			back = fmt.Sprintf("the checkpoint of step %d", g.Restore.Step)
		}
		lost += ": back to "
		if v.Current.Save { // everything had been written down
			lost = "going on from "
		}
		g.Why = strings.TrimPrefix(reason+"; "+lost+back, "; ")
	}
	return Decision{Next: g, Why: g.Why}
}

// waits says why a job with these workers waits; "" when it goes on.
func waits(v View, stay []Candidate) string {
	if v.Paused {
		return askedToWait
	}
	if len(stay) < max(v.Min, 1) {
		return fmt.Sprintf("%d of %d workers live, the job needs %d", len(stay), v.Max, v.Min)
	}
	for _, w := range stay {
		if _, draining := v.drains(w.ID, w.Incarnation); !draining {
			return ""
		}
	}
	return allGo
}

// save is the generation that writes to a checkpoint what its members have in memory; nil when that is not all of the
// state, or there is a checkpoint of it. It moves nothing and makes no step: who holds a shard writes it.
func save(v View, have []Candidate, reason string) *Generation {
	all := members(have)
	h, _ := handover(v, have, all)
	if h == nil {
		return nil
	}
	saved := int64(0) // the base model is never lost
	if r := v.Restore; r != nil && !r.WeightsOnly {
		saved = int64(r.Step)
	}
	if h.Step <= saved {
		return nil
	}
	return &Generation{Number: v.next(), Why: reason, Members: all, Handover: h, Handled: v.handled(), Save: true, Release: v.Paused}
}

// next is the next generation's number.
func (v View) next() uint64 { return max(v.Current.Number, v.After, v.Told) + 1 }

// handled is the newest instruction that has been carried out when Current has ended.
func (v View) handled() uint64 {
	if v.Instruction.Kind == Reconfigure {
		return max(v.Instruction.Sequence, v.Current.Handled)
	}
	return v.Current.Handled
}

// holders are the living members of Current, in their order, then those that left the settled generation for one that has
// not settled yet: what they have may still be needed.
func holders(v View) []Candidate {
	living := map[string]Candidate{}
	for _, w := range v.Workers {
		living[w.ID] = w
	}
	var have []Candidate
	for _, of := range [][]Member{v.Current.Members, v.Settled.Members} {
		for _, m := range of {
			c, ok := living[m.ID]
			if _, dead := v.Gone[m.ID]; dead || !ok || c.Incarnation != m.Incarnation {
				continue
			}
			delete(living, m.ID)
			have = append(have, c)
		}
	}
	return have
}

// members gives ranks in the order of the list, but so that neighbours are on different machines where that can be: a rank's
// buddy is the next one, and a machine takes all its workers with it.
func members(list []Candidate) []Member {
	all := make([]Member, len(list))
	for rank, c := range spread(list) {
		all[rank] = Member{ID: c.ID, Incarnation: c.Incarnation, Rank: rank, Addr: c.Addr, Host: c.Host, Gossip: c.Gossip}
	}
	return all
}

// handover finds the settled state among the members of the next generation: from each shard's owner, else from its buddy.
// The newest step is what any of have reports, also one that leaves: its report has the records to complete the step
// from. lost says what is missing, if anything is.
func handover(v View, have []Candidate, next []Member) (h *Handover, lost string) {
	if v.Mark.Settled <= v.After {
		return nil, "" // nothing was settled in this run yet
	}
	if v.Settled.Number != v.Mark.Settled {
		return nil, fmt.Sprintf("nobody knows any more who the members of generation %d were", v.Mark.Settled)
	}
	world := len(v.Settled.Members)
	h = &Handover{Settled: v.Mark.Settled, World: world, Step: -1}
	of := func(id string, incarnation uint64) (Held, bool) {
		p := v.Promises[id]
		held, ok := p.of(v.Mark.Settled)
		return held, ok && p.Incarnation == incarnation
	}
	for _, c := range have {
		held, ok := of(c.ID, c.Incarnation)
		if ok && held.Distrusted {
			return nil, fmt.Sprintf("the state of generation %d is not to be trusted", v.Mark.Settled)
		}
		if ok && held.Step > h.Step {
			h.Step, h.OptimizerStep, h.Records, h.Cursor = held.Step, held.OptimizerStep, held.Records, held.Cursor
		}
	}
	at := map[int]int{} // rank in the settled generation to rank in the next
	for _, m := range next {
		if held, ok := of(m.ID, m.Incarnation); ok {
			at[held.Rank] = m.Rank
		}
	}
	if v.Whole {
		for old := range world {
			if r, ok := at[old]; ok {
				h.Holders = append(h.Holders, Holder{Rank: r})
			}
		}
		if h.World = 1; len(h.Holders) == 0 {
			return nil, "no rank of the settled generation is left"
		}
		return h, ""
	}
	for old := range world {
		buddy := shard.Buddy(old, world)
		if r, ok := at[old]; ok {
			h.Holders = append(h.Holders, Holder{Rank: r})
		} else if r, ok := at[buddy]; ok && buddy != old && v.Replicas > 0 {
			h.Holders = append(h.Holders, Holder{Rank: r, Replica: true})
		} else if buddy == old || v.Replicas == 0 {
			return nil, fmt.Sprintf("nobody has the shard of rank %d of generation %d", old, v.Mark.Settled)
		} else {
			return nil, fmt.Sprintf("ranks %d and %d of generation %d, a rank and its buddy, are both gone", old, buddy, v.Mark.Settled)
		}
	}
	return h, ""
}

// start is the run's first generation.
func start(v View, now time.Time) Decision {
	have := fmt.Sprintf("%d of %d workers registered", len(v.Workers), v.Max)
	switch {
	case v.Paused:
		return Decision{Suspended: true, Why: askedToWait}
	case len(v.Workers) >= v.Max:
		return Decision{Next: first(v, have), Why: have}
	case len(v.Workers) < v.Min:
		return Decision{Why: fmt.Sprintf("%s, the job needs %d: waiting", have, v.Min)}
	}
	last := v.Workers[0].Registered
	for _, w := range v.Workers {
		if w.Registered.After(last) {
			last = w.Registered
		}
	}
	if start := last.Add(GatherGrace); now.Before(start) {
		return Decision{Why: have + ": waiting for more", Again: start}
	}
	why := fmt.Sprintf("%s, none for %s", have, GatherGrace)
	return Decision{Next: first(v, why), Why: why}
}

// first is the run's first generation: the lowest ids, in their order.
func first(v View, why string) *Generation {
	workers := slices.Clone(v.Workers)
	slices.SortFunc(workers, func(a, b Candidate) int { return CompareIDs(a.ID, b.ID) })
	return &Generation{Number: v.next(), Why: why, Restore: v.Restore, Members: members(workers[:min(len(workers), v.Max)])}
}

// CompareIDs orders worker ids: shorter ones first, so that 10 comes after 9.
func CompareIDs(a, b string) int {
	if len(a) != len(b) {
		return len(a) - len(b)
	}
	return strings.Compare(a, b)
}
