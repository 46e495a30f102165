package coordinator

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/zerofleet/zerofleet/membership"
	"github.com/zerofleet/zerofleet/membership/store"
)

// settleTime is how long after a first failure the others' are waited for. When a worker dies its peers fail too, some
// of them sooner than its death is seen; told is who was first, not who was fastest to complain.
const settleTime = 500 * time.Millisecond

// situation is what a coordinator decides from.
type situation struct {
	store.View
	now time.Time
	// missing says since when this coordinator has seen a member without a lease. A lease that ended while the
	// coordinator itself stood still can be renewed for a whole TTL from when it looked again.
	missing map[string]time.Time
	// told is the newest generation that events tell of: more than etcd's when that was an older copy.
	told uint64
	// interrupts counts the user's Ctrl-C.
	interrupts int
}

// decision is what to do. At most one of the first seven is set.
type decision struct {
	generation  *membership.Generation // write it
	mark        *membership.Mark       // write it
	reconfigure bool                   // ask all to end the generation after the running step
	stop        string                 // ask all to checkpoint and stop; why
	outcome     *store.Outcome         // end the run so
	started     []string               // ids whose processes are to be started
	suspended   bool                   // too few workers to go on: say so, and wait
	unheard     bool                   // no worker is heard of: say so, and wait

	culprit string    // of a failure: whose log tells more
	atOnce  bool      // with outcome: the workers have no time to end in order
	why     string    // in words
	again   time.Time // ask again then, though nothing has changed; zero: not before something does
}

// decide is a pure function: all that a coordinator does follows from what is stored and what time it is.
func decide(s situation) decision {
	if d, failed := s.failure(); failed {
		return d
	}
	if s.Started() {
		if d := s.running(); d.outcome != nil || d.stop != "" {
			return d
		}
	} else if s.interrupts > 0 {
		return decision{atOnce: true, outcome: &store.Outcome{
			State: store.StateInterrupted, Step: checkpointStep(s.View), Message: "interrupted before the first step", Time: s.now,
		}}
	}
	gone, unheard := s.gone()
	if unheard {
		return decision{unheard: true, why: "no worker is heard of"}
	}
	if s.settles(gone) {
		return decision{mark: &membership.Mark{Settled: s.Generation.Number, Over: s.Mark.Over, Why: s.Mark.Why}}
	}
	plan := membership.Next(s.view(gone), s.now)
	switch {
	case plan.Next != nil:
		return decision{generation: plan.Next, why: plan.Why}
	case plan.Over:
		return decision{mark: &membership.Mark{Settled: s.Mark.Settled, Over: s.Generation.Number, Why: plan.Why}, why: plan.Why}
	case plan.Reconfigure && s.Instruction.Kind != membership.Stop:
		return decision{reconfigure: true, why: plan.Why}
	}
	if plan.Suspended && (s.interrupts > 0 || s.Instruction.Kind == membership.Stop) {
		return decision{atOnce: true, outcome: &store.Outcome{
			State: store.StateInterrupted, Step: checkpointStep(s.View), Message: "stopped while suspended", Time: s.now,
		}}
	}
	if absent := s.absent(); len(absent) > 0 && !s.Run.Paused {
		return decision{started: absent, why: "not running"}
	}
	if plan.Suspended {
		if d, failed := s.deserted(gone, plan.Why); failed {
			return d
		}
	}
	again := plan.Again
	if next := s.nextMissing(); again.IsZero() || !next.IsZero() && next.Before(again) {
		again = next
	}
	return decision{suspended: plan.Suspended, why: plan.Why, again: again}
}

// view is what the planner sees.
func (s situation) view(gone map[string]fault) membership.View {
	v := membership.View{
		Current: s.Generation, After: s.Run.After, Told: s.told, Min: s.Run.Min, Max: s.Run.Max, Mark: s.Mark, Settled: s.Settled,
		Gone: map[string]string{}, Promises: s.Promises, Replicas: s.Run.Replicas, Whole: s.Run.Whole, Restore: s.Run.Restore, Instruction: s.Instruction,
		Paused: s.Run.Paused,
	}
	if s.Manifest.Step > 0 {
		v.Restore = &membership.Restore{Store: s.Run.Store, Manifest: s.Manifest.Bytes, Step: s.Manifest.Step}
	}
	v.Draining = s.Drains
	for id, f := range gone {
		v.Gone[id] = f.words
	}
	for _, w := range s.Workers {
		st := s.States[w.ID]
		v.Workers = append(v.Workers, membership.Candidate{ID: w.ID, Incarnation: w.Incarnation, Addr: w.Addr, Host: w.Host, Gossip: w.Gossip, Registered: w.Registered,
			Ready: st.Incarnation == w.Incarnation && st.Phase == membership.Waiting})
	}
	return v
}

// gone are the members that died without a word. When nobody at all is heard of it is rather this coordinator that is cut
// off: then nobody is gone, training may go on, and nothing could be done without them.
func (s situation) gone() (gone map[string]fault, unheard bool) {
	gone = map[string]fault{}
	silent, missing := 0, 0
	for _, m := range s.Generation.Members {
		if f, ok := s.memberFault(m); ok && f.sudden {
			gone[m.ID] = f
			if f.silent {
				silent++
			}
		}
		if _, ok := s.missing[m.ID]; ok && (gone[m.ID].silent || gone[m.ID].id == "") {
			missing++
		}
	}
	if silent > 0 && missing == len(s.Generation.Members) && len(s.Workers) == 0 {
		return nil, true
	}
	return gone, false
}

// settles says whether every member of the newest generation has its share of the state in place.
func (s situation) settles(gone map[string]fault) bool {
	if !s.Started() || s.Generation.Save || s.Mark.Settled >= s.Generation.Number || s.Mark.Over >= s.Generation.Number || len(gone) > 0 {
		return false
	}
	for _, m := range s.Generation.Members {
		if share, ok := s.Shares[m.ID]; !ok || share.Incarnation != m.Incarnation || share.Generation != s.Generation.Number {
			return false
		}
	}
	return true
}

// deserted ends a run that has lost workers and will get no others: all have died, or recovery.below_min is fail. One that
// waits because it was asked to, or because the machines of all its workers went, goes on waiting.
func (s situation) deserted(gone map[string]fault, why string) (decision, bool) {
	lost := slices.Collect(maps.Values(gone))
	if s.Generation.Save { // those that died before it have no part in it
		for _, m := range s.Settled.Members {
			if f, ok := s.memberFault(m); ok && f.sudden && gone[m.ID].id == "" {
				lost = append(lost, f)
			}
		}
	}
	died := slices.ContainsFunc(lost, func(f fault) bool { _, noticed := s.Drains[f.id]; return !noticed })
	others := len(s.Workers) > 0 || s.Run.Listen != "" // that are there, or may join
	if len(lost) == 0 || s.Run.Paused || !s.Run.FailBelowMin && (!died || others) {
		return decision{}, false
	}
	for _, p := range s.Processes {
		if !p.Exited && !s.Run.FailBelowMin {
			return decision{}, false // it may register yet
		}
	}
	slices.SortFunc(lost, fault.compare)
	worst := lost[0]
	if again, early := s.settling(worst.when); early {
		return decision{again: again, why: why}, true
	}
	return decision{culprit: worst.id, why: worst.words, outcome: &store.Outcome{
		State: store.StateFailed, Step: checkpointStep(s.View), Message: worst.words, Time: s.now,
	}}, true
}

// local is how many workers a run's launcher starts.
func local(run store.Run) int {
	if run.Local != nil {
		return min(*run.Local, run.Max)
	}
	return run.Max
}

// maxEarlyEnds is how often in a row a worker's process may end before it was a member: then it is not started again.
const maxEarlyEnds = 3

// absent are the workers whose processes are to be started: at first all, and with workers.restart those that died.
func (s situation) absent() []string {
	var ids []string
	for i := range local(s.Run) {
		id := fmt.Sprint(i)
		p, launched := s.Processes[id]
		life, registered := s.Registrations[id]
		_, finished := s.finished(id, life.Incarnation)
		switch {
		case !launched && !registered: // at the start, and when the job may use more
			ids = append(ids, id)
		case launched && p.Exited && !finished && (s.Run.Restart && p.EarlyEnds < maxEarlyEnds || s.Run.Resumed.After(p.Time)):
			ids = append(ids, id)
		}
	}
	return ids
}

// running decides about a run that has a generation, of which nobody has failed.
func (s situation) running() decision {
	ended, finished, stopped := 0, 0, false
	var step uint64
	message := ""
	for _, m := range s.Generation.Members {
		// One that finished is proof that all had agreed on the end: another that died after that, or that lost its
		// peers because they had finished, takes nothing away.
		_, dead := s.memberFault(m)
		if p := s.Promises[m.ID]; dead || p.Incarnation == m.Incarnation && p.Generation == s.Generation.Number {
			ended++
		}
		if f, ok := s.finished(m.ID, m.Incarnation); ok {
			finished++
			ended++
			step = max(step, f.Step)
			if f.Outcome == membership.OutcomeStopped {
				stopped, message = true, f.Message
			}
		}
	}
	all := finished > 0 && ended == len(s.Generation.Members)
	switch {
	case all && !stopped:
		return decision{outcome: &store.Outcome{State: store.StateDone, Step: step, Time: s.now}}
	case all && s.Instruction.Kind == membership.Stop:
		return decision{outcome: &store.Outcome{State: store.StateInterrupted, Step: step, Message: s.Instruction.Why, Time: s.now}}
	case all:
		return decision{outcome: &store.Outcome{State: store.StateStopped, Step: step, Message: message, Time: s.now}}
	case s.interrupts > 1:
		return decision{atOnce: true, outcome: &store.Outcome{
			State: store.StateInterrupted, Step: checkpointStep(s.View), Message: "interrupted twice: stopped at once", Time: s.now,
		}}
	case s.interrupts == 1 && s.Instruction.Kind != membership.Stop:
		return decision{stop: "interrupted by its user"}
	}
	return decision{again: s.nextMissing()}
}

// failure is what ended the run, if anything did: a worker that says that it has failed. One that dies without a word is
// recovered from, unless it was never part of a generation.
func (s situation) failure() (decision, bool) {
	var all []fault
	failed := false
	for _, m := range s.Generation.Members {
		if f, ok := s.memberFault(m); ok {
			all = append(all, f)
			failed = failed || !f.sudden
		}
	}
	for id, p := range s.Processes {
		if p.Exited && !s.Started() && (!s.Run.Restart || p.EarlyEnds >= maxEarlyEnds) {
			failed = true
			all = append(all, fault{id: id, when: p.Time, sudden: true,
				words: fmt.Sprintf("worker %s (process %d) ended before it was part of a generation: %s", id, p.PID, p.Status)})
		}
	}
	if !failed {
		return decision{}, false
	}
	slices.SortFunc(all, fault.compare)
	first := all[0].when
	for _, f := range all {
		if f.when.Before(first) {
			first = f.when
		}
	}
	if again, early := s.settling(first); early && s.interrupts < 2 {
		return decision{again: again, why: all[0].words}, true
	}
	return decision{culprit: all[0].id, why: all[0].words, outcome: &store.Outcome{
		State: store.StateFailed, Step: checkpointStep(s.View), Message: all[0].words, Time: s.now,
	}}, true
}

// settling says that a failure is so fresh that others may be told of yet, and until when. One that lies ahead was written
// down before the clock was set back: nothing is waited for.
func (s situation) settling(first time.Time) (until time.Time, early bool) {
	until = first.Add(settleTime)
	return until, !s.now.Before(first) && s.now.Before(until)
}

// fault is one worker's failure.
type fault struct {
	id     string
	when   time.Time
	sudden bool // it could tell nobody: the others may have failed because of it
	silent bool // nothing is known but that its lease has ended
	words  string
}

// compare puts the cause first: what died without a word, then what complained first.
func (f fault) compare(g fault) int {
	if f.sudden != g.sudden {
		if f.sudden {
			return -1
		}
		return 1
	}
	if c := f.when.Compare(g.when); c != 0 {
		return c
	}
	return membership.CompareIDs(f.id, g.id)
}

func (s situation) memberFault(m membership.Member) (fault, bool) {
	who := fmt.Sprintf("worker %s (rank %d, process %d)", m.ID, m.Rank, s.Registrations[m.ID].PID)
	f, finished := s.finished(m.ID, m.Incarnation)
	p, life := s.Processes[m.ID], s.Registrations[m.ID]
	switch {
	case finished && f.Outcome == membership.OutcomeFailed:
		return fault{id: m.ID, when: f.Time, words: fmt.Sprintf("%s failed: %s", who, f.Message)}, true
	case finished:
		return fault{}, false
	case p.Exited:
		return fault{id: m.ID, when: p.Time, sudden: true, words: fmt.Sprintf("%s died: %s", who, p.Status)}, true
	case life.Incarnation == m.Incarnation && life.Removed && life.Lost != nil:
		return fault{id: m.ID, when: life.Lost.Time, sudden: true, words: fmt.Sprintf("%s is gone: %s", who, life.Lost.Why)}, true
	case life.Incarnation > m.Incarnation || life.Removed:
		return fault{id: m.ID, when: life.Registered, sudden: true, words: fmt.Sprintf("worker %s (rank %d) died", m.ID, m.Rank)}, true
	}
	if since, ok := s.missing[m.ID]; ok && s.now.Sub(since) >= leaseTTL {
		return fault{id: m.ID, when: since.Add(leaseTTL), sudden: true, silent: true,
			words: fmt.Sprintf("%s has not been heard of for %s", who, leaseTTL+s.now.Sub(since).Round(time.Second))}, true
	}
	return fault{}, false
}

func (s situation) finished(id string, incarnation uint64) (store.Finished, bool) {
	f, ok := s.Finished[id]
	return f, ok && f.Incarnation == incarnation
}

// nextMissing is when the next silent member counts as gone; zero if none is silent.
func (s situation) nextMissing() time.Time {
	var next time.Time
	for _, since := range s.missing {
		if at := since.Add(leaseTTL); next.IsZero() || at.Before(next) {
			next = at
		}
	}
	return next
}
