package coordinator

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"syscall"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"github.com/zerofleet/zerofleet/job"
	"github.com/zerofleet/zerofleet/membership"
	"github.com/zerofleet/zerofleet/membership/store"
)

const (
	// finishGrace is how long a worker that has finished may take to end.
	finishGrace = 10 * time.Second
	// termGrace is how long a worker of a failed run has between SIGTERM and SIGKILL.
	termGrace = 3 * time.Second
	// guestGrace is how long workers of other machines may take to hear that the run ends.
	guestGrace = 3 * time.Second
	// logLines is how much of a dead worker's log is shown.
	logLines = 12
)

const (
	// look is how often a reconciler looks at everything again although nothing has told it of a change.
	look = 5 * time.Second
	// patience is how long etcd may be in trouble before the reconciler gives up, and retryAfter how often it tries.
	patience   = 30 * time.Second
	retryAfter = 200 * time.Millisecond
)

// reconciler turns decisions into acts until the run has an outcome. Its state is etcd's, except for what only this
// process can know: which of the user's interrupts it has seen, and since when it misses whom.
type reconciler struct {
	leader  *store.Leader
	launch  *launcher
	server  *server
	record  *record
	folder  *runFolder
	log     *slog.Logger
	tracer  trace.Tracer
	publish func(*Status)

	interrupts int
	missing    map[string]time.Time
	exits      []exit // of processes, not in etcd yet
	pinned     bool   // job.resolved.yaml has the fingerprint
	ending     *ending
	unheard    bool // no worker is heard of, and that is told
}

// ending is an outcome that has been decided and is written when the last process has gone.
type ending struct {
	outcome store.Outcome
	detail  string        // of a failure: the end of a log
	guests  time.Time     // until when workers that nobody here launched are waited for
	signals []timedSignal // still to be sent, in order
}

type timedSignal struct {
	at     time.Time
	signal syscall.Signal
	idle   bool // only to those that have not finished
}

// run works until the run has an outcome and no worker process is left. ctx's end is like the user's second Ctrl-C: the
// workers are stopped first.
func (r *reconciler) run(ctx context.Context, interrupts <-chan os.Signal) (*ending, error) {
	cancelled := ctx.Done()
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	changes := r.leader.Changes(ctx)
	var troubled time.Time // since when etcd has been in trouble; zero: it is not
	for {
		again, err := r.once(ctx)
		switch {
		case err == nil:
			troubled = time.Time{}
		case errors.Is(err, errEnded):
			return r.ending, nil
		case errors.Is(err, store.ErrNotLeader):
			again, err = time.Now(), r.leadAgain(ctx)
		case errors.Is(err, store.ErrConflict):
			again, err = time.Now(), nil
		}
		if err != nil {
			if troubled.IsZero() {
				troubled = time.Now()
			}
			if time.Since(troubled) > patience {
				return nil, err
			}
			r.log.Warn("trying again", "error", err)
			again = time.Now().Add(retryAfter)
		}
		wait := look
		if !again.IsZero() {
			wait = min(wait, time.Until(again))
		}
		timer := time.NewTimer(wait)
		select {
		case _, ok := <-changes:
			if !ok {
				changes = r.leader.Changes(ctx)
			}
		case e := <-r.launch.exits:
			r.exits = append(r.exits, e)
		case <-interrupts:
			r.interrupt()
		case a := <-r.server.asks:
			a.done <- r.carry(ctx, a)
		case m := <-r.server.removals:
			m.done <- r.remove(ctx, m)
		case <-cancelled:
			cancelled, r.interrupts = nil, 2
		case <-r.leader.Lost(): // the next write finds out
		case <-timer.C:
		}
		timer.Stop()
	}
}

// errEnded says that the outcome is written.
var errEnded = errors.New("the run has ended")

// once looks, decides and acts, and says when to look again at the latest.
func (r *reconciler) once(ctx context.Context) (again time.Time, err error) {
	select {
	case <-r.leader.Lost():
		if err := r.leadAgain(ctx); err != nil {
			return time.Time{}, err
		}
	default:
	}
	for len(r.exits) > 0 {
		if err := r.exited(ctx, r.exits[0]); err != nil {
			return time.Time{}, err
		}
		r.exits = r.exits[1:]
	}
	v, err := r.leader.View(ctx)
	if err != nil {
		return time.Time{}, err
	}
	now := time.Now()
	r.tells(v)
	r.publish(r.server.status(v))
	r.keepFingerprint(v)
	if r.ending != nil {
		return r.end(ctx, v, now)
	}
	r.miss(v, now)
	told, _, _ := r.record.told()
	d := decide(situation{View: v, now: now, missing: r.missing, told: told, interrupts: r.interrupts})
	r.log.Debug("decided", "why", d.why, "again", d.again)
	switch {
	case d.generation != nil:
		return now, r.generation(ctx, v, *d.generation)
	case d.mark != nil:
		return now, r.mark(ctx, v, *d.mark)
	case d.reconfigure:
		r.record.event("reconfiguring", "the generation ends after the running step", d.why, nil)
		return now, r.leader.PutInstruction(ctx, membership.Reconfigure, d.why)
	case d.stop != "":
		r.record.event("stopping", "workers checkpoint after the running step and stop", d.stop, nil)
		return now, r.leader.PutInstruction(ctx, membership.Stop, d.stop)
	case len(d.started) > 0:
		return now, r.start(ctx, v, d.started)
	case d.outcome != nil:
		if err := r.leader.PutEnded(ctx, store.Ended{State: d.outcome.State, Message: d.outcome.Message}); err != nil {
			return time.Time{}, err
		}
		r.ending = r.ends(d, v, now)
		return now, nil
	}
	r.suspends(v, d)
	if d.unheard && !r.unheard {
		r.record.event("unheard", "no worker is heard of any more: this coordinator may be cut off, and training go on without it",
			"a worker that is alone stops after workers.orphan_seconds, with a checkpoint", nil)
	}
	r.unheard = d.unheard
	return d.again, nil
}

// suspends tells when the run is suspended, and when it goes on.
func (r *reconciler) suspends(v store.View, d decision) {
	was := r.server.board.suspends(d.suspended, d.why)
	switch {
	case d.suspended && !was:
		r.record.event("suspended", fmt.Sprintf("suspended: the checkpoint of step %d has the state", checkpointStep(v)), d.why, nil)
	case !d.suspended && was:
		r.record.event("resumed", "the job goes on", d.why, nil)
	}
	if d.suspended != was {
		r.publish(r.server.status(v))
	}
}

// keepFingerprint writes what the job's kernels compute into job.resolved.yaml, once it is known.
func (r *reconciler) keepFingerprint(v store.View) {
	if r.pinned || v.Fingerprint.Value == "" {
		return
	}
	path := r.folder.path("job.resolved.yaml")
	j, err := job.ReadResolved(path)
	if err == nil && j.Pins().Fingerprint != v.Fingerprint.Value {
		err = replaceFile(path, j.WithFingerprint(v.Fingerprint.Value).Marshal(), 0o644)
	}
	if err != nil {
		r.log.Warn("keep fingerprint in the resolved job", "error", err)
		return
	}
	r.pinned = true
}

// miss keeps since when which member has no lease.
func (r *reconciler) miss(v store.View, now time.Time) {
	if r.unheard && len(v.Workers) > 0 { // the way is open again: all have a whole TTL to be heard
		clear(r.missing)
	}
	for _, m := range v.Generation.Members {
		w, living := v.Workers[m.ID]
		switch _, known := r.missing[m.ID]; {
		case living && w.Incarnation == m.Incarnation:
			delete(r.missing, m.ID)
		case !known:
			r.missing[m.ID] = now
		}
	}
}

func (r *reconciler) generation(ctx context.Context, v store.View, g membership.Generation) error {
	ctx, span := r.tracer.Start(ctx, "generation", trace.WithAttributes(
		attribute.Int64("generation", int64(g.Number)), attribute.Int("world_size", len(g.Members))))
	defer span.End()
	stays := func(m membership.Member) bool {
		_, holds := v.Settled.Rank(m.ID, m.Incarnation)
		w, living := v.Workers[m.ID]
		p := v.Promises[m.ID]
		return g.Handover != nil && holds && living && w.Incarnation == m.Incarnation && p.Incarnation == m.Incarnation
	}
	return r.leader.PutGeneration(ctx, v.Generation.Number, g, stays)
}

// mark says that a generation is over, or settled.
func (r *reconciler) mark(ctx context.Context, v store.View, m membership.Mark) error {
	var left []membership.Member
	if m.Settled > v.Mark.Settled {
		for _, was := range v.Settled.Members {
			if _, stays := v.Generation.Rank(was.ID, was.Incarnation); !stays {
				left = append(left, was)
			}
		}
	}
	return r.leader.PutMark(ctx, m, left...)
}

// start starts workers. One that cannot be started ends the run as one that died would.
func (r *reconciler) start(ctx context.Context, v store.View, ids []string) error {
	for _, id := range ids {
		early := 0
		if was, again := v.Processes[id]; again {
			early = was.EarlyEnds
			r.record.event("worker_restarted", fmt.Sprintf("worker %s is started again", id), was.Status, map[string]string{"worker": id})
		}
		p, err := r.launch.start(id, time.Now())
		if err != nil {
			p = store.Process{ID: id, Started: time.Now(), Exited: true, Status: err.Error(), Time: time.Now()}
		}
		p.EarlyEnds = early
		if err := r.leader.PutProcess(ctx, p); err != nil {
			return err
		}
	}
	return nil
}

// exited keeps how a process ended, and ends its worker's lease, which nobody will renew.
func (r *reconciler) exited(ctx context.Context, e exit) error {
	v, err := r.leader.View(ctx)
	if err != nil {
		return err
	}
	p := v.Processes[e.id]
	if p.Exited {
		return nil
	}
	if w, ok := v.Workers[e.id]; ok && w.PID != p.PID {
		// A coordinator that was killed had started another and not said so: the one that ended here found its place taken.
		host, err := os.Hostname()
		ticks, lives, gone := startTicks(w.PID)
		if err == nil && gone == nil && lives && w.Host == host {
			taken := store.Process{ID: e.id, PID: w.PID, Start: ticks, Started: w.Registered}
			r.launch.adopt(ctx, taken)
			return r.leader.PutProcess(ctx, taken)
		}
	}
	p.ID, p.Exited, p.Status, p.Time = e.id, true, e.status, time.Now()
	if e.err != nil {
		p.Status = e.err.Error()
	}
	w, registered := v.Registrations[e.id]
	registered = registered && w.PID == p.PID
	p.EarlyEnds++
	if _, member := v.Generation.Rank(e.id, w.Incarnation); registered && member {
		p.EarlyEnds = 0
	}
	r.log.Info("worker process ended", "worker", e.id, "pid", p.PID, "status", p.Status)
	if f, ok := v.Finished[e.id]; r.ending == nil && (!ok || f.Incarnation != w.Incarnation) {
		if d, ok := v.Drains[e.id]; ok && d.Incarnation == w.Incarnation && (w.Removed || v.Generation.Save) {
			r.record.event("worker_drained", fmt.Sprintf("worker %s (process %d) has left", e.id, p.PID), d.Why, map[string]string{"worker": e.id})
			if err := r.leader.PutProcess(ctx, p); err != nil || w.Removed {
				return err
			}
			return r.leader.Remove(ctx, w) // its next life need not wait for the lease
		}
		r.record.event("worker_died", fmt.Sprintf("worker %s (process %d) died: %s", e.id, p.PID, p.Status), "",
			map[string]string{"worker": e.id, "incarnation": fmt.Sprint(w.Incarnation), "evidence": "its process has ended"})
	}
	if err := r.leader.PutProcess(ctx, p); err != nil {
		return err
	}
	if registered {
		return r.leader.Remove(ctx, w)
	}
	return nil
}

// carry does what a person has asked for.
func (r *reconciler) carry(ctx context.Context, a ask) error {
	switch {
	case r.ending != nil:
		return errors.New("the run is ending")
	case a.max > 0:
		v, err := r.leader.View(ctx)
		if err != nil {
			return err
		}
		if a.max < v.Run.Min {
			return fmt.Errorf("%d workers: the job needs workers.min, %d", a.max, v.Run.Min)
		}
		run := v.Run
		run.Max = a.max // of which the launcher starts all, or as many as launch was told
		r.record.event("resized", fmt.Sprintf("the job may use %d workers", a.max), fmt.Sprintf("asked for; it was %d", v.Run.Max), nil)
		return r.leader.PutRun(ctx, run)
	case a.suspend, a.resume:
		v, err := r.leader.View(ctx)
		if err != nil || v.Run.Paused && a.suspend {
			return err
		}
		run := v.Run
		run.Paused = a.suspend
		if a.resume {
			run.Resumed = time.Now()
			r.record.event("resuming", "asked to go on", "", nil)
		} else {
			r.record.event("suspending", "workers checkpoint after the running step and wait", "asked for", nil)
		}
		return r.leader.PutRun(ctx, run)
	case a.kind == membership.Stop:
		r.record.event("stopping", "workers checkpoint after the running step and stop", "asked for", nil)
	default:
		r.record.event("asked", fmt.Sprintf("asked for: %s", a.kind), "", nil)
	}
	return r.leader.PutInstruction(ctx, a.kind, "asked for")
}

func (r *reconciler) interrupt() {
	r.interrupts++
	if r.interrupts == 1 {
		r.record.event("interrupted", "interrupted; once more stops at once", "Ctrl-C", nil)
	}
}

// ends prepares the end that d decided.
func (r *reconciler) ends(d decision, v store.View, now time.Time) *ending {
	e := &ending{outcome: *d.outcome, guests: now.Add(guestGrace)}
	switch {
	case d.atOnce:
		e.signals = []timedSignal{{at: now, signal: syscall.SIGKILL}}
	case e.outcome.State == store.StateFailed:
		e.signals = []timedSignal{{at: now, signal: syscall.SIGTERM}, {at: now.Add(termGrace), signal: syscall.SIGKILL}}
	default: // who had no part in the end has nothing to finish
		e.signals = []timedSignal{{at: now, signal: syscall.SIGTERM, idle: true}, {at: now.Add(finishGrace), signal: syscall.SIGKILL}}
	}
	if _, launched := v.Processes[d.culprit]; launched {
		path := r.folder.workerLog(d.culprit)
		last, err := tail(path, logLines)
		switch {
		case err != nil:
			e.detail = "its log cannot be read: " + err.Error()
		case len(last) == 0:
			e.detail = "its log is empty: " + shown(path)
		default:
			e.detail = "the end of its log, " + shown(path) + ":\n    " + strings.Join(last, "\n    ")
		}
	}
	return e
}

// end sends the signals that are due, and writes the outcome when no process is left.
func (r *reconciler) end(ctx context.Context, v store.View, now time.Time) (again time.Time, err error) {
	left := 0
	for _, p := range v.Processes {
		if !p.Exited {
			left++
		}
	}
	if now.Before(r.ending.guests) {
		left += guests(v, v.Workers)
		again = r.ending.guests
	}
	if left == 0 {
		if r.ending.outcome.State == store.StateDone {
			if err := r.result(ctx, v); err != nil {
				r.ending.outcome.State = store.StateFailed
				r.ending.outcome.Message = fmt.Sprintf("trained to step %d, but the model is not written: %v", r.ending.outcome.Step, err)
			}
		}
		r.ending.outcome.Time = now
		if err := r.leader.PutOutcome(ctx, r.ending.outcome); err != nil {
			return time.Time{}, err
		}
		v.Outcome = &r.ending.outcome
		r.publish(r.server.status(v))
		return time.Time{}, errEnded
	}
	for len(r.ending.signals) > 0 && !now.Before(r.ending.signals[0].at) {
		unfinished := func(id string) bool { _, ok := v.Finished[id]; return !ok }
		everybody := func(string) bool { return true }
		to := everybody
		if r.ending.signals[0].idle {
			to = unfinished
		}
		if err := r.launch.signal(r.ending.signals[0].signal, to); err != nil {
			r.log.Warn("signal workers", "error", err)
		}
		r.ending.signals = r.ending.signals[1:]
	}
	if r.interrupts > 1 { // no grace for whoever asks twice
		r.interrupts = 0
		r.ending.signals = []timedSignal{{at: now, signal: syscall.SIGKILL}}
		return now, nil
	}
	if len(r.ending.signals) > 0 && (again.IsZero() || r.ending.signals[0].at.Before(again)) {
		again = r.ending.signals[0].at
	}
	return again, nil
}

// leadAgain takes the lead back after this process stood still for so long that its election key ended. Nobody else can
// have it: the run folder is locked.
func (r *reconciler) leadAgain(ctx context.Context) error {
	r.log.Warn("the election key had ended; leading again")
	leader, err := r.leader.Lead(ctx, leaderName(), true)
	if err != nil {
		return err
	}
	if err := r.leader.Resign(); err != nil {
		r.log.Debug("resign the ended lead", "error", err)
	}
	r.leader = leader
	r.missing = map[string]time.Time{}
	return nil
}

func leaderName() string { return fmt.Sprintf("process %d", os.Getpid()) }
