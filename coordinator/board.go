package coordinator

import (
	"maps"
	"os"
	"slices"
	"sync"

	"github.com/zerofleet/zerofleet/membership"
	"github.com/zerofleet/zerofleet/membership/store"
	zerofleetv1 "github.com/zerofleet/zerofleet/proto/zerofleet/v1"
)

// board is what each worker is doing at this moment. What decisions are made from is in etcd too; the step that a worker
// is at is only here, and told again by the next one.
type board struct {
	mu      sync.Mutex
	states  map[string]store.State
	waiting string // why the run is suspended; "": it is not
	stalls  map[life]*membership.Stall
	times   map[life]*stepWindow
}

// windowSteps is over how many of its newest steps a worker's times are summed.
const windowSteps = 20

// stepWindow is a worker's newest steps in one generation.
type stepWindow struct{ lines []*membership.StepLine }

func (w *stepWindow) add(l *membership.StepLine) {
	if n := len(w.lines); n > 0 {
		switch newest := w.lines[n-1]; {
		case l.GetGeneration() != newest.GetGeneration():
			w.lines = nil
		case l.GetStep() <= newest.GetStep(): // told again
			return
		}
	}
	w.lines = append(w.lines, l)
	w.lines = w.lines[max(0, len(w.lines)-windowSteps):]
}

// sum is nil of no steps.
func (w *stepWindow) sum() *zerofleetv1.StepTimes {
	if w == nil || len(w.lines) == 0 {
		return nil
	}
	t := &zerofleetv1.StepTimes{Steps: uint32(len(w.lines)), Seconds: map[string]float64{}, WaitedFor: map[string]float64{}}
	for _, l := range w.lines {
		for k, v := range l.GetSeconds() {
			t.Seconds[k] += v
		}
		for k, v := range l.GetWaitedFor() {
			t.WaitedFor[k] += v
		}
	}
	return t
}

func newBoard(known map[string]store.State) *board {
	return &board{states: maps.Clone(known), stalls: map[life]*membership.Stall{}, times: map[life]*stepWindow{}}
}

// put takes what a worker tells and says whether it is more than the step that has changed.
func (b *board) put(id string, incarnation uint64, told *zerofleetv1.WorkerState) (now store.State, changed bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	was := b.states[id]
	now = store.State{Incarnation: incarnation, Phase: told.GetPhase(), Message: told.GetMessage(), Step: told.GetStep(), MemoryBytes: told.GetMemoryBytes()}
	if len(now.MemoryBytes) == 0 && was.Incarnation == incarnation {
		now.MemoryBytes = was.MemoryBytes
	}
	b.states[id] = now
	return now, was.Incarnation != now.Incarnation || was.Phase != now.Phase || was.Message != now.Message || !maps.Equal(was.MemoryBytes, now.MemoryBytes)
}

// stalled keeps what a worker waits for in vain; nil: nothing.
func (b *board) stalled(of life, s *membership.Stall) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if s == nil {
		delete(b.stalls, of)
		return
	}
	b.stalls[of] = s
}

// stepped keeps how long a worker's step took.
func (b *board) stepped(of life, l *membership.StepLine) {
	b.mu.Lock()
	defer b.mu.Unlock()
	w := b.times[of]
	if w == nil {
		w = &stepWindow{}
		b.times[of] = w
	}
	w.add(l)
}

// waits is what a worker waits for in vain in a generation, and where the time of its newest steps went; nil: nothing.
func (b *board) waits(of life, generation uint64) (*membership.Stall, *zerofleetv1.StepTimes) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.stalls[of]
	if s != nil && s.Generation != generation {
		s = nil
	}
	return s, b.times[of].sum()
}

// suspends keeps whether the run is suspended, and why, and says whether it was.
func (b *board) suspends(now bool, why string) (was bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	was = b.waiting != ""
	if b.waiting = ""; now {
		b.waiting = why
	}
	return was
}

func (b *board) suspended() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.waiting
}

func (b *board) get(id string) store.State {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.states[id]
}

// status is what a person sees of v.
func (s *server) status(v store.View) *Status {
	step, evaluation := s.record.progress()
	lost, failing := s.record.lost(v.Run)
	out := &Status{
		Job: v.Run.Job, RunDir: v.Run.Dir, State: stateOfRun(v), Generation: v.Generation.Number,
		Losses: lost, CheckpointFailing: failing, CheckpointStep: checkpointStep(v), Newest: step, Evaluation: evaluation, CoordinatorPid: int64(os.Getpid()),
	}
	switch why := s.board.suspended(); {
	case v.Outcome != nil:
		out.Message = v.Outcome.Message
	case why != "":
		out.State, out.Message = "suspended", why
	}
	ids := map[string]bool{}
	for id := range v.Processes {
		ids[id] = true
	}
	for id := range v.Registrations {
		ids[id] = true
	}
	for _, id := range slices.SortedFunc(maps.Keys(ids), membership.CompareIDs) {
		out.Workers = append(out.Workers, s.workerStatus(v, id))
	}
	return out
}

func (s *server) workerStatus(v store.View, id string) *zerofleetv1.WorkerStatus {
	w, p, st := v.Registrations[id], v.Processes[id], s.board.get(id)
	out := &zerofleetv1.WorkerStatus{
		Id: id, Rank: -1, Incarnation: w.Incarnation, Pid: int64(w.PID), Host: w.Host, Device: w.Device, Addr: w.Addr,
		Phase: zerofleetv1.Phase_PHASE_UNSPECIFIED,
	}
	if w.PID == 0 {
		out.Pid = int64(p.PID)
	}
	if rank, ok := v.Generation.Rank(id, w.Incarnation); ok {
		out.Rank, out.Generation = int32(rank), v.Generation.Number
	}
	if st.Incarnation == w.Incarnation {
		out.Phase, out.Message, out.Step, out.MemoryBytes = st.Phase, st.Message, st.Step, st.MemoryBytes
	}
	stall, times := s.board.waits(life{id, w.Incarnation}, v.Generation.Number)
	now := s.record.now()
	// Of a generation that is over, nobody waits any more.
	if out.Times = times; stall != nil && out.Rank >= 0 && v.Mark.Over < v.Generation.Number {
		out.Stall = stall.Proto(now)
	}
	if heard := s.suspects.heardOf(life{id, w.Incarnation}); !heard.IsZero() {
		out.SilentNanos = int64(now.Sub(heard))
	}
	switch f, finished := v.Finished[id]; {
	case finished && f.Incarnation == w.Incarnation:
		out.Phase, out.Message, out.Step = membership.Done, f.Message, f.Step
		if f.Outcome == membership.OutcomeFailed {
			out.Phase = membership.Failed
		}
	case p.Exited:
		out.Phase, out.Message = membership.Failed, p.Status
	case w.Removed && w.Lost != nil:
		out.Phase, out.Message = membership.Failed, w.Lost.Why
	}
	return out
}

// stateOfRun is the run's state in one word.
func stateOfRun(v store.View) string {
	switch {
	case v.Outcome != nil:
		return v.Outcome.State
	case v.Instruction.Kind == membership.Stop:
		return "stopping"
	case v.Run.Paused:
		return "suspending"
	case !v.Started():
		return "waiting"
	}
	if v.Mark.Over >= v.Generation.Number || v.Mark.Settled < v.Generation.Number && v.Mark.Settled > 0 {
		return "recovering"
	}
	state := "training"
	for _, m := range v.Generation.Members {
		switch v.States[m.ID].Phase {
		case membership.Loading, zerofleetv1.Phase_PHASE_UNSPECIFIED:
			return "loading"
		case membership.Evaluating:
			state = "evaluating"
		case membership.Checkpointing:
			state = "checkpointing"
		}
	}
	return state
}

// checkpointStep is the step that the run could be resumed from now; 0: none.
func checkpointStep(v store.View) uint64 {
	switch {
	case v.Manifest.Stored > 0:
		return v.Manifest.Stored
	case v.Run.Restore != nil && !v.Run.Restore.WeightsOnly:
		return v.Run.Restore.Step
	}
	return 0
}
