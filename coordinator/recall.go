package coordinator

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/zerofleet/zerofleet/checkpoint"
	"github.com/zerofleet/zerofleet/membership"
	"github.com/zerofleet/zerofleet/membership/store"
	zerofleetv1 "github.com/zerofleet/zerofleet/proto/zerofleet/v1"
)

// A coordinator that takes a run up again decides nothing before it has heard what the run's workers know: its etcd may be an
// older copy, restored from a backup, in which the newest generation, mark, checkpoint or life of a worker is not the newest.
// What workers and the run's events know and etcd lacks is written into it first.

// recallLook is how often processes that have ended are looked for meanwhile.
const recallLook = 200 * time.Millisecond

// teller is a worker's word.
type teller struct {
	worker store.Worker // as it has registered; its lease is another one's
	known  membership.Known
}

// testimony is what the run's events tell of.
type testimony struct {
	generation               uint64 // the newest
	checkpoint, checkpointIn uint64 // step and generation of the newest; 0: none
	lives                    map[string]uint64
}

// recall gathers what workers tell until it is closed. The calls of workers wait for that.
type recall struct {
	news chan struct{} // holds one token when something was told
	done chan struct{} // closed when the coordinator knows all that it will

	mu     sync.Mutex
	told   map[string]teller // by id: of the newest life
	asking map[string]bool   // ids that ask to be registered: nobody has them
}

func newRecall() *recall {
	return &recall{news: make(chan struct{}, 1), done: make(chan struct{}), told: map[string]teller{}, asking: map[string]bool{}}
}

// over says that there is nothing to wait for.
func (r *recall) over() bool {
	select {
	case <-r.done:
		return true
	default:
		return false
	}
}

// hear takes a worker's word, and waits until all are heard.
func (r *recall) hear(ctx context.Context, id *zerofleetv1.Identity, k *zerofleetv1.Known) error {
	if !r.over() {
		r.note(func() {
			if was, ok := r.told[id.GetId()]; !ok || was.worker.Incarnation <= id.GetIncarnation() {
				r.told[id.GetId()] = teller{worker: workerOf(id, k.GetRegistration()), known: membership.KnownFromProto(k)}
			}
		})
	}
	select {
	case <-r.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// asks takes that a process asks to be registered: it is no life yet, and knows nothing.
func (r *recall) asks(id string) { r.note(func() { r.asking[id] = true }) }

func (r *recall) note(what func()) {
	r.mu.Lock()
	what()
	r.mu.Unlock()
	select {
	case r.news <- struct{}{}:
	default:
	}
}

// heard is what has been told so far, in the order of ids, and who knows nothing.
func (r *recall) heard() (told []teller, asking map[string]bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, id := range slices.SortedFunc(maps.Keys(r.told), membership.CompareIDs) {
		told = append(told, r.told[id])
	}
	return told, maps.Clone(r.asking)
}

func workerOf(id *zerofleetv1.Identity, r *zerofleetv1.RegisterRequest) store.Worker {
	return store.Worker{ID: id.GetId(), Incarnation: id.GetIncarnation(), Addr: r.GetAddr(), Host: r.GetHost(), Device: r.GetDevice(),
		PID: int(r.GetPid()), Threads: int(r.GetThreads()), Nonce: r.GetNonce(), Gossip: r.GetGossipAddr()}
}

// newest is the newest generation that etcd or anybody who was heard knows. Two that have one number are an error: nobody
// could say which of them the job goes on from.
func newest(v store.View, told []teller) (g membership.Generation, known map[uint64]membership.Generation, err error) {
	g, known = v.Generation, map[uint64]membership.Generation{}
	from := map[uint64]string{}
	take := func(of membership.Generation, who string) {
		switch was, ok := known[of.Number]; {
		case of.Number <= v.Run.After: // of an earlier run, or none
		case !ok:
			known[of.Number], from[of.Number] = of, who
		case !was.Equal(of) && err == nil:
			err = fmt.Errorf("generation %d: %s and %s know two different ones: the run cannot go on from either; stop its workers, and resume it from its newest checkpoint",
				of.Number, from[of.Number], who)
		}
	}
	take(v.Generation, "etcd")
	take(v.Settled, "etcd")
	for _, t := range told {
		for _, of := range []membership.Generation{t.known.Generation, t.known.Settled} {
			if take(of, "worker "+t.worker.ID); of.Number > max(g.Number, v.Run.After) {
				g = of
			}
		}
	}
	return g, known, err
}

// lacking is what etcd lacks of what has been told. It is a pure function, but for local: that says which process of this
// machine a worker is, if it is one that the launcher has started. Lives that are written begin to count at now.
func lacking(v store.View, told []teller, events testimony, local func(store.Worker) (store.Process, bool), now time.Time) (store.Lacking, error) {
	k := store.Lacking{Incarnations: map[string]uint64{}}
	lives := func(id string, n uint64) {
		if n > max(v.Incarnations[id], k.Incarnations[id]) {
			k.Incarnations[id] = n
		}
	}
	for id, n := range events.lives {
		lives(id, n)
	}
	g, known, err := newest(v, told)
	if err != nil {
		return store.Lacking{}, err
	}
	if g.Number > v.Generation.Number {
		k.Generation = g
	}
	mark, instruction := v.Mark, v.Instruction
	heard := map[string]uint64{}
	for _, t := range told {
		w := t.worker
		heard[w.ID] = w.Incarnation
		lives(w.ID, w.Incarnation)
		if n := t.known.Generation.Number; n > 0 && n <= v.Run.After {
			continue // of an earlier run
		}
		if w.Incarnation > v.Incarnations[w.ID] {
			w.Registered = now
			k.Heard = append(k.Heard, w)
		}
		if p, ok := local(w); ok && w.Incarnation >= v.Incarnations[w.ID] && (v.Processes[w.ID].PID != p.PID || v.Processes[w.ID].Exited) {
			p.Started = now
			k.Processes = append(k.Processes, p)
		}
		mark.Settled = max(mark.Settled, t.known.Mark.Settled)
		if t.known.Mark.Over > mark.Over {
			mark.Over, mark.Why = t.known.Mark.Over, t.known.Mark.Why
		}
		if t.known.Instruction.Sequence > instruction.Sequence {
			instruction = t.known.Instruction
		}
		if v.Fingerprint.Value == "" && t.known.Fingerprint != "" {
			k.Fingerprint = store.Fingerprint{Value: t.known.Fingerprint, Worker: t.known.FingerprintOf}
		}
	}
	if mark != v.Mark {
		k.Mark = mark
	}
	if instruction != v.Instruction {
		k.Instruction = instruction
	}
	if mark.Settled > 0 && v.Settled.Number != mark.Settled {
		k.Settled = known[mark.Settled]
	}
	for _, m := range g.Members {
		lives(m.ID, m.Incarnation)
		if m.Incarnation > max(v.Incarnations[m.ID], heard[m.ID]) {
			k.Unheard = append(k.Unheard, store.Worker{ID: m.ID, Incarnation: m.Incarnation, Addr: m.Addr, Host: m.Host, Gossip: m.Gossip, Registered: now})
		}
	}
	return k, nil
}

// committed is the step and generation of the newest checkpoint of this run that anybody tells of and etcd does not know;
// 0 if there is none.
func committed(v store.View, told []teller, events testimony) (step, generation uint64) {
	step = v.Manifest.Step
	see := func(s, g uint64) {
		if s > step && g > v.Run.After {
			step, generation = s, g
		}
	}
	see(events.checkpoint, events.checkpointIn)
	for _, t := range told {
		see(t.known.Committed, t.known.CommittedIn)
	}
	if generation == 0 {
		return 0, 0
	}
	return step, generation
}

// awaited are the workers that may be alive and have not been heard. ended says whether a process has ended.
func awaited(v store.View, told []teller, asking map[string]bool, events testimony, ended func(store.Process) bool) []string {
	may := map[string]uint64{} // the newest life of each id that may be alive
	see := func(id string, n uint64) {
		if was, ok := may[id]; !ok || n > was {
			may[id] = n
		}
	}
	for id, n := range events.lives {
		if n > v.Incarnations[id] { // others may be an earlier run's
			see(id, n)
		}
	}
	for id, w := range v.Registrations {
		see(id, w.Incarnation)
	}
	for id := range v.Processes {
		see(id, 0)
	}
	g, _, _ := newest(v, told)
	for _, m := range g.Members {
		see(m.ID, m.Incarnation)
	}
	for _, t := range told {
		delete(may, t.worker.ID)
	}
	for id, n := range may {
		w, p, f := v.Registrations[id], v.Processes[id], v.Finished[id]
		known := w.Incarnation >= n // etcd knows of no less than others do
		switch {
		case asking[id],
			known && w.Removed,
			known && n > 0 && f.Incarnation == n,
			known && p.PID != 0 && (n == 0 || w.PID == p.PID) && ended(p):
			delete(may, id)
		}
	}
	return slices.SortedFunc(maps.Keys(may), membership.CompareIDs)
}

// behind says that the events tell of a generation that etcd does not know.
func (t testimony) behind(v store.View) bool {
	return t.generation > max(v.Generation.Number, v.Run.After)
}

// count raises what is counted, where a run begins anew, to what the run folder's events tell of.
func (r *run) count(ctx context.Context, events testimony, rec *record) error {
	if run := r.view.Run; events.generation > run.After {
		run.After = events.generation
		if err := r.leader.PutRun(ctx, run); err != nil {
			return err
		}
		r.view.Run = run
	}
	return r.complete(ctx, nil, testimony{lives: events.lives}, rec)
}

// recall asks the workers of a run that is taken up again what they know, and completes etcd by it. It waits for all that may
// be alive, and no longer than a lease lasts once one was heard; while etcd is seen to be behind and nobody is heard, for as
// long as a process lives. stop says that the user does not want to wait.
func (r *run) recall(ctx context.Context, s *server, events testimony, rec *record, interrupts <-chan os.Signal) (stop bool, err error) {
	behind := events.behind(r.view)
	if behind {
		rec.event("etcd_behind", fmt.Sprintf("etcd's newest generation is %d, and this run has had %d: its workers are asked", r.view.Generation.Number, events.generation),
			"an older copy of etcd was put in its place", nil)
	}
	ended := func(p store.Process) bool {
		running, err := runs(p.PID, p.Start)
		return err == nil && !running
	}
	long, look := time.NewTimer(leaseTTL), time.NewTicker(recallLook)
	defer long.Stop()
	defer look.Stop()
	late := false
	for {
		told, asking := s.recall.heard()
		g, _, err := newest(r.view, told)
		if err != nil {
			return false, err
		}
		silent := awaited(r.view, told, asking, events, ended)
		if len(silent) == 0 && max(g.Number, r.view.Run.After) >= events.generation || late && (len(told) > 0 || !behind) {
			r.log.Info("workers were asked what they know", "told", len(told), "silent", strings.Join(silent, " "))
			return false, r.complete(ctx, told, events, rec)
		}
		if late && r.view.Run.Listen == "" {
			n, err := living(r.view)
			if err == nil && n == 0 {
				err = allEnded(r.view.Run)
			}
			if err != nil {
				return false, err
			}
		}
		select {
		case <-s.recall.news:
		case <-look.C:
		case <-long.C:
			late = true
		case <-interrupts:
			return true, r.complete(ctx, told, events, rec)
		case <-ctx.Done():
			return false, nil // the reconciler ends what is left
		}
	}
}

// complete writes what etcd lacks.
func (r *run) complete(ctx context.Context, told []teller, events testimony, rec *record) error {
	v := r.view
	k, err := lacking(v, told, events, localProcess(v), time.Now())
	if err != nil {
		return err
	}
	if step, generation := committed(v, told, events); step > 0 {
		if k.Manifest, err = r.findCommitted(ctx, step, generation); err != nil {
			return err
		}
	}
	if k.Empty() {
		return nil
	}
	err = r.leader.Complete(ctx, v.Generation.Number, k, leaseTTL)
	if errors.Is(err, store.ErrNotLeader) { // this process stood still meanwhile
		if r.leader, err = r.leader.Lead(ctx, leaderName(), true); err == nil {
			err = r.leader.Complete(ctx, v.Generation.Number, k, leaseTTL)
		}
	}
	if err != nil {
		return err
	}
	if r.view, err = r.leader.View(ctx); err != nil {
		return err
	}
	// A process that a coordinator started and did not live to write down, or numbers that are not to be used again, tell of
	// no older copy.
	if k.Processes, k.Incarnations = nil, nil; k.Empty() {
		return nil
	}
	ids := make([]string, len(told))
	for i, t := range told {
		ids[i] = t.worker.ID
	}
	is := r.view
	rec.event("etcd_completed", fmt.Sprintf("etcd was behind: generation %d, settled %d, checkpoint of step %d; now %d, %d, and step %d",
		v.Generation.Number, v.Mark.Settled, v.Manifest.Step, is.Generation.Number, is.Mark.Settled, is.Manifest.Step),
		"an older copy of it was put in its place, and the run's workers and events know more", map[string]string{
			"was": fmt.Sprint(v.Generation.Number), "generation": fmt.Sprint(is.Generation.Number), "settled": fmt.Sprint(is.Mark.Settled),
			"checkpoint_step": fmt.Sprint(is.Manifest.Step), "workers": strings.Join(ids, " "), "lives": fmt.Sprint(len(k.Heard) + len(k.Unheard)),
		})
	return nil
}

// findCommitted finds in the checkpoint store a committed manifest of this run that etcd has forgotten: that of step, or, if
// it is damaged or gone, the newest before it. Its Step is 0 if there is none newer than etcd's.
func (r *run) findCommitted(ctx context.Context, step, generation uint64) (store.Manifest, error) {
	list, err := checkpoint.List(ctx, r.checkpoints)
	if err != nil {
		return store.Manifest{}, fmt.Errorf("find the committed checkpoint of step %d, which etcd has forgotten: %w", step, err)
	}
	for _, e := range slices.Backward(list) {
		m := e.Manifest
		if e.Err != nil || !e.Committed || m.Job != r.view.Run.Job || uint64(m.Step) > step || m.Generation > generation ||
			m.Generation <= r.view.Run.After || uint64(m.Step) <= r.view.Manifest.Step {
			continue
		}
		b, err := m.Marshal()
		if err != nil {
			return store.Manifest{}, fmt.Errorf("encode manifest of step %d: %w", m.Step, err)
		}
		return store.Manifest{Step: uint64(m.Step), Generation: m.Generation, Bytes: b, Stored: uint64(m.Step)}, nil
	}
	return store.Manifest{}, nil
}

// localProcess finds the process of a worker that this machine's launcher has started.
func localProcess(v store.View) func(store.Worker) (store.Process, bool) {
	host, unnamed := os.Hostname()
	return func(w store.Worker) (store.Process, bool) {
		_, launched := v.Processes[w.ID]
		for i := range local(v.Run) {
			launched = launched || w.ID == fmt.Sprint(i)
		}
		ticks, alive, err := startTicks(w.PID)
		if unnamed != nil || w.Host != host || !launched || err != nil || !alive {
			return store.Process{}, false
		}
		return store.Process{ID: w.ID, PID: w.PID, Start: ticks}, true
	}
}

// retold keeps what a worker has told before and etcd does not have, and fences one whose generation is another's.
func (s *server) retold(ctx context.Context, id *zerofleetv1.Identity, k *zerofleetv1.Known) error {
	v, err := s.store.View(ctx)
	if err != nil {
		return err
	}
	w := v.Registrations[id.GetId()]
	g := membership.GenerationFromProto(k.GetGeneration())
	if g.Number > v.Generation.Number || g.Number == v.Generation.Number && g.Number > 0 && !g.Equal(v.Generation) {
		if err := s.store.Remove(ctx, w); err != nil {
			return err
		}
		return fmt.Errorf("%w: worker %s knows another generation %d than etcd, of which an older copy was put in its place, and the job has gone on without it",
			store.ErrNotRegistered, w.ID, g.Number)
	}
	if p := k.GetPromise(); p != nil && (v.Promises[w.ID].Incarnation != w.Incarnation || v.Promises[w.ID].Generation < p.GetGeneration()) {
		if _, err := s.Promise(ctx, p); err != nil {
			return err
		}
	}
	if x := k.GetShare(); x != nil && (v.Shares[w.ID].Incarnation != w.Incarnation || v.Shares[w.ID].Generation < x.GetGeneration()) {
		if _, err := s.Settle(ctx, x); err != nil {
			return err
		}
	}
	if d := k.GetDrain(); d != nil && v.Drains[w.ID].Incarnation != w.Incarnation {
		if _, err := s.Drain(ctx, d); err != nil {
			return err
		}
	}
	return nil
}
