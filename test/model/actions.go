package model

import (
	"fmt"
	"math"

	"github.com/zerofleet/zerofleet/shard"
)

// successors are all states that can follow s. wrong says what is wrong with s itself.
func (m *machine) successors(s state) (all []next, wrong string) {
	if wrong := m.wrong(&s); wrong != "" {
		return nil, wrong
	}
	to := func(v verb, i int, change func(t *state, w *worker)) {
		n := next{act: action{verb: v, who: uint8(i)}, to: s}
		change(&n.to, &n.to.workers[i])
		all = append(all, n)
	}
	fail := func(v verb, i int, wrong string) {
		all = append(all, next{act: action{verb: v, who: uint8(i)}, wrong: wrong})
	}
	for i := range m.Workers + m.Joiners {
		w := &s.workers[i]
		switch w.life {
		case absent:
			if i >= m.Workers && (!m.Rejoin || s.workers[i-m.Workers].life == gone) {
				to(come, i, func(_ *state, w *worker) { *w = worker{life: alive} })
			}
			continue
		case dead:
			to(notice, i, func(_ *state, w *worker) { w.life = gone })
			continue
		case gone, left:
			continue
		}
		if int(s.crashes) < m.Crashes {
			to(crash, i, func(t *state, w *worker) { w.life = dead; t.crashes++ })
		}
		m.leave(&s, i, to)
		switch w.phase {
		case running:
			m.run(&s, i, to)
		case waiting, promised:
			m.enter(&s, i, to, fail)
		case taking:
			if m.plans[s.cur].Save {
				m.save(&s, i, to)
			} else {
				m.take(&s, i, to, fail)
			}
		case shared:
			if settled := m.plans[s.settled]; settled.number() >= w.gen || m.RunEarly {
				to(learn, i, func(_ *state, w *worker) { w.held, w.built, w.phase, w.has = w.built, kept{}, running, 0 })
			}
		}
	}
	if m.Shrink > 0 && !s.shrunk {
		to(shrink, 0, func(t *state, _ *worker) { t.shrunk = true })
	}
	if m.Pause && !s.paused && !s.resumed {
		to(pause, 0, func(t *state, _ *worker) { t.paused = true })
	}
	if s.paused {
		to(resume, 0, func(t *state, _ *worker) { t.paused, t.resumed = false, true })
	}
	d := m.decide(&s)
	if d.wrong != "" {
		return nil, d.wrong
	}
	if wrong := m.safe(&s, d); wrong != "" {
		return nil, wrong
	}
	if d.acts {
		n := next{act: action{verb: d.act, plan: d.plan}, to: s}
		m.act(&n.to, d)
		all = append(all, n)
	}
	if len(all) == 0 {
		return nil, m.final(&s, d)
	}
	return all, ""
}

// act is what the coordinator does.
func (m *machine) act(t *state, d decision) {
	switch d.act {
	case markSettled:
		for _, i := range m.plans[t.settled].member {
			if w := &t.workers[i]; w.life == alive && m.plans[t.cur].rank(int(i)) < 0 {
				w.life = left
			}
		}
		t.settled = t.cur
	case markOver:
		t.over = m.plans[t.cur].number()
	case ask:
		t.asked++
	case write:
		g := m.plans[d.plan]
		m.counts.Restored = m.counts.Restored || g.Handover == nil && m.lost(t)
		for _, i := range m.plans[t.cur].member {
			w := &t.workers[i]
			holds := w.life == alive && g.Handover != nil && m.plans[t.settled].rank(int(i)) >= 0
			if g.rank(int(i)) < 0 && w.life != gone && !holds {
				w.life = left
			}
		}
		for i := range t.workers { // nobody can learn any more from those that are dead what they had
			if w := &t.workers[i]; w.life != alive {
				*w = worker{life: w.life}
			}
		}
		if g.Release {
			t.freed = g.base
		}
		t.cur = d.plan
	}
}

// safe says what is lost by a decision that need not be: a generation that goes back, though no rank of the settled one and its
// buddy are both dead, or a job that waits with a step that no checkpoint has and nobody holds.
func (m *machine) safe(s *state, d decision) string {
	newest := m.newest(s)
	if s.saved >= newest || m.lost(s) {
		return ""
	}
	switch {
	case d.suspended:
		return fmt.Sprintf("suspended, and step %d is in no checkpoint: the newest is of step %d", newest, s.saved)
	case d.acts && d.act == write && m.plans[d.plan].Handover == nil:
		return fmt.Sprintf("back to step %d from %d, though no rank of generation %d and its buddy are both lost", s.saved, newest, m.plans[s.settled].Number)
	}
	return ""
}

// newest is the newest committed step that a living worker knows: one that only the dead had committed is made again.
func (m *machine) newest(s *state) (n int8) {
	for i := range s.workers {
		if w := &s.workers[i]; w.life == alive && w.held.gen == m.plans[s.settled].number() {
			n = max(n, w.held.step)
		}
	}
	return n
}

// wrong says what is wrong with a state, whatever led to it.
func (m *machine) wrong(s *state) string {
	settled := m.plans[s.settled].number()
	low, high := int8(math.MaxInt8), int8(0)
	for i := range s.workers {
		w := &s.workers[i]
		if w.held.gen == settled {
			low, high = min(low, w.held.step), max(high, w.held.step)
		}
		if w.life != alive {
			continue
		}
		if (w.phase == running || w.phase == leaving) && w.gen > settled && !m.plans[s.cur].Save {
			return fmt.Sprintf("worker %s runs in generation %d, which is not settled", m.id(i), w.gen)
		}
		if w.held.gen == 0 && w.built.gen == 0 && s.saved < s.freed && m.plans[s.settled].rank(i) >= 0 {
			return fmt.Sprintf("worker %s has freed its state, and the checkpoint of step %d is not there", m.id(i), s.freed)
		}
		if w.held.gen == settled && m.replicates(len(m.plans[s.settled].member)) && w.held.rep != w.held.step {
			return fmt.Sprintf("worker %s has its shard at step %d and its ward's at %d", m.id(i), w.held.step, w.held.rep)
		}
	}
	if int(high) > int(low)+1 {
		return fmt.Sprintf("one worker is at step %d, another at %d", high, low)
	}
	return ""
}

// final says what is wrong with a state that nothing can follow: all workers must run in a settled generation that has
// made its steps, or be too few.
func (m *machine) final(s *state, d decision) string {
	if d.suspended {
		return ""
	}
	g := m.plans[s.cur]
	if s.settled != s.cur || len(g.member) > m.most(s) {
		return fmt.Sprintf("nothing more can happen, and generation %d is not settled", g.Number)
	}
	for _, i := range g.member {
		if w := &s.workers[i]; w.life != alive || w.phase != running || w.held.gen != g.number() || int(w.held.step) != int(g.base)+m.Steps {
			return fmt.Sprintf("nothing more can happen, and worker %s of generation %d has not made its steps", m.id(int(i)), g.Number)
		}
	}
	return ""
}

// leave are the ways to end what a worker does in its generation: with its promise.
func (m *machine) leave(s *state, i int, to func(verb, int, func(*state, *worker))) {
	w := &s.workers[i]
	if w.gen == 0 && w.phase == waiting {
		if m.plans[s.cur].rank(i) < 0 {
			return
		}
	}
	g := m.plans[s.cur]
	broken := s.over >= g.number()
	for _, j := range g.member {
		p := &s.workers[j]
		broken = broken || p.life != alive || p.phase == promised && p.gen == g.number()
	}
	leave := func(_ *state, w *worker) {
		if w.phase == taking {
			w.has = 0
		}
		if g.Release && w.phase == leaving || m.ReleaseEarly && g.Release {
			w.held = kept{}
		}
		w.phase, w.gen = promised, g.number()
	}
	switch {
	case w.phase == waiting || w.phase == promised && w.gen < g.number():
		if broken && g.rank(i) >= 0 {
			to(refuse, i, leave)
		}
	case w.phase == promised:
	case w.phase == leaving, broken && w.phase != shared, s.over >= w.gen:
		to(promise, i, leave)
	case w.phase != shared && int(s.stalls) < m.Stalls:
		to(giveUp, i, func(t *state, w *worker) { leave(t, w); t.stalls++ })
	}
}

// run are the parts of a step.
func (m *machine) run(s *state, i int, to func(verb, int, func(*state, *worker))) {
	w := &s.workers[i]
	g := m.plans[s.cur]
	r := int(w.held.rank)
	pending := uint64(s.asked) > g.Handled
	peer := func(rank int) *worker { return &s.workers[g.member[rank]] }
	if w.has&grad == 0 {
		if int(w.held.step) < int(g.base)+m.Steps || pending {
			to(reduce, i, func(_ *state, w *worker) { w.has |= grad })
		}
		return
	}
	world := len(g.member)
	receipt := true
	if m.replicates(world) {
		b := peer(shard.Buddy(r, world))
		in := b.held.gen == g.number()
		if in && b.life == alive && b.phase == running && b.held.step == w.held.step && b.has&ward == 0 {
			at := int(g.member[shard.Buddy(r, world)])
			to(ship, i, func(t *state, _ *worker) { t.workers[at].has |= ward })
		}
		receipt = m.NoReceipt || in && (b.held.step > w.held.step || b.held.step == w.held.step && b.has&ward != 0)
		receipt = receipt && (m.NoWard || w.has&ward != 0)
	}
	if receipt && w.has&sent == 0 {
		if int(w.held.step) < int(g.base)+m.Steps { // a worker sees an instruction sooner or later
			to(send, i, func(_ *state, w *worker) { w.has |= sent })
		}
		if pending {
			to(sendAsking, i, func(_ *state, w *worker) { w.has |= sent | asked })
		}
	}
	all, ends := w.has&sent != 0, false
	for rank := range world {
		p := peer(rank)
		switch {
		case p.held.gen != g.number() || p.held.step < w.held.step:
			all = false
		case p.held.step == w.held.step:
			all = all && p.has&sent != 0
			ends = ends || p.has&asked != 0
		default: // it is one step ahead
			ends = ends || p.has&agreed != 0
		}
	}
	if all || m.Early && w.has&(sent|grad) == grad {
		to(commit, i, func(_ *state, w *worker) {
			w.held.step++
			if m.replicates(world) && (w.has&ward != 0 || m.Early) {
				w.held.rep++
			}
			if w.has = 0; ends && all {
				w.has, w.phase = agreed, leaving
			}
		})
	}
}

// enter is a worker's first part in a new generation: it keeps the one state that the generation is built from, and
// brings that to the newest committed step.
func (m *machine) enter(s *state, i int, to func(verb, int, func(*state, *worker)), fail func(verb, int, string)) {
	g := m.plans[s.cur]
	w := s.workers[i]
	if g.rank(i) < 0 || w.gen >= g.number() {
		return
	}
	h := g.Handover
	if w.built.gen != 0 && h != nil && h.Settled == uint64(w.built.gen) {
		w.held, w.has = w.built, 0
	}
	w.built = kept{}
	if h != nil && h.Settled == uint64(w.held.gen) {
		switch step := int64(w.held.step); {
		case step == h.Step:
		case step != h.Step-1 || len(h.Records) == 0:
			fail(enter, i, fmt.Sprintf("worker %s is at step %d and is to complete step %d, with %d records", m.id(i), step, h.Step, len(h.Records)))
			return
		case w.has&grad == 0 || m.replicates(len(m.plans[s.settled].member)) && w.has&ward == 0:
			fail(enter, i, fmt.Sprintf("worker %s is to complete step %d, and its gradient or its ward's is not whole", m.id(i), h.Step))
			return
		default:
			w.held.step++
			w.held.rep++
		}
	}
	w.has, w.phase, w.gen = 0, taking, g.number()
	to(enter, i, func(_ *state, x *worker) { *x = w })
}

// take are the parts of a take-over.
func (m *machine) take(s *state, i int, to func(verb, int, func(*state, *worker)), fail func(verb, int, string)) {
	g := m.plans[s.cur]
	w := &s.workers[i]
	r, world := g.rank(i), len(g.member)
	want := own
	if m.replicates(world) {
		want |= replica
	}
	if g.Handover == nil && w.has&own == 0 {
		to(restore, i, func(_ *state, w *worker) { w.has |= want })
		return
	}
	receive := func(v verb, bit uint8, of int) {
		if want&bit == 0 || w.has&bit != 0 {
			return
		}
		switch there, wrong := m.sources(s, r, of); {
		case wrong != "":
			fail(v, i, wrong)
		case there:
			to(v, i, func(_ *state, w *worker) { w.has |= bit })
		}
	}
	if g.Handover != nil {
		receive(takeOwn, own, r)
		receive(takeReplica, replica, shard.Ward(r, world))
	}
	for _, j := range g.member { // the comparison of all digests
		if p := &s.workers[j]; p.gen != g.number() || p.has&want != want || p.phase != taking && p.phase != shared {
			return
		}
	}
	to(share, i, func(_ *state, w *worker) {
		w.phase = shared
		w.built = kept{gen: g.number(), rank: uint8(r), step: g.base, rep: g.base}
		if m.FreeEarly {
			w.held = kept{}
		}
	})
}

// save are the parts of a generation that only writes its state down: what each holds, the checkpoint, and that all hear of it.
func (m *machine) save(s *state, i int, to func(verb, int, func(*state, *worker))) {
	g := m.plans[s.cur]
	if s.workers[i].has&own == 0 {
		to(writePart, i, func(_ *state, w *worker) { w.has |= own })
		return
	}
	committed := false
	for _, j := range g.member {
		p := &s.workers[j]
		if committed = committed || p.gen == g.number() && (p.has&agreed != 0 || p.phase == leaving); p.gen == g.number() && p.has&own == 0 || p.gen != g.number() {
			return
		}
	}
	if g.Handover.Holders[0].Rank == g.rank(i) {
		m.counts.Saved = true
		to(commitSaved, i, func(t *state, w *worker) { t.saved, w.phase, w.has = int8(g.Handover.Step), leaving, agreed|own })
	} else if committed {
		to(learn, i, func(_ *state, w *worker) { w.phase, w.has = leaving, agreed|own })
	}
}

// sources says whether everything of new rank of's shard can come to rank to now.
func (m *machine) sources(s *state, to, of int) (there bool, wrong string) {
	g := m.plans[s.cur]
	h := g.Handover
	settled := m.plans[s.settled]
	var from []int // indexes of holders
	if m.Whole {
		from = []int{0}
		for k, x := range h.Holders {
			if x.Rank == to {
				from[0] = k
			}
		}
	} else {
		mask := m.parts[[2]int{h.World, len(g.member)}][of]
		for old := range h.World {
			if mask>>old&1 != 0 {
				from = append(from, old)
			}
		}
	}
	for _, old := range from {
		x := h.Holders[old]
		p := &s.workers[g.member[x.Rank]]
		if p.life != alive || p.gen != g.number() || p.phase != taking && p.phase != shared {
			return false, ""
		}
		k := p.held
		if uint64(k.gen) != h.Settled || !m.Whole && !has(k, old, x.Replica, len(settled.member)) {
			return false, fmt.Sprintf("rank %d is asked for shard %d of generation %d and does not have it", x.Rank, old, h.Settled)
		}
		if step := k.step; int64(step) != h.Step || x.Replica && int64(k.rep) != h.Step {
			return false, fmt.Sprintf("rank %d gives shard %d at step %d, replicas at %d, want %d", x.Rank, old, step, k.rep, h.Step)
		}
	}
	return true, ""
}
