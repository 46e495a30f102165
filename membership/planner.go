package membership

import (
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
	Registered  time.Time
	Ready       bool // it has loaded what the job needs, and waits
}

// View is what the planner decides from.
type View struct {
	Workers  []Candidate // living, in any order
	Current  Generation  // Number 0: this run has none yet
	After    uint64      // the run's first generation has number After+1
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

// Decision is what the planner wants. At most one of the first three is set.
type Decision struct {
	// Next is the generation to write; nil: none now.
	Next *Generation
	// Over says that the current generation is over, so that its members promise.
	Over bool
	// Reconfigure asks the members to end the generation after the running step.
	Reconfigure bool
	// Suspended says that there are too few workers to go on.
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
	reason := ""
	for _, m := range v.Current.Members {
		if why, dead := v.Gone[m.ID]; dead {
			if reason == "" {
				reason = why
			}
			continue
		}
		if p, ok := v.Promises[m.ID]; ok && p.Incarnation == m.Incarnation && p.Generation == v.Current.Number {
			if reason == "" && p.Why != "" {
				reason = fmt.Sprintf("worker %s: %s", m.ID, p.Why)
			}
			continue
		}
		silent = append(silent, m.ID)
	}
	over := len(silent) < len(v.Current.Members)
	switch {
	case over && len(silent) > 0 && reason == "" && v.Instruction.Kind == Reconfigure && v.Instruction.Sequence > v.Current.Handled:
		// The first has come to the boundary that all were asked for. The others are on their way, and may be finishing a
		// checkpoint together: that is not cut short.
		return Decision{Why: fmt.Sprintf("generation %d ends after this step", v.Current.Number)}
	case over && len(silent) > 0:
		return Decision{Over: v.Mark.Over < v.Current.Number, Why: reason}
	case over:
		switch { // all are well, and have ended it as they were asked
		case reason != "":
		case v.Instruction.Kind == Reconfigure && v.Instruction.Sequence > v.Current.Handled:
			reason = v.Instruction.Why
		case v.Mark.Over == v.Current.Number:
			reason = v.Mark.Why
		}
		return plan(v, reason)
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

// drains says whose machine goes first, and when; "" for nobody's. All of them at once is not the planner's to answer.
func drains(v View) (why string, deadline time.Time) {
	n := 0
	for _, m := range v.Current.Members {
		d, ok := v.Draining[m.ID]
		if !ok || d.Incarnation != m.Incarnation {
			continue
		}
		if n++; why == "" || d.Deadline.Before(deadline) {
			why, deadline = fmt.Sprintf("worker %s drains: %s", m.ID, d.Why), d.Deadline
		}
	}
	if n == len(v.Current.Members) {
		return "", time.Time{}
	}
	return why, deadline
}

// other says why the job should have other members, though all of them are well; "" when it should not.
func other(v View) string {
	have := len(v.Current.Members)
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
	var list []Candidate
	for _, w := range v.Workers {
		_, member := v.Current.Rank(w.ID, w.Incarnation)
		if d, draining := v.Draining[w.ID]; !member && w.Ready && (!draining || d.Incarnation != w.Incarnation) {
			list = append(list, w)
		}
	}
	slices.SortFunc(list, func(a, b Candidate) int { return CompareIDs(a.ID, b.ID) })
	return list
}

// plan is the generation after Current, whose living members have all promised.
func plan(v View, reason string) Decision {
	living := map[string]Candidate{}
	for _, w := range v.Workers {
		living[w.ID] = w
	}
	var survivors []Candidate
	for _, m := range v.Current.Members { // survivors keep their order
		c, ok := living[m.ID]
		if _, dead := v.Gone[m.ID]; !dead && ok && c.Incarnation == m.Incarnation {
			survivors = append(survivors, c)
		}
	}
	stay := fewer(v, survivors)
	if free := v.Max - len(stay); free > 0 {
		come := joiners(v)
		stay = append(stay, come[:min(free, len(come))]...)
	}
	g := &Generation{Number: v.Current.Number + 1, Why: reason, Members: members(stay)}
	if len(g.Members) < max(v.Min, 1) {
		return Decision{Suspended: true, Why: fmt.Sprintf("%d of %d workers live, the job needs %d: suspended (%s)", len(g.Members), v.Max, v.Min, reason)}
	}
	if v.Instruction.Kind == Reconfigure {
		g.Handled = v.Instruction.Sequence
	}
	g.Handled = max(g.Handled, v.Current.Handled)
	var lost string
	if g.Handover, lost = handover(v, survivors, g.Members); g.Handover == nil {
		g.Restore = v.Restore
	}
	if lost != "" {
		from := "the base model"
		if g.Restore != nil {
			from = fmt.Sprintf("the checkpoint of step %d", g.Restore.Step)
		}
		g.Why = strings.TrimPrefix(fmt.Sprintf("%s; %s: back to %s", reason, lost, from), "; ")
	}
	return Decision{Next: g, Why: g.Why}
}

// fewer are the members that go on: those that drain leave, and in a job that may use fewer workers the last ranks, but none whose
// state is lost without it. What a rank that leaves had is served from its buddy, so of the two only one leaves at a time.
func fewer(v View, survivors []Candidate) []Candidate {
	whole := func(list []Candidate) bool {
		_, lost := handover(v, survivors, members(list))
		return lost == ""
	}
	stay := slices.Clone(survivors)
	for i := len(stay) - 1; i >= 0 && len(stay) > 1; i-- {
		d, draining := v.Draining[stay[i].ID]
		rest := slices.Delete(slices.Clone(stay), i, i+1)
		if draining && d.Incarnation == stay[i].Incarnation && whole(rest) {
			stay = rest
		}
	}
	if len(stay) > v.Max && (!whole(stay) || v.Replicas == 0 && !v.Whole) {
		return stay[:v.Max] // the state is lost whoever stays, or nobody can serve what a rank that leaves had
	}
	for i := len(stay) - 1; i >= 0 && len(stay) > v.Max; i-- {
		if rest := slices.Delete(slices.Clone(stay), i, i+1); whole(rest) {
			stay = rest
		}
	}
	return stay
}

// members gives ranks in the order of the list.
func members(list []Candidate) []Member {
	all := make([]Member, len(list))
	for rank, c := range list {
		all[rank] = Member{ID: c.ID, Incarnation: c.Incarnation, Rank: rank, Addr: c.Addr, Host: c.Host}
	}
	return all
}

// handover finds the settled state among the members of the next generation: from each shard's owner, else from its buddy.
// The newest step is what any survivor reports, also one that leaves: its report has the records to complete the step
// from. lost says what is missing, if anything is.
func handover(v View, survivors []Candidate, next []Member) (h *Handover, lost string) {
	if v.Mark.Settled <= v.After {
		return nil, "" // nothing was settled in this run yet
	}
	world := len(v.Settled.Members)
	h = &Handover{Settled: v.Mark.Settled, World: world, Step: -1}
	of := func(id string, incarnation uint64) (Held, bool) {
		p := v.Promises[id]
		held, ok := p.of(v.Mark.Settled)
		return held, ok && p.Incarnation == incarnation
	}
	for _, c := range survivors {
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
	return &Generation{Number: v.After + 1, Why: why, Restore: v.Restore, Members: members(workers[:min(len(workers), v.Max)])}
}

// CompareIDs orders worker ids: shorter ones first, so that 10 comes after 9.
func CompareIDs(a, b string) int {
	if len(a) != len(b) {
		return len(a) - len(b)
	}
	return strings.Compare(a, b)
}
