// Package coordinator is the control plane of a job: Launch runs one on this machine, from the job file to its result.
//
// What is so is in etcd, which Launch starts inside itself (etcd.go); a reconciler (reconcile.go) reads it, decides
// (decide.go, a pure function) and acts. Workers and people reach it over gRPC (server.go), held to the job's own
// certificate authority (authority.go). A coordinator that is killed leaves its workers running: Launch of the same
// folder goes on with them.
package coordinator

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"github.com/zerofleet/zerofleet/checkpoint"
	"github.com/zerofleet/zerofleet/job"
	"github.com/zerofleet/zerofleet/membership"
	"github.com/zerofleet/zerofleet/membership/store"
	"github.com/zerofleet/zerofleet/telemetry"
)

// Exit statuses of a launch.
const (
	ExitDone        = 0
	ExitFailed      = 1
	ExitBadInput    = 2
	ExitInterrupted = 130 // with a checkpoint kept
)

// localJob is the job's name within a run folder's own etcd, which holds one: a resumed job may have another name.
const localJob = "job"

// traceTimeout bounds how long the last spans may take to be delivered.
const traceTimeout = 3 * time.Second

// Options say what to launch. JobFile and View must be set.
type Options struct {
	JobFile string
	Set     []string // "a.b=value" laid over the job file
	Resume  string   // a run folder or a checkpoint to go on from; empty: from the base model
	StopAt  uint64   // end, with a checkpoint, after this step; 0: at the job's own end
	// Listen is the address of the coordinator's gRPC, where workers of other machines join. Empty: any free port of
	// 127.0.0.1, and nobody is invited.
	Listen string
	// Local is how many workers this machine starts, at most workers.max; nil: all.
	Local *int
	View  View // shows the run; closed when Launch returns

	// Interrupts are the user's: the first asks for a checkpoint and a clean stop, the second stops at once. May be nil.
	Interrupts <-chan os.Signal
	// Worker is the command that runs a worker; nil: the program "worker" beside this one, or on PATH.
	Worker []string
}

// Launch runs a job to its end and returns the exit status that the command should have, with an error that says why when
// it is 1 or 2. Before anything is written, everything that can be known to be wrong is refused (status 2).
// The end of ctx stops the workers at once.
func Launch(ctx context.Context, o Options) (exit int, err error) {
	view := newFeed(o.View)
	defer func() { err = errors.Join(err, view.close()) }()
	exit, err = launch(ctx, o, view)
	if err != nil {
		exit = ExitFailed
		if IsBadInput(err) {
			exit = ExitBadInput
		}
	}
	return exit, err
}

func launch(ctx context.Context, o Options, view *feed) (exit int, err error) {
	j, err := job.Load(o.JobFile, o.Set)
	if err != nil {
		return 0, err
	}
	dir, err := filepath.Abs(j.Output.Dir)
	if err != nil {
		return 0, fmt.Errorf("find output.dir: %w", err)
	}
	state, err := stateOf(dir)
	if err != nil {
		return 0, bad("output.dir: %w", err)
	}
	if state == folderForeign {
		return 0, bad("output.dir: %s is not empty, and no run folder", shown(dir))
	}
	if o.Worker == nil {
		program, err := WorkerProgram()
		if err != nil {
			return 0, err
		}
		o.Worker = []string{program}
	}
	if state == folderRun && o.Resume == "" { // which may start workers too
		attached, exit, err := reattach(ctx, o, dir, view)
		if attached || err != nil {
			return exit, err
		}
	}
	p, err := prepareUnlessInterrupted(ctx, o, j, dir, state)
	if err != nil {
		return 0, err
	}
	l, err := listen(o.Listen)
	if err != nil {
		return 0, err
	}
	folder, err := openRunFolder(dir)
	if err != nil {
		return 0, errors.Join(err, l.Close())
	}
	r, err := open(ctx, folder)
	if err == nil {
		err = r.refuseLiving()
	}
	if err == nil {
		err = r.begin(ctx, o, p)
	}
	if err != nil {
		return 0, errors.Join(err, l.Close(), r.close(), folder.discard())
	}
	exit, err = r.serve(ctx, o, l, view, p.notes, false)
	return exit, errors.Join(err, r.close(), folder.close())
}

// listen takes the address before anything is written.
func listen(addr string) (net.Listener, error) {
	if addr == "" {
		addr = "127.0.0.1:0"
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		if errors.Is(err, syscall.EADDRINUSE) {
			return nil, bad("--listen %s: the port is in use", addr)
		}
		return nil, bad("--listen %s: %w", addr, err)
	}
	return l, nil
}

// run is an open run folder with its etcd, led by this process.
type run struct {
	folder *runFolder
	log    *slog.Logger
	logTo  *os.File
	etcd   *embedded
	leader *store.Leader
	view   store.View

	job         *job.Job // set by serve, like checkpoints
	checkpoints checkpoint.Store
}

// open starts the etcd of a locked run folder and takes the lead of its job. The result is to be closed even on error.
func open(ctx context.Context, folder *runFolder) (r *run, err error) {
	return openAt(ctx, folder, folder.path("etcd"))
}

// openAt is open with the etcd's files in another place.
func openAt(ctx context.Context, folder *runFolder, etcd string) (r *run, err error) {
	r = &run{folder: folder, log: slog.New(slog.DiscardHandler)}
	if err := folder.prepare(); err != nil {
		return r, err
	}
	r.logTo, err = os.OpenFile(folder.path("logs", "coordinator.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return r, fmt.Errorf("open log: %w", err)
	}
	r.log = telemetry.Logger(r.logTo, slog.LevelInfo)
	if r.etcd, err = startEtcd(ctx, etcd, folder.path("logs", "etcd.log")); err != nil {
		return r, err
	}
	if r.leader, err = store.New(r.etcd.client, localJob).Lead(ctx, leaderName(), true); err != nil {
		return r, err
	}
	r.view, err = r.leader.View(ctx)
	return r, err
}

func (r *run) close() error {
	var errs []error
	if r.leader != nil {
		errs = append(errs, r.leader.Resign())
	}
	if r.etcd != nil {
		errs = append(errs, r.etcd.close())
	}
	if r.logTo != nil {
		errs = append(errs, r.logTo.Close())
	}
	return errors.Join(errs...)
}

// refuseLiving refuses to begin another run where workers of the last one go on: they are taken up, or stopped, first.
func (r *run) refuseLiving() error {
	n, err := living(r.view)
	if err == nil && n > 0 {
		return bad("%s is still running, with %d workers; without --resume it is taken up again:\n%s", shown(r.folder.dir), n, launchLine(r.view.Run))
	}
	return err
}

// begin writes down what is launched.
func (r *run) begin(ctx context.Context, o Options, p *prepared) error {
	if err := replaceFile(r.folder.path("job.resolved.yaml"), p.yaml, 0o644); err != nil {
		return err
	}
	j := &p.resolved.Job
	stage, _ := j.Sharding.Stage.Number() // settled in a resolved job
	_, err := r.leader.Begin(ctx, store.Run{
		Job: j.Name, ResolvedYAML: p.yaml, JobFile: o.JobFile, Set: o.Set, Dir: r.folder.dir, Min: j.Workers.Min, Max: j.Workers.Max,
		Replicas: j.Recovery.Replicas, Whole: stage == 0, Restart: j.Workers.Restart, FailBelowMin: j.Recovery.BelowMin == "fail", Store: storeDir(j),
		Price: j.Workers.Spot.PricePerHour, OnDemandPrice: j.Workers.Spot.OnDemandPricePerHour, StopAt: o.StopAt, Restore: p.restore,
		Local: o.Local, Listen: o.Listen, Fingerprint: p.fingerprint, After: p.after, Started: time.Now(),
	})
	if err != nil {
		return err
	}
	r.view, err = r.leader.View(ctx)
	return err
}

// serve runs the run that is written down to its end. notes are said first. taken says that it is taken up again.
func (r *run) serve(ctx context.Context, o Options, l net.Listener, view *feed, notes []string, taken bool) (exit int, err error) {
	j, err := job.Parse(r.folder.path("job.resolved.yaml"), r.view.Run.ResolvedYAML, nil)
	if err != nil {
		return 0, errors.Join(fmt.Errorf("read resolved job: %w", err), l.Close())
	}
	tracing, err := telemetry.NewTracing(ctx, "zerofleet-coordinator", j.Log.OTLPEndpoint)
	if err != nil {
		return 0, errors.Join(bad("log.otlp_endpoint: %w", err), l.Close())
	}
	defer func() {
		flush, cancel := context.WithTimeout(context.WithoutCancel(ctx), traceTimeout)
		defer cancel()
		if e := tracing.Close(flush); e != nil {
			r.log.Warn("traces lost", "error", e)
		}
	}()
	tracer := tracing.Tracer("zerofleet/coordinator")
	ctx, span := tracer.Start(ctx, "launch", trace.WithAttributes(attribute.String("job", j.Name), attribute.Int("workers.max", j.Workers.Max)))
	defer span.End()

	if j.Log.TensorBoard {
		view.add(&scalars{dir: r.folder.path("tensorboard"), now: time.Now})
	}
	var start uint64
	if m := r.view.Run.Restore; m != nil && !m.WeightsOnly {
		start = m.Step
	}
	rec, err := openRecord(r.folder, start, r.view.Run.After, view, r.log)
	if err != nil {
		return 0, errors.Join(err, l.Close())
	}
	defer func() { err = errors.Join(err, rec.close()) }()
	r.job = j
	r.checkpoints, err = checkpoint.OpenStore(ctx, storeDir(j))
	if err != nil {
		return 0, errors.Join(bad("checkpoint.store: %w", err), l.Close())
	}
	events := rec.testimony()
	if !taken {
		if err := r.count(ctx, events, rec); err != nil {
			return 0, errors.Join(err, l.Close())
		}
	}
	s := &server{recall: newRecall(), store: r.leader.Store, record: rec, board: newBoard(r.view.States), checkpoints: r.checkpoints, folder: r.folder, log: r.log, asks: make(chan ask), removals: make(chan removal)}
	stop, err := r.admit(ctx, s, l, o.Listen != "")
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, stop()) }()
	for _, n := range notes {
		rec.event("note", n, "", nil)
	}
	lr := newLauncher(o.Worker, j.Workers.Threads, j.Workers.Max, r.folder)
	if host, err := reach(l.Addr()); err == nil && !net.ParseIP(host).IsLoopback() {
		lr.advertise = host
	}
	stopped := false
	if taken {
		if stopped, err = r.recall(ctx, s, events, rec, o.Interrupts); err != nil {
			return 0, err
		}
	}
	close(s.recall.done)
	watching, unwatch := context.WithCancel(context.WithoutCancel(ctx))
	defer unwatch()
	if err := r.adopt(watching, lr, rec); err != nil {
		return 0, err
	}
	rc := &reconciler{
		leader: r.leader, launch: lr, server: s, record: rec, folder: r.folder, log: r.log, tracer: tracer,
		missing: map[string]time.Time{}, publish: func(st *Status) { view.tell(func(v View) { v.Status(st) }) },
	}
	if stopped {
		rc.interrupt()
	}
	end, err := rc.run(ctx, o.Interrupts)
	r.leader = rc.leader
	if err != nil {
		return 0, fmt.Errorf("%w\nthe workers go on without a coordinator; to take them up again: %s", err, launchLine(r.view.Run))
	}
	unwatch()
	lr.wait()
	return r.conclude(ctx, end, rec)
}

// admit opens the door to workers and people: control.json tells where it is, and with invite a token file does so to
// workers of other machines.
func (r *run) admit(ctx context.Context, s *server, l net.Listener, invite bool) (stop func() error, err error) {
	a, err := r.leader.Authority(ctx, func() (store.Authority, error) { return newAuthority(r.view.Run.Job, time.Now()) })
	if err == nil {
		err = keepWorkerPair(r.folder, a)
	}
	var own *membership.Credentials
	if err == nil {
		own, err = ownCredentials(a, membership.RoleCoordinator, time.Now())
	}
	if err == nil {
		s.suspects = newSuspects(own.Client(membership.RoleWorker))
		s.gossipKey, err = gossipKey(a, r.view.Run)
	}
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	stop = s.serve(l, own.Server(membership.RoleWorker), a.Token)
	err = membership.WriteControl(r.folder.path("control.json"), membership.Control{
		Job: r.view.Run.Job, Addr: l.Addr().String(), PID: os.Getpid(), Authority: string(a.Certificate),
		Certificate: filepath.Join("tls", "worker.pem"), Key: filepath.Join("tls", "worker.key"), Token: a.Token,
	})
	if err == nil && invite {
		err = r.invite(a, l.Addr(), s.record)
	}
	if err != nil {
		return nil, errors.Join(err, stop())
	}
	return stop, nil
}

// keepWorkerPair leaves the workers' key pair in the run folder, if it is not there.
func keepWorkerPair(f *runFolder, a store.Authority) error {
	certificate, key := f.path("tls", "worker.pem"), f.path("tls", "worker.key")
	if _, err := membership.LoadCredentials(a.Certificate, certificate, key); err == nil {
		return nil
	}
	c, k, err := issue(a, membership.RoleWorker, time.Now())
	if err != nil {
		return err
	}
	return errors.Join(replaceFile(certificate, c, 0o600), replaceFile(key, k, 0o600))
}

// adopt takes up the processes that an earlier coordinator of this run started.
func (r *run) adopt(ctx context.Context, l *launcher, rec *record) error {
	for id, p := range r.view.Processes {
		if p.Exited {
			continue
		}
		rec.event("worker_adopted", fmt.Sprintf("worker %s (process %d) is taken up again", id, p.PID), "its coordinator had ended", map[string]string{"worker": id})
		l.adopt(ctx, p)
	}
	return nil
}

// storeDir is a job's checkpoint store.
func storeDir(j *job.Job) string { return j.Checkpoint.Store }
