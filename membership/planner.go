package membership

import (
	"fmt"
	"slices"
	"strings"
	"time"
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
}

// View is what the planner decides from.
type View struct {
	Workers  []Candidate // living, in any order
	Current  Generation  // Number 0: this run has none yet
	After    uint64      // the run's first generation has number After+1
	Min, Max int         // members a generation may have
}

// Decision is what the planner wants.
type Decision struct {
	// Next is the generation to write; nil: none now.
	Next *Generation
	// Why says it in words, for the event log.
	Why string
	// Again is when to ask again although nothing has changed; zero: not before something does.
	Again time.Time
}

// Next decides who forms the next generation. It is a pure function: the same view and now give the same answer.
func Next(v View, now time.Time) Decision {
	if v.Current.Number > 0 {
		return Decision{Why: fmt.Sprintf("generation %d stands", v.Current.Number)}
	}
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
	g := &Generation{Number: v.After + 1, Why: why}
	for rank, w := range workers[:min(len(workers), v.Max)] {
		g.Members = append(g.Members, Member{ID: w.ID, Incarnation: w.Incarnation, Rank: rank, Addr: w.Addr, Host: w.Host})
	}
	return g
}

// CompareIDs orders worker ids: shorter ones first, so that 10 comes after 9.
func CompareIDs(a, b string) int {
	if len(a) != len(b) {
		return len(a) - len(b)
	}
	return strings.Compare(a, b)
}
