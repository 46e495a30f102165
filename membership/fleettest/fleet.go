// Package fleettest plays the workers and the coordinator of a job against the planner, without processes: thousands
// of workers, who die, come back and promise, and generations that are settled or fail before they are.
package fleettest

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/zerofleet/zerofleet/membership"
	"github.com/zerofleet/zerofleet/shard"
)

// Checkpoint is the step of the checkpoint that a fleet goes back to when it has lost state.
const Checkpoint = 1

// Fleet is a job whose workers do what they are told. It keeps its own account of who has what, which is not the planner's:
// each plan is held against it.
type Fleet struct {
	// Plan is asked for every decision; New sets membership.Next.
	Plan func(membership.View, time.Time) membership.Decision
	View membership.View

	now   time.Time
	lives map[string]uint64 // incarnations, by id
	step  int64             // newest that a living worker has committed

	held    map[string]membership.Held // what each living worker has of the settled generation, by id
	keepers [][2]string                // of the settled generation's shard r: who has it, and who has its replica; "" when it is gone
}

// New is a fleet of workers 0 to n-1, in a settled first generation that keeps replicas. A job whose workers die goes on
// with those that are left, down to one.
func New(n int) (*Fleet, error) {
	f := &Fleet{Plan: membership.Next, now: time.Unix(0, 0).UTC(), lives: map[string]uint64{}, step: Checkpoint,
		held: map[string]membership.Held{}}
	f.View = membership.View{Max: n, Min: 1, Replicas: 1, Gone: map[string]string{}, Promises: map[string]membership.Promise{},
		Restore: &membership.Restore{Step: Checkpoint}}
	for id := range n {
		f.Join(fmt.Sprint(id))
	}
	d := f.ask()
	if d.Next == nil {
		return nil, fmt.Errorf("start %d workers: %s", n, d.Why)
	}
	f.View.Current = *d.Next
	return f, f.Settle()
}

func (f *Fleet) ask() membership.Decision { return f.Plan(f.View, f.now) }

// Join has a worker come, or come back as a new incarnation without state: loaded and ready.
func (f *Fleet) Join(id string) {
	f.lives[id]++
	f.View.Workers = append(f.View.Workers, membership.Candidate{ID: id, Incarnation: f.lives[id], Registered: f.now, Ready: true})
}

// Kill has workers die, which the coordinator sees.
func (f *Fleet) Kill(ids ...string) {
	for _, id := range ids {
		delete(f.held, id)
		delete(f.View.Promises, id)
		for r := range f.keepers {
			for i := range f.keepers[r] {
				if f.keepers[r][i] == id {
					f.keepers[r][i] = ""
				}
			}
		}
		if _, member := f.View.Current.Rank(id, f.lives[id]); member {
			f.View.Gone[id] = "worker " + id + " died"
		}
	}
	f.View.Workers = slices.DeleteFunc(f.View.Workers, func(w membership.Candidate) bool { return slices.Contains(ids, w.ID) })
}

// Train has the settled generation commit steps. The last of them only some have committed when the next failure comes.
func (f *Fleet) Train(steps int64, has func(id string) bool) {
	if steps == 0 || f.View.Mark.Settled != f.View.Current.Number {
		return
	}
	last := f.step + steps
	records := make([][]byte, len(f.View.Settled.Members)) // the same for all, and never read
	for id, h := range f.held {
		step := last
		if !has(id) {
			step--
		}
		h.Records, h.Cursor.Sample = records, 10*step
		h.Step, h.OptimizerStep = step, step
		f.held[id] = h
		f.step = max(f.step, step)
	}
}

// Lost says which shard of the settled generation nobody has any more, neither its owner nor its buddy; "" for none.
func (f *Fleet) Lost() string {
	for r, k := range f.keepers {
		if k == [2]string{} {
			return fmt.Sprintf("shard %d of %d of generation %d", r, len(f.keepers), f.View.Mark.Settled)
		}
	}
	return ""
}

// Recover has the planner end the generation, its living members promise, and the planner write the next one, which is
// checked: every shard has a holder that really has it, unless a rank and its buddy have both died. It is nil, without an
// error, when the generation stands.
func (f *Fleet) Recover() (*membership.Generation, error) {
	v := &f.View
	switch d := f.ask(); {
	case d.Over:
		v.Mark.Over, v.Mark.Why = v.Current.Number, d.Why
	case d.Reconfigure:
		v.Instruction = membership.Instruction{Sequence: v.Instruction.Sequence + 1, Kind: membership.Reconfigure, Why: d.Why}
	case len(v.Gone) == 0:
		return nil, nil
	case v.Mark.Over != v.Current.Number:
		return nil, fmt.Errorf("%d members of generation %d are dead, and it is not over: %s", len(v.Gone), v.Current.Number, d.Why)
	}
	for _, m := range v.Current.Members {
		if _, dead := v.Gone[m.ID]; dead || f.lives[m.ID] != m.Incarnation {
			continue
		}
		p := membership.Promise{Incarnation: m.Incarnation, Generation: v.Current.Number}
		if h, ok := f.held[m.ID]; ok {
			p.Held = []membership.Held{h}
		}
		v.Promises[m.ID] = p
	}
	d := f.ask()
	if d.Next == nil {
		return nil, fmt.Errorf("no generation follows %d: %s", v.Current.Number, d.Why)
	}
	if err := f.check(d.Next); err != nil {
		return nil, fmt.Errorf("generation %d: %w", d.Next.Number, err)
	}
	v.Current, v.Gone = *d.Next, map[string]string{}
	return d.Next, nil
}

// check holds a plan against what the fleet knows.
func (f *Fleet) check(g *membership.Generation) error {
	living := map[string]uint64{}
	for _, w := range f.View.Workers {
		living[w.ID] = w.Incarnation
	}
	if len(g.Members) == 0 || len(g.Members) > f.View.Max {
		return fmt.Errorf("%d members, want 1 to %d", len(g.Members), f.View.Max)
	}
	for rank, m := range g.Members {
		if m.Rank != rank || living[m.ID] != m.Incarnation {
			return fmt.Errorf("member %+v at rank %d: it is dead, named twice, or has another rank", m, rank)
		}
		delete(living, m.ID)
	}
	lost := f.Lost()
	if g.Handover == nil {
		switch {
		case lost == "":
			return fmt.Errorf("goes back to a checkpoint, though every shard is there: %s", g.Why)
		case g.Restore == nil || !strings.Contains(g.Why, "back to"):
			return fmt.Errorf("%s is lost, and it goes back to %+v without a reason: %q", lost, g.Restore, g.Why)
		}
		return nil
	}
	h := g.Handover
	if lost != "" {
		return fmt.Errorf("takes over state, though %s is lost", lost)
	}
	if h.Settled != f.View.Mark.Settled || h.World != len(f.keepers) || len(h.Holders) != len(f.keepers) {
		return fmt.Errorf("%d holders of %d shards of generation %d, want %d of generation %d", len(h.Holders), h.World, h.Settled,
			len(f.keepers), f.View.Mark.Settled)
	}
	for r, x := range h.Holders {
		want := f.keepers[r][0]
		if x.Replica {
			want = f.keepers[r][1]
		}
		if x.Rank < 0 || x.Rank >= len(g.Members) || want == "" || g.Members[x.Rank].ID != want {
			return fmt.Errorf("shard %d is to come from rank %d (replica %v), which does not have it: its owner and buddy are %q", r, x.Rank, x.Replica, f.keepers[r])
		}
	}
	newest := int64(-1)
	for _, held := range f.held {
		newest = max(newest, held.Step)
	}
	if h.Step != newest || h.OptimizerStep != newest {
		return fmt.Errorf("goes on from step %d, want %d, the newest that a survivor has committed", h.Step, newest)
	}
	return nil
}

// Settle has every member's share put in place, and the mark say so. The planner must be content then.
func (f *Fleet) Settle() error {
	v := &f.View
	g := v.Current
	f.step = Checkpoint
	if g.Handover != nil {
		f.step = g.Handover.Step
	}
	world := len(g.Members)
	f.keepers = make([][2]string, world)
	clear(f.held)
	for r, m := range g.Members {
		f.keepers[r] = [2]string{m.ID, ""}
		if buddy := shard.Buddy(r, world); buddy != r {
			f.keepers[r][1] = g.Members[buddy].ID
		}
		f.held[m.ID] = membership.Held{Generation: g.Number, Rank: r, Step: f.step, OptimizerStep: f.step}
	}
	v.Mark.Settled, v.Settled = g.Number, g
	if d := f.ask(); d.Next != nil || d.Over || d.Suspended {
		return fmt.Errorf("generation %d is settled, and the planner wants %+v", g.Number, d)
	}
	return nil
}
