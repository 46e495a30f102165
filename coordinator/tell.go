package coordinator

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/zerofleet/zerofleet/membership"
	"github.com/zerofleet/zerofleet/membership/store"
)

// tells writes the events of workers that have joined, of generations and of marks. They follow from what is stored, not from the act of storing it: what a
// coordinator that was killed in between has not told, the next one tells.
func (r *reconciler) tells(v store.View) {
	for _, id := range slices.SortedFunc(maps.Keys(v.Registrations), membership.CompareIDs) {
		if w := v.Registrations[id]; !r.record.hasJoined(life{id, w.Incarnation}) {
			r.record.event("worker_joined", fmt.Sprintf("worker %s joined: %s, process %d on %s", w.ID, w.Device, w.PID, w.Host), "",
				map[string]string{"worker": w.ID, "incarnation": fmt.Sprint(w.Incarnation), "addr": w.Addr})
		}
	}
	generation, over, settled := r.record.told()
	g := v.Generation
	if g.Number > generation {
		r.tellGeneration(v, g)
	}
	if v.Mark.Over > over {
		number := fmt.Sprint(v.Mark.Over)
		fields := map[string]string{"generation": number}
		if was := v; g.Number == v.Mark.Over {
			was.Mark.Over = 0
			if waits := heldUp(r.server.status(was)); len(waits) > 0 {
				fields["stalled"] = waits[0].String()
			}
		}
		r.record.event("generation_over", fmt.Sprintf("generation %s is over", number), v.Mark.Why, fields)
	}
	if v.Mark.Settled > settled {
		r.tellSettled(v)
	}
}

func (r *reconciler) tellGeneration(v store.View, g membership.Generation) {
	ids := make([]string, len(g.Members))
	for rank, m := range g.Members {
		ids[rank] = m.ID
	}
	step, from := int64(0), "the base model"
	switch {
	case g.Handover != nil:
		step, from = g.Handover.Step, fmt.Sprintf("the state of step %d that is in their memory", g.Handover.Step)
	case g.Restore != nil:
		from = fmt.Sprintf("the checkpoint of step %d", g.Restore.Step)
		if step = int64(g.Restore.Step); g.Restore.WeightsOnly {
			step = 0
		}
	}
	what := fmt.Sprintf("generation %d: %d workers, starting from %s", g.Number, len(g.Members), from)
	if g.Save {
		what = fmt.Sprintf("generation %d: %d workers, which write %s to a checkpoint", g.Number, len(g.Members), from)
	}
	fields := map[string]string{
		"generation": fmt.Sprint(g.Number), "workers": strings.Join(ids, " "), "step": fmt.Sprint(step),
		"redone": fmt.Sprint(redone(v.Promises, g.Number, step, int64(r.record.newestStep()))),
	}
	if g.Number > v.Run.After+1 {
		fields["previous"] = fmt.Sprint(g.Number - 1)
	}
	r.record.event("generation", what, g.Why, fields)
}

// redone is how many steps a generation that starts after step makes again: those that have been told of, and the one that
// was open and that somebody had computed a part of.
func redone(promises map[string]membership.Promise, generation uint64, step, told int64) int64 {
	n := max(0, told-step)
	for _, p := range promises {
		if p.Generation == generation-1 && p.OpenLeaves > 0 && len(p.Held) > 0 && p.Held[0].Step >= told && p.Held[0].Step >= step {
			return n + 1
		}
	}
	return n
}

func (r *reconciler) tellSettled(v store.View) {
	number := v.Mark.Settled
	fields := map[string]string{"generation": fmt.Sprint(number)}
	var received, restored uint64
	for _, share := range v.Shares {
		if share.Generation == number {
			received += share.ReceivedBytes
			restored += share.RestoredBytes
		}
	}
	fields["received_bytes"], fields["restored_bytes"] = fmt.Sprint(received), fmt.Sprint(restored)
	what := fmt.Sprintf("generation %d is settled", number)
	if since := r.record.lostSince(); !since.IsZero() {
		s := r.record.now().Sub(since).Seconds()
		fields["seconds"] = fmt.Sprintf("%.3f", s)
		what += fmt.Sprintf(", %.1f s after the loss was seen", s)
	}
	r.record.event("settled", what, "every shard and replica is in place", fields)
}
