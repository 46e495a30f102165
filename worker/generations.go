package worker

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/zerofleet/zerofleet/checkpoint"
	"github.com/zerofleet/zerofleet/collective"
	"github.com/zerofleet/zerofleet/collective/grpc"
	"github.com/zerofleet/zerofleet/data"
	"github.com/zerofleet/zerofleet/kernels"
	"github.com/zerofleet/zerofleet/kernels/cpu"
	"github.com/zerofleet/zerofleet/membership"
	"github.com/zerofleet/zerofleet/model"
	"github.com/zerofleet/zerofleet/train"
	"github.com/zerofleet/zerofleet/train/fault"
	"github.com/zerofleet/zerofleet/worker/inputs"
)

// incarnation is what a worker keeps from one generation to the next.
//
// It holds the state of the newest settled generation until the next one is settled: whatever fails before that, the one
// after is planned from what is settled, and nothing is lost.
type incarnation struct {
	*worker
	backend    kernels.Backend
	base       *inputs.Model
	train      *data.Dataset
	eval       *data.Dataset
	options    train.Options
	dec        *model.Decoder
	manifest   checkpoint.Manifest // what every checkpoint of the job says
	announced  bool                // the fingerprint, with the first generation
	began      time.Time           // the first training
	leaves     *leaves
	traces     *traces
	settled    *state // of the newest settled generation, nil before the first
	unsettled  *state // built, and not known to be settled
	unsaved    int    // how often in a row the state could not be saved
	retake     bool   // a checkpoint was begun and is not known to exist
	generation membership.Generation
	runs       atomic.Bool // it trains: without a coordinator too
}

// state is this rank's share of a generation's state.
type state struct {
	generation uint64
	t          *train.Trainer
	distrusted bool // it was found to be damaged
}

func (s *state) held() membership.Held {
	c := s.t.Cursor()
	return membership.Held{Generation: s.generation, Rank: s.t.Rank(), Step: s.t.Step(), OptimizerStep: s.t.OptimizerStep(),
		Records: s.t.LastRecords(), Cursor: membership.Cursor{Epoch: c.Epoch, Sample: c.Sample}, Distrusted: s.distrusted}
}

// live loads while the first generation forms, then trains in one after the other.
func (w *worker) live(ctx context.Context) (out train.Outcome, err error) {
	w.session.ReportState(membership.Loading, "", 0, nil)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	i := &incarnation{worker: w, leaves: openLeaves(w.runDir, w.session.ID(), w.o.Log), traces: openTraces(w.runDir, w.session.ID(), w.spans, w.o.Log)}
	fenced := make(chan struct{})
	defer func() { <-fenced }()
	var training atomic.Bool
	go func() { // a worker whose lease has ended stops computing at once
		defer close(fenced)
		orphan := time.NewTicker(time.Second)
		defer orphan.Stop()
		for {
			select {
			case <-w.session.Done():
				cancel(w.session.Err())
				return
			case <-orphan.C:
				if !i.runs.Load() && w.orphaned() {
					cancel(errOrphaned)
					return
				}
			case <-ctx.Done():
				return
			}
		}
	}()
	defer cancel(nil)
	d := w.watchNotices(ctx, training.Load, func() { cancel(errTerminated) })
	defer d.close()
	defer func() { // a generation without it fences it
		if d.noticed.Load() && errors.Is(err, membership.ErrFenced) {
			err = errDrained
		}
	}()
	defer func() { // whatever was under way then failed because of that
		if err != nil && ctx.Err() != nil {
			err = context.Cause(ctx)
		}
	}()
	defer func() { err = errors.Join(err, i.close()) }()
	if err := i.load(ctx); err != nil {
		return train.Outcome{}, err
	}
	for {
		if i.generation.Number == 0 || i.settled == nil {
			w.session.ReportState(membership.Waiting, "", 0, nil)
		}
		g, err := w.session.Generation(ctx, i.generation.Number)
		if err != nil {
			return train.Outcome{}, err
		}
		i.generation = g
		w.watch.Enter(g)
		if _, member := g.Rank(w.session.ID(), w.session.Incarnation()); !member {
			if err := i.left(ctx, g); err != nil {
				return train.Outcome{}, err
			}
			if i.settled == nil && d.noticed.Load() {
				return train.Outcome{}, errDrained
			}
			continue // the next one may have a place for it
		}
		training.Store(true)
		out, err := i.member(ctx, g)
		training.Store(false)
		if err != nil || !out.Reconfigure {
			return out, err
		}
		if g.Save && d.noticed.Load() {
			return train.Outcome{}, errDrained // its state is written down, and nobody is left to take it over
		}
	}
}

// left keeps what this worker has for a generation without it until that is settled: before, the one after may need it.
func (i *incarnation) left(ctx context.Context, g membership.Generation) error {
	if i.settled == nil && i.unsettled == nil {
		return nil
	}
	settled, err := i.session.Settled(ctx, g.Number)
	if err != nil || !settled {
		return err
	}
	return i.release()
}

// release frees what this worker has of the job's state.
func (i *incarnation) release() error {
	var errs []error
	for _, s := range []*state{i.settled, i.unsettled} {
		if s != nil {
			errs = append(errs, s.t.Close())
		}
	}
	i.settled, i.unsettled = nil, nil
	return errors.Join(errs...)
}

// load opens what the job needs.
func (i *incarnation) load(ctx context.Context) (err error) {
	load, loadCtx := errgroup.WithContext(ctx)
	load.Go(func() (err error) {
		if i.base, err = inputs.OpenModel(loadCtx, i.job); err != nil {
			return err
		}
		i.train, i.eval, err = inputs.OpenData(loadCtx, i.job, i.base.Tokenizer)
		return err
	})
	load.Go(func() (err error) {
		i.store, err = checkpoint.OpenStore(loadCtx, i.job.Checkpoint.Store)
		return err
	})
	load.Go(func() (err error) {
		i.backend, err = openBackend(i.job, i.session.ID(), i.o.Log)
		return err
	})
	if err := load.Wait(); err != nil {
		return err
	}
	if i.options, err = trainOptions(i.job, i.train.Steps()); err != nil {
		return err
	}
	if i.dec, err = model.New(i.base.Config(), i.options.Compute); err != nil {
		return err
	}
	// Before it is ready: nobody waits for it then.
	if i.manifest.Fingerprint, err = i.computes(ctx, i.backend, i.dec, i.options); err != nil {
		return err
	}
	if err := i.admitted(i.manifest.Fingerprint, i.backend.Caps()); err != nil {
		return err
	}
	i.manifest.Job = i.job.Name
	i.manifest.Model, err = i.base.Config().HuggingFace("f32")
	return err
}

func (i *incarnation) close() error {
	errs := []error{i.release(), i.leaves.close(), i.traces.close()}
	if i.backend != nil {
		errs = append(errs, i.backend.Close())
	}
	if i.base != nil {
		errs = append(errs, i.base.Close())
	}
	return errors.Join(errs...)
}

var (
	// errDrained ends a worker whose machine goes, and that has left its job.
	errDrained = errors.New("drained")
	// errTerminated ends one that was told to end while it had nothing to hand over, or told twice.
	errTerminated = errors.New("terminated by SIGTERM")
	// errOrphaned ends one that waits for a coordinator which has not answered for workers.orphan_seconds.
	errOrphaned = errors.New("no coordinator has answered for workers.orphan_seconds")
)

// errOver ends what a worker does in a generation that is over.
type errOver struct{ why string }

func (e errOver) Error() string { return "the generation is over: " + e.why }

// member is this worker's part of one generation, and what follows when that has ended before the job has: the promise.
func (i *incarnation) member(ctx context.Context, g membership.Generation) (train.Outcome, error) {
	within, end := context.WithCancelCause(ctx)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		if why := i.session.Over(within, g.Number); why != "" {
			end(errOver{why})
		}
	}()
	out, err := i.take(within, g)
	var peer *collective.PeerError
	if errors.As(err, &peer) {
		i.watch.Broken(peer.ID)
	}
	over := context.Cause(within)
	end(nil)
	<-watched
	var told errOver
	var damaged *train.ReplicaError
	switch {
	case ctx.Err() != nil:
		return out, context.Cause(ctx)
	case errors.As(err, &damaged):
		i.distrust(g, damaged)
		return train.Outcome{Reconfigure: true}, i.promise(ctx, g, false, err)
	case err == nil && !out.Reconfigure:
		return out, nil
	case err == nil, errors.As(over, &told), errors.Is(err, collective.ErrPeer), errors.Is(err, collective.ErrFenced), errors.Is(err, collective.ErrStalled), errors.Is(err, train.ErrSave):
		return train.Outcome{Reconfigure: true}, i.promise(ctx, g, out.Reconfigure, err)
	}
	return out, err
}

// distrust is what follows when a shard and its replica differ. All ranks find it after the same step. A state that was
// settled is built upon no more, and the job goes back to its newest checkpoint; one that was not settled yet is built again.
func (i *incarnation) distrust(g membership.Generation, damaged *train.ReplicaError) {
	then := "the generation takes over its state again"
	if i.settled != nil && i.settled.generation == g.Number {
		i.settled.distrusted = true
		then = "the job goes back to its newest checkpoint, of which all replicas were like their shards"
	}
	if rank, _ := g.Rank(i.session.ID(), i.session.Incarnation()); rank == damaged.Rank { // one tells of it
		i.session.ReportEvent("replica_differs", damaged.Error(), "one of the two was damaged, and nobody can tell which: "+then, map[string]string{
			"step": fmt.Sprint(damaged.Step), "rank": fmt.Sprint(damaged.Rank), "buddy": fmt.Sprint(damaged.Buddy), "unit": damaged.Unit,
			"field": damaged.Field.String(), "worker": g.Members[damaged.Rank].ID, "buddy_worker": g.Members[damaged.Buddy].ID,
		})
	}
}

// promise closes what was open in a generation, and gives the coordinator the word that this worker never advances in it
// again, with a report of what it holds.
func (i *incarnation) promise(ctx context.Context, g membership.Generation, asked bool, cause error) error {
	why := ""
	if cause != nil {
		why = cause.Error()
	}
	if !asked {
		i.o.Log.Warn("leaving a generation", "generation", g.Number, "why", why)
	}
	var held []membership.Held
	for _, s := range []*state{i.settled, i.unsettled} {
		if s == nil {
			continue
		}
		if err := s.t.Retire(ctx); err != nil {
			return err
		}
		held = append(held, s.held())
	}
	open := 0
	if i.leaves.generation == g.Number {
		open = i.leaves.open
	}
	fault.At(fault.BeforeReport, int64(g.Number))
	if i.settled != nil {
		i.session.ReportState(membership.Recovering, why, uint64(i.settled.t.Step()), nil)
	}
	return i.session.Promise(ctx, g.Number, held, open, why)
}

// take joins a generation, builds this rank's share of its state, and trains when everybody has theirs.
func (i *incarnation) take(ctx context.Context, g membership.Generation) (train.Outcome, error) {
	group, err := i.join(ctx, g)
	if err != nil {
		return train.Outcome{}, err
	}
	defer group.Close()
	telling, stop := context.WithCancel(ctx)
	told := make(chan struct{})
	go func() {
		defer close(told)
		tellStalls(telling, i.session, group)
	}()
	defer func() {
		stop()
		<-told
	}()
	if err := i.sort(g); err != nil {
		return train.Outcome{}, err
	}
	if g.Save {
		return train.Outcome{Reconfigure: true}, i.save(ctx, group, g)
	}
	if !i.announced {
		if err := i.announce(ctx, g, group.Rank(), i.manifest.Fingerprint, i.backend.Caps()); err != nil {
			return train.Outcome{}, err
		}
		i.announced = true
	}
	t, err := train.New(ctx, i.options, i.dec, train.Device{Backend: i.backend, Fold: cpu.Accumulate}, group)
	if err != nil {
		return train.Outcome{}, err
	}
	received, restored, err := i.fill(ctx, t, g)
	if err == nil {
		err = t.CheckReplicas(ctx)
	}
	if err != nil { // the group first: what is under way uses the memory
		return train.Outcome{}, errors.Join(err, group.Close(), t.Close())
	}
	i.unsettled = &state{generation: g.Number, t: t}
	fault.At(fault.BeforeShare, int64(g.Number))
	if err := i.session.Settle(ctx, g.Number, received, restored); err != nil {
		return train.Outcome{}, err
	}
	fault.At(fault.AfterShare, int64(g.Number))
	settled, err := i.session.Settled(ctx, g.Number)
	if err != nil || !settled {
		return train.Outcome{Reconfigure: !settled}, err
	}
	if i.settled != nil {
		if err := i.settled.t.Close(); err != nil {
			return train.Outcome{}, err
		}
	}
	i.settled, i.unsettled = i.unsettled, nil
	return i.run(ctx, t, group, g)
}

// sort keeps the one state that g may be built from: what was built for the generation before is either settled after all,
// though this worker has not heard of it, or came to nothing. When g begins from a checkpoint, nothing is.
func (i *incarnation) sort(g membership.Generation) error {
	if g.Handover == nil {
		return i.release()
	}
	if i.unsettled == nil {
		return nil
	}
	drop := i.unsettled
	if g.Handover != nil && g.Handover.Settled == i.unsettled.generation {
		drop, i.settled = i.settled, i.unsettled
	}
	i.unsettled = nil
	if drop == nil {
		return nil
	}
	return drop.t.Close()
}

// join connects to the generation's other workers.
func (i *incarnation) join(ctx context.Context, g membership.Generation) (collective.Group, error) {
	rank, _ := g.Rank(i.session.ID(), i.session.Incarnation())
	c := i.job.Collective
	cfg := grpc.Config{Job: i.job.Name, Generation: g.Number, Rank: rank, Budget: int64(c.ReceiveBudgetBytes),
		Deadline: seconds(c.DeadlineSeconds), Checksum: c.Checksum,
		AnyOrder: anyOrder(i.job), Fold: cpu.Accumulate,
		Transport: grpc.Transport(c.Transport), ClientTLS: i.client.Credentials().Client(membership.RoleWorker)}
	for _, m := range g.Members {
		cfg.Peers = append(cfg.Peers, grpc.Peer{ID: m.ID, Addr: m.Addr, Host: m.Host, Name: string(membership.RoleWorker)})
	}
	group, err := i.endpoint.Join(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("join generation %d as rank %d: %w", g.Number, rank, err)
	}
	return group, nil
}

// fill gives the state its first values: from the settled generation's, which members hold, or from a checkpoint or the
// base model. It returns the bytes that came from other ranks, and from a checkpoint.
func (i *incarnation) fill(ctx context.Context, t *train.Trainer, g membership.Generation) (received, restored int64, err error) {
	if h := g.Handover; h != nil {
		old, err := i.complete(h)
		if err != nil {
			return 0, 0, err
		}
		received, err = t.TakeOver(ctx, old, handover(h))
		return received, 0, err
	}
	if g.Restore == nil {
		return 0, 0, t.Init(ctx, i.base.Weights.ReadF32)
	}
	m, err := checkpoint.Decode(g.Restore.Manifest)
	if err != nil {
		return 0, 0, err
	}
	store, err := checkpoint.OpenStore(ctx, g.Restore.Store)
	if err != nil {
		return 0, 0, err
	}
	reader := checkpoint.Open(store, m)
	defer reader.Close()
	if g.Restore.WeightsOnly {
		err = t.Init(ctx, reader.ReadTensor)
	} else {
		err = t.Restore(ctx, reader)
	}
	return 0, reader.BytesRead(), err
}

// complete is what this worker has of the settled generation that h names, at h's step; nil when it was not in it.
func (i *incarnation) complete(h *membership.Handover) (*train.Trainer, error) {
	if i.settled == nil || i.settled.generation != h.Settled {
		return nil, nil
	}
	return i.settled.t, i.settled.t.Complete(h.Step, h.Records)
}

func handover(h *membership.Handover) train.Handover {
	from := train.Handover{World: h.World, Step: h.Step, OptimizerStep: h.OptimizerStep, Records: h.Records,
		Cursor: checkpoint.Cursor{Epoch: h.Cursor.Epoch, Sample: h.Cursor.Sample}}
	for _, x := range h.Holders {
		from.Holders = append(from.Holders, train.Holder{Rank: x.Rank, Replica: x.Replica})
	}
	return from
}

// save is this worker's part of a generation that only writes its state down.
func (i *incarnation) save(ctx context.Context, group collective.Group, g membership.Generation) error {
	old, err := i.complete(g.Handover)
	if err != nil {
		return err
	}
	if old != nil {
		i.session.ReportState(membership.Checkpointing, "", uint64(g.Handover.Step), nil)
	}
	err = train.Save(ctx, group, old, handover(g.Handover), i.store, i.manifest, i.commit)
	switch {
	case errors.Is(err, train.ErrSave):
		i.o.Log.Warn("the state is kept, and its checkpoint tried again", "error", err)
		i.unsaved++
		select {
		case <-time.After(min(time.Duration(i.unsaved)*time.Second, maxSaveWait)):
		case <-ctx.Done():
		}
		return err
	case err != nil:
		return err
	}
	i.unsaved = 0
	if g.Release {
		return i.release()
	}
	return nil
}

// maxSaveWait is how long a store that has refused a suspended job's state again and again is left alone.
const maxSaveWait = 30 * time.Second

// run trains in a settled generation.
func (i *incarnation) run(ctx context.Context, t *train.Trainer, group collective.Group, g membership.Generation) (train.Outcome, error) {
	i.runs.Store(true)
	defer i.runs.Store(false)
	if i.began.IsZero() {
		i.began = time.Now()
	}
	r := &reporter{w: i.worker, members: g.Members, t: t, group: group, began: i.began, data: i.train, rank: group.Rank(), sent: group.Stats()}
	r.phase("training")
	retake := i.retake && g.Handover != nil // a state that was read from a checkpoint is in one
	i.leaves.generation, i.leaves.open = g.Number, 0
	out, err := t.Run(ctx, train.Run{
		Data: i.train, Eval: i.eval, EvalEvery: int64(i.job.Eval.EverySteps), EvaluateBeforeFirst: t.Step() == 0 && g.Handover == nil,
		Store: i.store, CheckpointEvery: int64(i.job.Checkpoint.EverySteps), CheckpointOnStop: i.job.Checkpoint.OnExit,
		CheckpointRetry: seconds(i.job.Checkpoint.RetrySeconds), Retake: retake, Troubled: r.troubled,
		StopAt: i.stopAt, Manifest: i.manifest, Handled: g.Handled,
		Instruction: r.instruction, StopReason: r.stopReason, Commit: i.commit,
		Computed:  i.leaves.computed,
		Traced:    func(step int64, spans []train.Span) { i.traces.write(g.Number, group.Rank(), step, spans) },
		Committed: func(s train.StepReport) { i.leaves.committed(s.Step); r.committed(s) }, Evaluated: r.evaluated, Phase: r.phase,
	})
	i.retake = out.Unfinished
	return out, err
}
