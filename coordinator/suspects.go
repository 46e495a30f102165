package coordinator

import (
	"context"
	"crypto/tls"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/zerofleet/zerofleet/membership"
	"github.com/zerofleet/zerofleet/membership/probe"
	"github.com/zerofleet/zerofleet/membership/store"
)

const (
	// ownProbe bounds each of the coordinator's two probes of a suspect. It may be patient: it is asked last.
	ownProbe = time.Second
	// accusationLife is how long an accusation counts. Accusers repeat theirs for as long as they find the same.
	accusationLife = 10 * time.Second
	// heardSlack is how much later than the first failed probe a call must have come to be proof of life: one that was on
	// its way when the process stopped may be taken late.
	heardSlack = time.Second
)

// accusation is what a member found that looked after another.
type accusation struct {
	by    life
	found probe.Result
	since time.Time // the first probe of it
	at    time.Time // when it was made
}

// inquiry is what is known of one suspect.
type inquiry struct {
	world     int          // members of the generation, the suspect among them
	accusers  []accusation // one of each other member that has made one lately, in order of ids
	own       probe.Result // what the coordinator has found
	heard     time.Time    // the suspect's last call to this coordinator; zero: none
	launched  bool         // this machine's launcher watches its process
	accusedOf string       // set by judge: the evidence, in a word
}

// judge says whether the suspect is to be removed, and why or why not. It is a pure function.
//
// One accuser is never enough, whatever it says: the coordinator has looked too.
//   - Nothing listens at the suspect's address, for an accuser and for the coordinator: its process is gone.
//   - It answers neither two accusers nor the coordinator (in a world of two, where there is only one to accuse it, neither
//     that one nor the coordinator), and has not called the coordinator since the first of the probes.
//   - It lives, but more than half of the others, and at least two, cannot reach its machine: they cannot work with it.
func (q *inquiry) judge() (removed bool, why string) {
	if len(q.accusers) == 0 {
		return false, "nobody accuses it"
	}
	first := q.accusers[0].since
	for _, a := range q.accusers {
		if a.since.Before(first) {
			first = a.since
		}
	}
	lives := ""
	switch {
	case q.own.Finding == probe.Answered:
		lives = "it answers the coordinator"
	case q.heard.After(first.Add(heardSlack)):
		lives = "it has called the coordinator since"
	}
	others := q.world - 1
	if lives != "" {
		cut := 0
		for _, a := range q.accusers {
			if a.found.Finding == probe.Unreachable {
				cut++
			}
		}
		if cut < 2 || 2*cut <= others {
			return false, lives
		}
		q.accusedOf = probe.Unreachable.String()
		return true, fmt.Sprintf("%d of the %d others cannot reach its machine, though %s", cut, others, lives)
	}
	q.accusedOf = q.own.Finding.String()
	need := min(2, others)
	switch {
	case q.own.Finding == probe.Unclear:
		return false, "the coordinator's own probe tells nothing: " + q.own.Detail
	case q.own.Finding == probe.Refused && q.launched:
		return false, "the launcher watches its process, and will see it end"
	case q.own.Finding == probe.Refused:
		return true, fmt.Sprintf("nothing is left at its address, as %s and the coordinator found: %s", q.names(), q.own.Detail)
	case len(q.accusers) < need:
		return false, fmt.Sprintf("%d of %d accusers that are needed", len(q.accusers), need)
	}
	return true, fmt.Sprintf("%s and the coordinator had no answer to two probes each: %s", q.names(), q.own.Detail)
}

// names are the accusers and what each found.
func (q *inquiry) names() string {
	words := make([]string, len(q.accusers))
	for i, a := range q.accusers {
		words[i] = fmt.Sprintf("worker %s (%s)", a.by.id, a.found.Finding)
	}
	return strings.Join(words, ", ")
}

// suspects hears accusations. It is not kept in etcd: accusers repeat theirs, so another coordinator hears of them too.
type suspects struct {
	config *tls.Config // dials a worker
	looks  singleflight.Group

	mu          sync.Mutex
	heard       map[life]time.Time
	accusations map[life]map[life]accusation // by suspect and accuser
}

func newSuspects(config *tls.Config) *suspects {
	return &suspects{config: config, heard: map[life]time.Time{}, accusations: map[life]map[life]accusation{}}
}

// hears notes that a worker has called.
func (s *suspects) hears(l life, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.heard[l] = now
}

// heardOf is when a worker has called last; zero: it has not called this coordinator.
func (s *suspects) heardOf(l life) time.Time {
	if s == nil { // of a folder without a coordinator
		return time.Time{}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.heard[l]
}

// accuse notes an accusation, and says whether it is new.
func (s *suspects) accuse(of life, a accusation) (fresh bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	by := s.accusations[of]
	if by == nil {
		by = map[life]accusation{}
		s.accusations[of] = by
	}
	was, known := by[a.by]
	by[a.by] = a
	return !known || was.found.Finding != a.found.Finding
}

// look probes a suspect, twice unless the first says all. Who asks while it is being looked after gets the same answer.
func (s *suspects) look(ctx context.Context, of life, addr string) probe.Result {
	r, _, _ := s.looks.Do(fmt.Sprintf("%s#%d", of.id, of.incarnation), func() (any, error) {
		ctx := context.WithoutCancel(ctx) // others may wait for it
		at := probe.Target{Addr: addr, ID: of.id, Incarnation: of.incarnation}
		r := probe.Ping(ctx, at, s.config, nil, ownProbe)
		if r.Finding == probe.Silent || r.Finding == probe.Unreachable {
			r = probe.Ping(ctx, at, s.config, nil, ownProbe)
		}
		return r, nil
	})
	return r.(probe.Result)
}

// inquire gathers what is known of a suspect at this moment.
func (s *suspects) inquire(v store.View, of life, own probe.Result, now time.Time) inquiry {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := v.Processes[of.id]
	q := inquiry{world: len(v.Generation.Members), own: own, heard: s.heard[of],
		launched: p.PID != 0 && p.PID == v.Registrations[of.id].PID && !p.Exited}
	for by, a := range s.accusations[of] {
		w := v.Registrations[by.id]
		if _, member := v.Generation.Rank(by.id, by.incarnation); member && by != of && w.Incarnation == by.incarnation && !w.Removed &&
			now.Sub(a.at) < accusationLife {
			q.accusers = append(q.accusers, a)
		}
	}
	slices.SortFunc(q.accusers, func(a, b accusation) int { return membership.CompareIDs(a.by.id, b.by.id) })
	return q
}

// removal is a suspect that has been found guilty; the reconciler removes it.
type removal struct {
	of     life
	fields map[string]string // of the event
	why    string
	done   chan error
}

// hear is an accusation's way through all of it.
func (s *server) hear(ctx context.Context, generation uint64, of life, a accusation) (removed bool, why string, err error) {
	v, err := s.store.View(ctx)
	if err != nil {
		return false, "", err
	}
	if why := spared(v, generation, of, a.by); why != "" {
		return false, why, nil
	}
	w := v.Registrations[of.id]
	if w.Removed || w.Incarnation != of.incarnation {
		return true, "it is gone", nil
	}
	if s.suspects.accuse(of, a) {
		s.record.event("suspected", fmt.Sprintf("worker %s suspects worker %s: %s", a.by.id, of.id, a.found.Finding), a.found.Detail, map[string]string{
			"worker": of.id, "incarnation": fmt.Sprint(of.incarnation), "accuser": a.by.id, "evidence": a.found.Finding.String()})
	}
	own := s.suspects.look(ctx, of, w.Addr)
	if v, err = s.store.View(ctx); err != nil {
		return false, "", err
	}
	if why := spared(v, generation, of, a.by); why != "" {
		return false, why, nil
	}
	q := s.suspects.inquire(v, of, own, time.Now())
	removed, why = q.judge()
	s.log.Info("suspect", "worker", of.id, "accuser", a.by.id, "evidence", a.found.Finding, "own", own.Finding, "removed", removed, "why", why)
	if !removed {
		return false, why, nil
	}
	accusers := make([]string, len(q.accusers))
	for i, a := range q.accusers {
		accusers[i] = a.by.id
	}
	r := removal{of: of, why: why, done: make(chan error, 1), fields: map[string]string{
		"worker": of.id, "incarnation": fmt.Sprint(of.incarnation), "evidence": q.accusedOf, "accusers": strings.Join(accusers, " "),
		"coordinator": own.Finding.String()}}
	select {
	case s.removals <- r:
	case <-ctx.Done():
		return false, "", ctx.Err()
	}
	select {
	case err := <-r.done:
		return err == nil, why, err
	case <-ctx.Done():
		return false, "", ctx.Err()
	}
}

// spared says why a suspect is not looked after; "" when it is.
func spared(v store.View, generation uint64, of, by life) string {
	_, suspect := v.Generation.Rank(of.id, of.incarnation)
	_, accuser := v.Generation.Rank(by.id, by.incarnation)
	f, finished := v.Finished[of.id]
	switch {
	case generation != v.Generation.Number || !suspect || !accuser || of == by:
		return fmt.Sprintf("they are not members of generation %d", v.Generation.Number)
	case finished && f.Incarnation == of.incarnation:
		return "it has finished"
	case v.Outcome != nil:
		return "the run has ended"
	}
	return ""
}

// remove takes a suspect out of the run, for good: it is fenced, and may come back only as a new incarnation.
func (r *reconciler) remove(ctx context.Context, m removal) error {
	v, err := r.leader.View(ctx)
	if err != nil {
		return err
	}
	w := v.Registrations[m.of.id]
	if w.Incarnation != m.of.incarnation || w.Removed || r.ending != nil {
		return nil
	}
	r.record.event("worker_removed", fmt.Sprintf("worker %s (process %d on %s) is removed: %s", w.ID, w.PID, w.Host, m.fields["evidence"]), m.why, m.fields)
	w.Lost = &store.Lost{Time: time.Now(), Why: m.why}
	return r.leader.Remove(ctx, w)
}
