package coordinator

import (
	"fmt"
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
	// interrupts counts the user's Ctrl-C.
	interrupts int
}

// decision is what to do. At most one of the first four is set.
type decision struct {
	generation *membership.Generation // write it
	stop       string                 // ask all to checkpoint and stop; why
	outcome    *store.Outcome         // end the run so
	started    []string               // ids whose processes are to be started

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
		return s.running()
	}
	if s.interrupts > 0 {
		return decision{atOnce: true, outcome: &store.Outcome{
			State: store.StateInterrupted, Step: checkpointStep(s.View), Message: "interrupted before the first step", Time: s.now,
		}}
	}
	var view membership.View
	for _, w := range s.Workers {
		view.Workers = append(view.Workers, membership.Candidate{ID: w.ID, Incarnation: w.Incarnation, Addr: w.Addr, Host: w.Host, Registered: w.Registered})
	}
	view.Current, view.After, view.Min, view.Max = s.Generation, s.Run.After, s.Run.Min, s.Run.Max
	plan := membership.Next(view, s.now)
	if plan.Next != nil {
		plan.Next.Restore = s.Run.Restore
		return decision{generation: plan.Next, why: plan.Why}
	}
	if absent := s.absent(); len(absent) > 0 {
		return decision{started: absent, why: "not running"}
	}
	return decision{why: plan.Why, again: plan.Again}
}

// absent are the workers whose processes have not been started.
func (s situation) absent() []string {
	var ids []string
	for i := range s.Run.Max {
		id := fmt.Sprint(i)
		_, launched := s.Processes[id]
		_, registered := s.Registrations[id]
		if !launched && !registered {
			ids = append(ids, id)
		}
	}
	return ids
}

// running decides about a run that has a generation, of which nobody has failed.
func (s situation) running() decision {
	finished, stopped := 0, false
	var step uint64
	message := ""
	for _, m := range s.Generation.Members {
		if f, ok := s.finished(m.ID, m.Incarnation); ok {
			finished++
			step = max(step, f.Step)
			if f.Outcome == membership.OutcomeStopped {
				stopped, message = true, f.Message
			}
		}
	}
	switch {
	case finished == len(s.Generation.Members) && !stopped:
		return decision{outcome: &store.Outcome{State: store.StateDone, Step: step, Time: s.now}}
	case finished == len(s.Generation.Members) && s.Instruction.Kind == membership.Stop:
		return decision{outcome: &store.Outcome{State: store.StateInterrupted, Step: step, Message: s.Instruction.Why, Time: s.now}}
	case finished == len(s.Generation.Members):
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

// failure is what ended the run, if anything did: recovery without a restart is not built yet, so any worker's does.
func (s situation) failure() (decision, bool) {
	var all []fault
	if s.Started() {
		for _, m := range s.Generation.Members {
			if f, ok := s.memberFault(m); ok {
				all = append(all, f)
			}
		}
	} else {
		for id, p := range s.Processes {
			if p.Exited {
				all = append(all, fault{id: id, when: p.Time, sudden: true,
					words: fmt.Sprintf("worker %s (process %d) ended before it was part of a generation: %s", id, p.PID, p.Status)})
			}
		}
	}
	if len(all) == 0 {
		return decision{}, false
	}
	slices.SortFunc(all, fault.compare)
	first := all[0].when
	for _, f := range all {
		if f.when.Before(first) {
			first = f.when
		}
	}
	settled := first.Add(settleTime)
	if s.now.Before(settled) && s.interrupts < 2 {
		return decision{again: settled, why: all[0].words}, true
	}
	return decision{culprit: all[0].id, why: all[0].words, outcome: &store.Outcome{
		State: store.StateFailed, Step: checkpointStep(s.View), Message: all[0].words, Time: s.now,
	}}, true
}

// fault is one worker's failure.
type fault struct {
	id     string
	when   time.Time
	sudden bool // it could tell nobody: the others may have failed because of it
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
	p := s.Processes[m.ID]
	switch {
	case finished && f.Outcome == membership.OutcomeFailed:
		return fault{m.ID, f.Time, false, fmt.Sprintf("%s failed: %s", who, f.Message)}, true
	case finished:
		return fault{}, false
	case p.Exited:
		return fault{m.ID, p.Time, true, fmt.Sprintf("%s died: %s", who, p.Status)}, true
	}
	if since, ok := s.missing[m.ID]; ok && s.now.Sub(since) >= leaseTTL {
		return fault{m.ID, since.Add(leaseTTL), true, fmt.Sprintf("%s has not been heard of for %s", who, leaseTTL+s.now.Sub(since).Round(time.Second))}, true
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
