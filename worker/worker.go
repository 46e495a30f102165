// Package worker is one worker process: it joins its job, holds one rank's share of the state for a generation, trains,
// and reports. Run is all of it; package train does the computing, membership the talking to the coordinator.
package worker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/zerofleet/zerofleet/checkpoint"
	"github.com/zerofleet/zerofleet/collective/grpc"
	"github.com/zerofleet/zerofleet/job"
	"github.com/zerofleet/zerofleet/kernels"
	"github.com/zerofleet/zerofleet/membership"
	"github.com/zerofleet/zerofleet/membership/gossip"
	"github.com/zerofleet/zerofleet/membership/probe"
	"github.com/zerofleet/zerofleet/membership/watch"
	"github.com/zerofleet/zerofleet/model"
	"github.com/zerofleet/zerofleet/telemetry"
	"github.com/zerofleet/zerofleet/train"
	"github.com/zerofleet/zerofleet/worker/disturb"
)

// Options say which worker this is.
type Options struct {
	ID        string             // "": the coordinator chooses one
	Locate    membership.Locator // of the coordinator
	Joins     bool               // it may be on another machine than the coordinator: what it reads is compared first
	Term      <-chan os.Signal   // SIGTERM, a warning that this machine goes; may be nil
	Advertise string             // address of this machine that other workers reach this one at, and that it listens on
	Log       *slog.Logger
}

// finishTimeout bounds how long a worker that is done waits for a coordinator that does not answer, orphanTimeout how
// long one that has waited for workers.orphan_seconds already.
const (
	finishTimeout = 10 * time.Second
	orphanTimeout = time.Second
)

// traceTimeout bounds how long the last spans may take to be delivered.
const traceTimeout = 3 * time.Second

// leftoverAge is how old what nobody has finished in the checkpoint store is when it is removed: longer than the slowest
// rank needs for its part.
const leftoverAge = time.Hour

// Run lives one worker's life in a job: until the job's end, an instruction to stop, an error, or ctx's end. A worker
// that was fenced, because it stood still for longer than its lease, comes back as a new incarnation, without state.
func Run(ctx context.Context, o Options) error {
	var network disturb.Network
	client, err := membership.Dial(ctx, o.Locate, network.Dial, o.Log)
	if err != nil {
		return err
	}
	defer client.Close()
	assigned, err := client.FetchJob(ctx)
	if err != nil {
		return err
	}
	j, err := job.Parse("job.resolved.yaml", assigned.ResolvedYAML, nil)
	if err != nil {
		return fmt.Errorf("resolved job: %w", err)
	}
	if o.Joins {
		if err := comparable(ctx, o.Locate, assigned, j); err != nil {
			return err
		}
	}
	for {
		err := once(ctx, &o, &network, client, assigned, j)
		if !errors.Is(err, membership.ErrFenced) || ctx.Err() != nil {
			return err
		}
		o.Log.Warn("fenced: coming back as a new incarnation", "error", err)
	}
}

// once is one incarnation. An id that the coordinator has chosen is kept in o for the next.
func once(ctx context.Context, o *Options, network *disturb.Network, client *membership.Client, assigned membership.Job, j *job.Job) error {
	answers := &probe.Server{}
	endpoint, err := listen(ctx, o, network, client, answers)
	if err != nil {
		return err
	}
	defer endpoint.Close()
	at, _, err := net.SplitHostPort(endpoint.Addr())
	if err != nil {
		return fmt.Errorf("find the own address: %w", err)
	}
	ear, err := gossip.Listen(at, network, o.Log)
	if err != nil {
		return err
	}
	host, err := os.Hostname()
	if err != nil {
		return fmt.Errorf("name this host: %w", err)
	}
	session, err := client.Register(ctx, membership.Registration{ID: o.ID, Addr: endpoint.Addr(), Host: host, Device: deviceWord(j, o.ID),
		PID: os.Getpid(), Threads: j.Workers.Threads, Gossip: ear.Addr(),
		Disturb: func(d membership.Disturbance) { suffer(network, d, o.Log) }})
	if err != nil {
		return errors.Join(err, ear.Close())
	}
	defer session.Close()
	if o.ID == "" {
		o.ID = session.ID()
		o.Log = o.Log.With("worker", o.ID)
		o.Log.Info("joined", "job", j.Name)
	}
	answers.Is(session.ID(), session.Incarnation())
	others, err := watch.Start(watch.Options{ID: session.ID(), Incarnation: session.Incarnation(), Gossip: session.Gossip(),
		TLS: client.Credentials().Client(membership.RoleWorker), Dial: network.Dial, Accuse: session.Suspect, Log: o.Log}, ear)
	if err != nil {
		return err
	}
	defer func() {
		if err := others.Close(); err != nil {
			o.Log.Warn("failure detector", "error", err)
		}
	}()
	tracing, err := telemetry.NewTracing(ctx, "zerofleet-worker", j.Log.OTLPEndpoint)
	if err != nil {
		return fmt.Errorf("log.otlp_endpoint: %w", err)
	}
	defer func() {
		flush, cancel := context.WithTimeout(context.WithoutCancel(ctx), traceTimeout)
		defer cancel()
		if err := tracing.Close(flush); err != nil {
			o.Log.Warn("traces lost", "error", err)
		}
	}()
	w := &worker{o: *o, watch: others, spans: tracing.Tracer("zerofleet/worker"), job: j, runDir: assigned.RunDir, stopAt: int64(assigned.StopAt), client: client, session: session, endpoint: endpoint}
	out, err := w.live(ctx)
	switch {
	case errors.Is(err, errDrained):
		o.Log.Info("left the job: this machine goes")
		return nil
	case err != nil && errors.Is(session.Err(), membership.ErrEnded):
		o.Log.Info("nothing more to do", "why", session.Err())
		leaving, cancel := context.WithTimeout(context.WithoutCancel(ctx), orphanTimeout)
		defer cancel()
		if err := session.Leave(leaving); err != nil {
			o.Log.Info("the coordinator has gone first", "error", err)
		}
		return nil
	}
	return w.finish(ctx, out, err)
}

// listen opens the port that peers reach this worker at. The coordinator gets in too, to probe; a peer shows that it is one.
func listen(ctx context.Context, o *Options, network *disturb.Network, client *membership.Client, answers *probe.Server) (*grpc.Endpoint, error) {
	endpoint, err := grpc.Listen(ctx, grpc.Options{Addr: net.JoinHostPort(o.Advertise, "0"), Logger: o.Log, Serve: answers.Register,
		Dial: network.Dial, Wrap: network.Conn,
		TLS: client.Credentials().Server(membership.RoleWorker, membership.RoleCoordinator)})
	if err != nil {
		return nil, fmt.Errorf("listen for peers: %w", err)
	}
	return endpoint, nil
}

// suffer disturbs this worker's own network. It ends by itself: nobody can be heard meanwhile.
func suffer(network *disturb.Network, d membership.Disturbance, log *slog.Logger) {
	if d.Partition {
		log.Warn("disturbed on purpose: this worker's network is cut", "for", d.For)
		network.Cut(d.For)
		return
	}
	log.Warn("disturbed on purpose: this worker's network is slow", "for", d.For, "bytes_per_second", d.Rate)
	network.Slow(d.Rate, d.For)
}

// worker is what a life in a job needs.
type worker struct {
	o        Options
	job      *job.Job
	runDir   string
	stopAt   int64
	client   *membership.Client
	session  *membership.Session
	endpoint *grpc.Endpoint
	watch    *watch.Watch
	store    checkpoint.Store // opened by load
	spans    trace.Tracer
}

// computes says which bits this worker's kernels compute at the job's shapes.
func (w *worker) computes(ctx context.Context, backend kernels.Backend, dec *model.Decoder, o train.Options) (string, error) {
	cases, err := train.FingerprintCases(dec, o)
	if err != nil {
		return "", err
	}
	began := time.Now()
	own, each, err := kernels.Fingerprint(ctx, backend, cases)
	for _, c := range each {
		w.o.Log.Debug("fingerprint", "case", c.Name, "sum", c.Sum)
	}
	if err != nil {
		return "", err
	}
	w.o.Log.Info("these kernels' fingerprint", "fingerprint", own, "seconds", time.Since(began).Seconds())
	return own, nil
}

// admitted holds this worker's fingerprint to the job's, before it is ready: a worker of other bits is refused under
// sharding.exact: required while it is no member of anything, and takes nobody with it.
func (w *worker) admitted(own string, caps kernels.Caps) error {
	want, of := w.session.Fingerprint()
	if want == "" || own == want || w.job.Sharding.Exact != "required" {
		return nil
	}
	err := w.refused(own, want, of, caps)
	w.session.ReportEvent("fingerprint_differs", fmt.Sprintf("worker %s is refused", w.session.ID()), err.Error(), map[string]string{"worker": w.session.ID()})
	return err
}

func (w *worker) differs(own, want, of string, caps kernels.Caps) string {
	return fmt.Sprintf("worker %s computes other bits than worker %s (fingerprint %.12s, the job's is %.12s; this one: %s, %s)",
		w.session.ID(), of, own, want, caps.ISA, caps.Products)
}

func (w *worker) refused(own, want, of string, caps kernels.Caps) error {
	return fmt.Errorf("%s: sharding.exact: required admits one kind of machine", w.differs(own, want, of, caps))
}

// announce tells this worker's fingerprint, or holds it to the job's, with its first generation. Another machine's bits are refused
// under sharding.exact: required, and admitted under preferred: the record then says after which step the promise ended.
func (w *worker) announce(ctx context.Context, g membership.Generation, rank int, own string, caps kernels.Caps) error {
	want, of, err := w.session.StoreFingerprint(ctx, g.Number, rank, own)
	if err != nil || own == want {
		return err
	}
	switch w.job.Sharding.Exact {
	case "off":
		return nil
	case "preferred":
		step, err := beginsAfter(g)
		if err != nil {
			return err
		}
		w.session.ReportEvent("exactness_ended", w.differs(own, want, of, caps),
			fmt.Sprintf("sharding.exact: preferred admits it: steps after %d are no longer what another world size would compute", step),
			map[string]string{"step": fmt.Sprint(step), "worker": w.session.ID(), "generation": fmt.Sprint(g.Number)})
		return nil
	}
	return w.refused(own, want, of, caps)
}

// beginsAfter is the step whose state a generation begins with.
func beginsAfter(g membership.Generation) (int64, error) {
	switch {
	case g.Handover != nil:
		return g.Handover.Step, nil
	case g.Restore == nil || g.Restore.WeightsOnly:
		return 0, nil
	}
	m, err := checkpoint.Decode(g.Restore.Manifest)
	if err != nil {
		return 0, err
	}
	return m.Step, nil
}

// commit asks the coordinator to make a checkpoint exist. Without one for workers.orphan_seconds the manifest is left
// uncommitted in the store: the next coordinator adopts it.
func (w *worker) commit(ctx context.Context, m *checkpoint.Manifest, encoded []byte) error {
	asking, stop := context.WithCancel(ctx)
	defer stop()
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for !w.orphaned() {
			select {
			case <-tick.C:
			case <-asking.Done():
				return
			}
		}
		stop()
	}()
	committed, why, err := w.session.CommitManifest(asking, encoded, uint64(m.Step), m.Generation)
	stop()
	<-watched
	switch {
	case err == nil && committed: // it exists, whatever is left behind
		if err := checkpoint.Sweep(ctx, w.store, w.job.Checkpoint.Keep, leftoverAge, time.Now()); err != nil && ctx.Err() == nil {
			w.o.Log.Warn("old checkpoints are left in the store until the next one is committed", "error", err)
		}
		return nil
	case err == nil:
		return fmt.Errorf("%w: %s", train.ErrRefused, why)
	case ctx.Err() == nil && w.orphaned():
		_, err = checkpoint.PutUncommitted(ctx, w.store, encoded)
	}
	return err
}

// orphaned says whether no coordinator has answered for workers.orphan_seconds.
func (w *worker) orphaned() bool {
	return w.client.Lost() > seconds(w.job.Workers.OrphanSeconds)
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// finish tells the coordinator how it ended. What no coordinator takes is kept in the run folder's logs.
func (w *worker) finish(ctx context.Context, out train.Outcome, failure error) error {
	outcome, message, step := membership.OutcomeStopped, out.Reason, out.Step
	switch {
	case failure != nil:
		outcome, message = membership.OutcomeFailed, failure.Error()
	case out.Done:
		outcome = membership.OutcomeDone
	}
	timeout := finishTimeout
	if w.orphaned() {
		timeout = orphanTimeout
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), timeout)
	defer cancel()
	if errors.Is(failure, membership.ErrFenced) {
		return failure
	}
	if err := w.session.Finish(ctx, outcome, uint64(step), message); err != nil {
		w.o.Log.Warn("no coordinator took the last reports", "error", err)
		if e := w.keepReports(); e != nil {
			return errors.Join(failure, e)
		}
	}
	return failure
}

// keepReports writes what was not acknowledged beside the worker's log.
func (w *worker) keepReports() error {
	path := filepath.Join(w.runDir, "logs", "worker-"+w.session.ID()+".unreported.jsonl")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("keep reports: %w", err)
	}
	for _, e := range w.session.Unacknowledged() {
		b, err := marshalReport(e)
		if err == nil {
			_, err = f.Write(append(b, '\n'))
		}
		if err != nil {
			f.Close()
			return fmt.Errorf("keep reports: %w", err)
		}
	}
	return f.Close()
}
