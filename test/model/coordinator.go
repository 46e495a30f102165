package model

import (
	"fmt"
	"slices"
	"time"

	"github.com/zerofleet/zerofleet/membership"
	"github.com/zerofleet/zerofleet/shard"
)

// decision is what the coordinator does in a state, or what is wrong with that.
type decision struct {
	act       verb // absent: nothing
	acts      bool
	plan      uint16
	suspended bool
	wrong     string
}

// decide is the coordinator's decision. It is a function of what is stored, and asked once for each such view.
func (m *machine) decide(s *state) decision {
	view := m.seen(s)
	if d, ok := m.decisions[view]; ok {
		return d
	}
	d := m.settles(&view)
	if !d.acts {
		d = m.plan(&view)
	}
	m.decisions[view] = d
	return d
}

// seen is what the coordinator sees of a state: without what nobody has told it.
func (m *machine) seen(s *state) state {
	v := *s
	v.crashes, v.stalls, v.freed = 0, 0, 0
	for i := range v.workers {
		w := &v.workers[i]
		if w.life == dead {
			w.life = alive
		}
		switch {
		case w.life == absent || w.life == left:
			*w = worker{life: w.life}
		case w.phase == promised:
			if m.Plan == nil { // gradients are in no report
				w.has = 0
			}
		case w.phase == shared && w.life == alive:
			*w = worker{life: w.life, phase: w.phase, gen: w.gen}
		default:
			ph := running
			if w.gen == 0 {
				ph = waiting
			}
			*w = worker{life: w.life, phase: ph, gen: w.gen}
		}
	}
	return v
}

// settles says whether every member's share of the newest generation is in place, and nothing has ended it.
func (m *machine) settles(s *state) decision {
	g := m.plans[s.cur]
	if g.Save || s.settled == s.cur || s.over >= g.number() {
		return decision{}
	}
	for _, i := range g.member {
		if w := &s.workers[i]; w.life != alive || w.phase != shared || w.gen != g.number() {
			return decision{}
		}
	}
	return decision{act: markSettled, acts: true}
}

// view is what the planner sees.
func (m *machine) view(s *state) membership.View {
	g := m.plans[s.cur]
	v := membership.View{
		Current: g.Generation, Min: m.Min, Max: m.most(s), Mark: membership.Mark{Settled: m.plans[s.settled].Number, Over: uint64(s.over)},
		Settled: m.plans[s.settled].Generation, Gone: map[string]string{}, Promises: map[string]membership.Promise{},
		Replicas: m.replicas(), Whole: m.Whole,
	}
	v.Paused = s.paused
	if s.saved > 0 {
		v.Restore = &membership.Restore{Step: uint64(s.saved)}
	}
	if s.asked > 0 {
		v.Instruction = membership.Instruction{Sequence: uint64(s.asked), Kind: membership.Reconfigure}
	}
	for i := range m.Workers + m.Joiners {
		w := &s.workers[i]
		if w.life == gone && g.rank(i) >= 0 {
			v.Gone[m.id(i)] = "it died"
		}
		if w.life == alive {
			v.Workers = append(v.Workers, membership.Candidate{ID: m.id(i), Incarnation: m.incarnation(i), Ready: w.phase == waiting})
		}
		if w.phase == promised {
			p := membership.Promise{Incarnation: m.incarnation(i), Generation: uint64(w.gen)}
			for _, k := range []kept{w.held, w.built} {
				if k.gen != 0 {
					p.Held = append(p.Held, m.report(s, k))
				}
			}
			v.Promises[m.id(i)] = p
		}
	}
	return v
}

// report is what a worker says of what it keeps. It has the records of a step only if it has made one.
func (m *machine) report(s *state, k kept) membership.Held {
	h := membership.Held{Generation: uint64(k.gen), Rank: int(k.rank), Step: int64(k.step), OptimizerStep: int64(k.step),
		Cursor: membership.Cursor{Sample: int64(k.step)}}
	if g := m.plans[s.settled]; g.number() == k.gen && k.step > g.base {
		h.Records = [][]byte{{byte(k.step)}}
	}
	return h
}

// most is how many workers the job may use.
func (m *machine) most(s *state) int {
	most := m.Workers
	if m.Grow {
		most += m.Joiners
	}
	if s.shrunk {
		most -= m.Shrink
	}
	return most
}

// plan asks the planner, and judges its answer.
func (m *machine) plan(s *state) decision {
	v := m.view(s)
	var d membership.Decision
	if m.Plan == nil {
		d = membership.Next(v, time.Time{})
	} else {
		d = m.Plan(v, m.ready(s))
	}
	switch {
	case d.Next != nil:
		if wrong := m.judge(s, &v, d.Next); wrong != "" {
			return decision{wrong: "the planner: " + wrong}
		}
		return decision{act: write, acts: true, plan: m.intern(*d.Next)}
	case d.Over:
		if v.Mark.Over >= v.Current.Number {
			return decision{wrong: "the planner says again that a generation is over"}
		}
		return decision{act: markOver, acts: true}
	case d.Reconfigure:
		return decision{act: ask, acts: true}
	case d.Suspended:
		if n := m.usable(s); n >= m.Min && !s.paused {
			return decision{wrong: fmt.Sprintf("suspended, though %d workers could go on and the job needs %d", n, m.Min)}
		}
		m.counts.Suspended = true
		return decision{suspended: true}
	}
	return decision{}
}

// usable is how many workers could be members.
func (m *machine) usable(s *state) (n int) {
	for i := range s.workers {
		if w := &s.workers[i]; w.life == alive && (w.phase == waiting || w.phase == promised && w.gen == m.plans[s.cur].number()) {
			n++
		}
	}
	return n
}

// judge says what is wrong with a generation that the planner wants: it must have the members that it can have, and they
// the state that is left.
func (m *machine) judge(s *state, v *membership.View, g *membership.Generation) string {
	cur := m.plans[s.cur]
	if g.Number != cur.Number+1 {
		return fmt.Sprintf("generation %d follows %d", g.Number, cur.Number)
	}
	for _, i := range cur.member {
		if w := &s.workers[i]; w.life == alive && (w.phase != promised || w.gen != cur.number()) {
			return fmt.Sprintf("a generation after %d without the promise of worker %s", cur.Number, m.id(int(i)))
		}
	}
	if !g.Save && (s.paused || len(g.Members) < m.Min || len(g.Members) < min(v.Max, m.usable(s))) {
		return fmt.Sprintf("%d members of %d possible", len(g.Members), m.usable(s))
	}
	members := make([]*worker, len(g.Members))
	for r, x := range g.Members {
		i := slices.IndexFunc(v.Workers, func(c membership.Candidate) bool { return c.ID == x.ID && c.Incarnation == x.Incarnation })
		if i < 0 || x.Rank != r {
			return fmt.Sprintf("rank %d is worker %s, rank %d, which is not there", r, x.ID, x.Rank)
		}
		for i := range s.workers {
			if m.id(i) == x.ID && m.incarnation(i) == x.Incarnation {
				if slices.Contains(members, &s.workers[i]) {
					return "worker " + x.ID + " is two ranks"
				}
				members[r] = &s.workers[i]
			}
		}
	}
	if g.Handover == nil {
		return ""
	}
	if g.Save && (g.Handover.Step <= int64(s.saved) || g.Release != s.paused) {
		return fmt.Sprintf("step %d is to be saved, freed %v, and the checkpoint of step %d is there", g.Handover.Step, g.Release, s.saved)
	}
	return m.judgeHandover(s, g.Handover, members)
}

// lost says whether some rank of the settled generation and its buddy are both dead.
func (m *machine) lost(s *state) bool {
	g := m.plans[s.settled]
	lost, all := false, true
	for r, i := range g.member {
		here := s.workers[i].life == alive
		all = all && !here
		buddy := g.member[r]
		if m.replicates(len(g.member)) {
			buddy = g.member[shard.Buddy(r, len(g.member))]
		}
		lost = lost || !here && s.workers[buddy].life != alive
	}
	if m.Whole {
		return all
	}
	return lost
}

// judgeHandover says what is wrong with where the planner thinks that the state is.
func (m *machine) judgeHandover(s *state, h *membership.Handover, members []*worker) string {
	g := m.plans[s.settled]
	if h.Settled != g.Number {
		return fmt.Sprintf("a handover of generation %d, and %d is the settled one", h.Settled, g.Number)
	}
	if h.OptimizerStep != h.Step || h.Cursor.Sample != h.Step {
		return fmt.Sprintf("a handover of step %d with optimizer step %d and cursor %d", h.Step, h.OptimizerStep, h.Cursor.Sample)
	}
	if world := len(g.member); !m.Whole && (h.World != world || len(h.Holders) != world) || m.Whole && (h.World != 1 || len(h.Holders) == 0) {
		return fmt.Sprintf("a handover of %d shards in a world of %d, which was %d", len(h.Holders), h.World, world)
	}
	for old, x := range h.Holders {
		if x.Rank < 0 || x.Rank >= len(members) {
			return fmt.Sprintf("the holder of shard %d is rank %d", old, x.Rank)
		}
		k, ok := members[x.Rank].of(g.number())
		if !ok || !m.Whole && !has(k, old, x.Replica, len(g.member)) {
			return fmt.Sprintf("rank %d is said to hold shard %d and does not", x.Rank, old)
		}
		if have := int64(k.step); have > h.Step || have < h.Step-1 || have < h.Step && len(h.Records) == 0 {
			return fmt.Sprintf("the handover is of step %d with %d records, and rank %d is at step %d", h.Step, len(h.Records), x.Rank, have)
		}
	}
	for _, i := range g.member {
		if k, ok := s.workers[i].of(g.number()); ok && s.workers[i].life == alive && int64(k.step) > h.Step {
			return fmt.Sprintf("the handover is of step %d, and worker %s has committed step %d", h.Step, m.id(int(i)), k.step)
		}
	}
	return ""
}

// of is what a worker keeps of a generation.
func (w *worker) of(gen uint8) (kept, bool) {
	switch gen {
	case w.held.gen:
		return w.held, true
	case w.built.gen:
		return w.built, true
	}
	return kept{}, false
}

// has says whether k has the shard of a rank, as its owner or as its replica.
func has(k kept, old int, replica bool, world int) bool {
	if replica {
		return world > 1 && shard.Ward(int(k.rank), world) == old
	}
	return int(k.rank) == old
}

// ready says whether each shard's gradient of the open step is whole where a plan would take the shard from.
func (m *machine) ready(s *state) bool {
	g := m.plans[s.settled]
	holds := func(i uint8, bit uint8) bool {
		w := &s.workers[i]
		return w.life == alive && w.held.gen == g.number() && w.has&bit != 0
	}
	for r, i := range g.member {
		if s.workers[i].life == alive && !holds(i, grad) {
			return false
		}
		if s.workers[i].life != alive && !holds(g.member[shard.Buddy(r, len(g.member))], ward) {
			return false
		}
	}
	return true
}
