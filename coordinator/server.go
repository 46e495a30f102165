package coordinator

import (
	"bytes"
	"context"
	"crypto/subtle"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/zerofleet/zerofleet/checkpoint"
	"github.com/zerofleet/zerofleet/membership"
	"github.com/zerofleet/zerofleet/membership/probe"
	"github.com/zerofleet/zerofleet/membership/store"
	zerofleetv1 "github.com/zerofleet/zerofleet/proto/zerofleet/v1"
)

// leaseTTL is how long a worker may be silent before it counts as gone. A local worker's death is seen at once, by its
// process; this is for one that hangs. Ten seconds outlast what a loaded machine stops a process for.
const leaseTTL = 10 * time.Second

// server answers workers and people. It keeps nothing: what it is told goes to etcd, to the run's record, or to the
// board of what workers are doing now.
type server struct {
	zerofleetv1.UnimplementedControlServer
	zerofleetv1.UnimplementedOperatorServer

	store       *store.Store
	record      *record
	board       *board
	checkpoints checkpoint.Store
	folder      *runFolder
	log         *slog.Logger
	// asks are what people want of the run; the reconciler takes them.
	asks     chan ask
	suspects *suspects
	watchers watchStreams
	recall   *recall      // until it is over, no worker gets an answer
	removals chan removal // for the reconciler
	// gossipKey is what the workers' failure detectors encrypt with.
	gossipKey []byte
}

// ask is one thing that a person wants: another number of workers, to wait, to go on, or else an instruction.
type ask struct {
	kind            membership.InstructionKind
	max             int // 0: something else
	suspend, resume bool
	done            chan error
}

// serve answers on l until the returned function is called, which ends every call under way and waits for it.
func (s *server) serve(l net.Listener, config *tls.Config, token string) (stop func() error) {
	auth := authenticate(token)
	g := grpc.NewServer(
		grpc.Creds(credentials.NewTLS(config)),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: membership.KeepaliveTime / 2, PermitWithoutStream: true}),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: membership.KeepaliveTime, Timeout: membership.KeepaliveTime}),
		grpc.MaxRecvMsgSize(membership.MaxMessageBytes), grpc.MaxSendMsgSize(membership.MaxMessageBytes),
		grpc.WaitForHandlers(true),
		grpc.ChainUnaryInterceptor(func(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
			if err := auth(ctx); err != nil {
				return nil, err
			}
			if err := s.waits(info.FullMethod, req); err != nil {
				return nil, err
			}
			reply, err := next(ctx, req)
			return reply, s.answer(info.FullMethod, err)
		}),
		grpc.ChainStreamInterceptor(func(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
			if err := auth(stream.Context()); err != nil {
				return err
			}
			return s.answer(info.FullMethod, next(srv, stream))
		}),
	)
	zerofleetv1.RegisterControlServer(g, s)
	zerofleetv1.RegisterOperatorServer(g, s)
	ended := make(chan error, 1)
	go func() { ended <- g.Serve(l) }()
	return func() error {
		g.Stop()
		return <-ended
	}
}

// authenticate checks the job's token: a certificate of the job is not enough, since keys of finished runs lie about in
// folders and backups.
func authenticate(token string) func(context.Context) error {
	return func(ctx context.Context) error {
		md, _ := metadata.FromIncomingContext(ctx)
		for _, v := range md.Get("authorization") {
			given, ok := strings.CutPrefix(v, "Bearer ")
			if ok && subtle.ConstantTimeCompare([]byte(given), []byte(token)) == 1 {
				return nil
			}
		}
		return status.Error(codes.Unauthenticated, "wrong token for this job: its run folder's control.json and join.token have the right one")
	}
}

// waits refuses a worker's call for as long as this coordinator does not know what it can answer.
func (s *server) waits(method string, req any) error {
	if s.recall.over() || !strings.HasPrefix(method, "/"+zerofleetv1.Control_ServiceDesc.ServiceName+"/") || method == zerofleetv1.Control_FetchJob_FullMethodName {
		return nil
	}
	if r, ok := req.(*zerofleetv1.RegisterRequest); ok {
		s.recall.asks(r.GetId())
	}
	return status.Error(codes.Aborted, "this coordinator asks first what the workers know")
}

// answer turns an error into what the caller is to do about it, which its code says (see control.proto).
func (s *server) answer(method string, err error) error {
	if err == nil {
		return nil
	}
	if _, ok := status.FromError(err); ok {
		return err
	}
	code := codes.Unavailable // etcd's own troubles pass
	switch {
	case errors.Is(err, store.ErrNotRegistered):
		code = codes.FailedPrecondition
	case errors.Is(err, store.ErrTaken):
		code = codes.AlreadyExists
	case errors.Is(err, store.ErrConflict):
		code = codes.Aborted
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		code = codes.ResourceExhausted
	case errors.Is(err, context.Canceled):
		code = codes.Canceled
	}
	s.log.Debug("call refused", "method", method, "code", code, "error", err)
	return status.Error(code, err.Error())
}

func (s *server) FetchJob(ctx context.Context, _ *zerofleetv1.FetchJobRequest) (*zerofleetv1.FetchJobResponse, error) {
	run, ok, err := s.store.Run(ctx)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, status.Error(codes.Unavailable, "the run has not begun yet")
	}
	work, err := os.Getwd()
	if err != nil {
		return nil, status.Errorf(codes.Internal, "find the working directory: %v", err)
	}
	return &zerofleetv1.FetchJobResponse{ResolvedYaml: run.ResolvedYAML, RunDir: run.Dir, WorkDir: work, StopAt: run.StopAt}, nil
}

func (s *server) Register(ctx context.Context, r *zerofleetv1.RegisterRequest) (*zerofleetv1.RegisterResponse, error) {
	if err := validID(r.GetId()); err != nil && r.GetId() != "" {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	if _, _, err := net.SplitHostPort(r.GetAddr()); err != nil || len(r.GetNonce()) == 0 {
		return nil, status.Errorf(codes.InvalidArgument, "register worker %s: address %q and nonce of %d bytes: want host:port, and a nonce", r.GetId(), r.GetAddr(), len(r.GetNonce()))
	}
	now := time.Now()
	w, v, err := s.enter(ctx, store.Worker{
		ID: r.GetId(), Addr: r.GetAddr(), Host: r.GetHost(), Device: r.GetDevice(),
		PID: int(r.GetPid()), Threads: int(r.GetThreads()), Nonce: r.GetNonce(), Gossip: r.GetGossipAddr(),
	}, now)
	if err != nil {
		return nil, err
	}
	s.suspects.hears(life{w.ID, w.Incarnation}, now)
	answer := &zerofleetv1.RegisterResponse{Id: w.ID, Incarnation: w.Incarnation, LeaseSeconds: uint32(leaseTTL / time.Second),
		GossipKey: s.gossipKey, Fingerprint: v.Fingerprint.Value, FingerprintWorker: v.Fingerprint.Worker}
	for _, o := range v.Workers {
		if o.ID != w.ID && o.Gossip != "" {
			answer.GossipSeeds = append(answer.GossipSeeds, o.Gossip)
		}
	}
	return answer, nil
}

// enter registers a worker, under an id that is free if it has none of its own, and returns what it has come into.
func (s *server) enter(ctx context.Context, w store.Worker, now time.Time) (registered store.Worker, v store.View, err error) {
	chosen := w.ID != ""
	for {
		if v, err = s.store.View(ctx); err != nil {
			return registered, v, err
		}
		if !chosen {
			w.ID = freeID(v, w.Nonce)
		}
		registered, err = s.store.Register(ctx, w, leaseTTL, now)
		if errors.Is(err, store.ErrTaken) && !chosen { // another one was given it meanwhile
			continue
		}
		return registered, v, err
	}
}

// freeID is the first number that no worker of the run has had, and that is not one of those the launcher starts; for a
// process that is registered already, its own.
func freeID(v store.View, nonce []byte) string {
	for id, w := range v.Registrations {
		if bytes.Equal(w.Nonce, nonce) {
			return id
		}
	}
	for i := local(v.Run); ; i++ {
		id := fmt.Sprint(i)
		_, had := v.Registrations[id]
		if _, launched := v.Processes[id]; !had && !launched {
			return id
		}
	}
}

// validID keeps worker ids fit for file names and etcd keys.
func validID(id string) error {
	if id == "" || len(id) > 63 || id[0] == '.' || strings.Trim(id, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") != "" {
		return fmt.Errorf("worker id %q: want 1 to 63 letters, digits, '.', '_' and '-', not starting with '.'", id)
	}
	return nil
}

func (s *server) Renew(ctx context.Context, r *zerofleetv1.RenewRequest) (*zerofleetv1.RenewResponse, error) {
	of, now := life{r.GetWorker().GetId(), r.GetWorker().GetIncarnation()}, time.Now()
	s.suspects.hears(of, now)
	if err := s.store.Renew(ctx, of.id, of.incarnation, leaseTTL); err != nil {
		return nil, err
	}
	s.board.stalled(of, membership.StallFromProto(r.GetStall(), now))
	return &zerofleetv1.RenewResponse{}, nil
}

// caller is the registration of who calls; a fenced one is refused.
func (s *server) caller(ctx context.Context, w *zerofleetv1.Identity) (store.Worker, error) {
	s.suspects.hears(life{w.GetId(), w.GetIncarnation()}, time.Now())
	return s.store.Registered(ctx, w.GetId(), w.GetIncarnation())
}

func (s *server) Watch(r *zerofleetv1.WatchRequest, stream grpc.ServerStreamingServer[zerofleetv1.WatchResponse]) error {
	if err := validID(r.GetWorker().GetId()); err != nil {
		return status.Error(codes.InvalidArgument, err.Error())
	}
	if err := s.recall.hear(stream.Context(), r.GetWorker(), r.GetKnown()); err != nil {
		return err
	}
	if _, err := s.caller(stream.Context(), r.GetWorker()); err != nil {
		return err
	}
	if err := s.retold(stream.Context(), r.GetWorker(), r.GetKnown()); err != nil {
		return err
	}
	w, leave := s.watchers.enter(r.GetWorker().GetId(), stream)
	defer leave()
	return s.store.Signals(stream.Context(), func(change store.Signal) error {
		out := &zerofleetv1.WatchResponse{}
		switch {
		case change.Generation != nil:
			out.Change = &zerofleetv1.WatchResponse_Generation{Generation: change.Generation.Proto()}
		case change.Instruction != nil:
			out.Change = &zerofleetv1.WatchResponse_Instruction{Instruction: change.Instruction.Proto()}
		case change.Mark != nil:
			out.Change = &zerofleetv1.WatchResponse_Mark{Mark: change.Mark.Proto()}
		case change.Ended != nil:
			out.Change = &zerofleetv1.WatchResponse_Ended{Ended: &zerofleetv1.Ended{State: change.Ended.State, Message: change.Ended.Message}}
		}
		_, err := w.send(out)
		return err
	})
}

func (s *server) Promise(ctx context.Context, r *zerofleetv1.PromiseRequest) (*zerofleetv1.PromiseResponse, error) {
	w, err := s.caller(ctx, r.GetWorker())
	if err != nil {
		return nil, err
	}
	p := membership.Promise{Incarnation: w.Incarnation, Generation: r.GetGeneration(), OpenLeaves: int(r.GetOpenLeaves()), Why: r.GetWhy()}
	for _, h := range r.GetHeld() {
		p.Held = append(p.Held, membership.HeldFromProto(h))
	}
	return &zerofleetv1.PromiseResponse{}, s.store.PutPromise(ctx, w.ID, p)
}

func (s *server) Drain(ctx context.Context, r *zerofleetv1.DrainRequest) (*zerofleetv1.DrainResponse, error) {
	w, err := s.caller(ctx, r.GetWorker())
	if err != nil {
		return nil, err
	}
	d := membership.Drain{Incarnation: w.Incarnation, Deadline: time.Now().Add(time.Duration(r.GetRemainingNanos())), Why: r.GetWhy()}
	if err := s.store.PutDrain(ctx, w.ID, d); err != nil {
		return nil, err
	}
	s.record.event("draining", fmt.Sprintf("worker %s drains: its machine goes at %s", w.ID, d.Deadline.Format(time.RFC3339)), d.Why,
		map[string]string{"worker": w.ID, "deadline": d.Deadline.Format(time.RFC3339Nano)})
	return &zerofleetv1.DrainResponse{}, nil
}

func (s *server) Suspect(ctx context.Context, r *zerofleetv1.SuspectRequest) (*zerofleetv1.SuspectResponse, error) {
	w, err := s.caller(ctx, r.GetWorker())
	if err != nil {
		return nil, err
	}
	found := probe.Result{Finding: probe.Finding(r.GetEvidence()), Detail: r.GetDetail()}
	if found.Finding != probe.Refused && found.Finding != probe.Silent && found.Finding != probe.Unreachable {
		return nil, status.Errorf(codes.InvalidArgument, "worker %s accuses worker %s without evidence", w.ID, r.GetSuspect().GetId())
	}
	now := time.Now()
	removed, why, err := s.hear(ctx, r.GetGeneration(), life{r.GetSuspect().GetId(), r.GetSuspect().GetIncarnation()},
		accusation{by: life{w.ID, w.Incarnation}, found: found, since: now.Add(-time.Duration(r.GetSinceMillis()) * time.Millisecond), at: now})
	return &zerofleetv1.SuspectResponse{Removed: removed, Why: why}, err
}

func (s *server) Settle(ctx context.Context, r *zerofleetv1.SettleRequest) (*zerofleetv1.SettleResponse, error) {
	w, err := s.caller(ctx, r.GetWorker())
	if err != nil {
		return nil, err
	}
	return &zerofleetv1.SettleResponse{}, s.store.PutShare(ctx, w.ID, store.Share{Incarnation: w.Incarnation, Generation: r.GetGeneration(),
		ReceivedBytes: r.GetReceivedBytes(), RestoredBytes: r.GetRestoredBytes()})
}

func (s *server) Report(ctx context.Context, r *zerofleetv1.ReportRequest) (*zerofleetv1.ReportResponse, error) {
	w, err := s.caller(ctx, r.GetWorker())
	if err != nil {
		return nil, err
	}
	acknowledged, err := s.record.take(life{w.ID, w.Incarnation}, r.GetEntries())
	if err != nil {
		return nil, err
	}
	for _, e := range r.GetEntries() {
		if l := e.GetStep(); l != nil {
			s.board.stepped(life{w.ID, w.Incarnation}, l)
		}
		if st := e.GetState(); st != nil {
			if err := s.state(ctx, w, st); err != nil {
				return nil, err
			}
		}
	}
	return &zerofleetv1.ReportResponse{Acknowledged: acknowledged}, nil
}

// state keeps what a worker is doing: in etcd when its phase changes, since a coordinator decides from that; the step it
// is at only on the board.
func (s *server) state(ctx context.Context, w store.Worker, told *zerofleetv1.WorkerState) error {
	now, changed := s.board.put(w.ID, w.Incarnation, told)
	if !changed {
		return nil
	}
	return s.store.PutState(ctx, w.ID, now)
}

func (s *server) StoreFingerprint(ctx context.Context, r *zerofleetv1.StoreFingerprintRequest) (*zerofleetv1.StoreFingerprintResponse, error) {
	w, err := s.caller(ctx, r.GetWorker())
	if err != nil {
		return nil, err
	}
	if r.GetFingerprint() == "" {
		return nil, status.Errorf(codes.InvalidArgument, "worker %s announced no fingerprint", w.ID)
	}
	generation, _, err := s.store.Generation(ctx)
	if err != nil {
		return nil, err
	}
	rank, _ := generation.Rank(w.ID, w.Incarnation)
	var reference store.Fingerprint
	if rank == 0 {
		reference, err = s.store.OfferFingerprint(ctx, store.Fingerprint{Value: r.GetFingerprint(), Worker: w.ID})
	} else {
		reference, err = s.store.AwaitFingerprint(ctx)
	}
	if err != nil {
		return nil, err
	}
	matches := reference.Value == r.GetFingerprint()
	if !matches {
		s.record.event("fingerprint_differs", fmt.Sprintf("worker %s computes other bits than %s", w.ID, reference.Worker),
			fmt.Sprintf("its kernels' fingerprint is %s, the job's is %s", r.GetFingerprint(), reference.Value),
			map[string]string{"worker": w.ID, "host": w.Host})
	}
	return &zerofleetv1.StoreFingerprintResponse{Reference: reference.Value, ReferenceWorker: reference.Worker, Matches: matches}, nil
}

func (s *server) CommitManifest(ctx context.Context, r *zerofleetv1.CommitManifestRequest) (*zerofleetv1.CommitManifestResponse, error) {
	w, err := s.caller(ctx, r.GetWorker())
	if err != nil {
		return nil, err
	}
	m, err := checkpoint.Decode(r.GetManifest())
	if err != nil {
		return nil, status.Errorf(codes.InvalidArgument, "commit manifest of step %d from worker %s: %v", r.GetStep(), w.ID, err)
	}
	if m.Step != int64(r.GetStep()) || m.Generation != r.GetGeneration() {
		return nil, status.Errorf(codes.InvalidArgument, "commit manifest from worker %s: it is of step %d and generation %d, the request of %d and %d",
			w.ID, m.Step, m.Generation, r.GetStep(), r.GetGeneration())
	}
	committed, why, err := s.store.CommitManifest(ctx, store.Manifest{Step: r.GetStep(), Generation: r.GetGeneration(), Bytes: r.GetManifest()})
	if err != nil {
		return nil, err
	}
	if !committed {
		s.record.event("checkpoint_refused", fmt.Sprintf("checkpoint of step %d refused", r.GetStep()), why, map[string]string{"worker": w.ID})
		return &zerofleetv1.CommitManifestResponse{Why: why}, nil
	}
	kept, news, err := keepManifest(ctx, s.store, s.checkpoints)
	if err != nil { // not of etcd's troubles, which pass by themselves
		return nil, status.Error(codes.Internal, err.Error())
	}
	if news {
		s.record.event("checkpoint", fmt.Sprintf("checkpoint of step %d committed", kept.Step), "",
			map[string]string{"step": fmt.Sprint(kept.Step), "generation": fmt.Sprint(kept.Generation), "worker": w.ID})
	}
	return &zerofleetv1.CommitManifestResponse{Committed: true}, nil
}

// keepManifest writes the newest committed manifest into the checkpoint store, so that the store alone is enough. news says
// that it was not known to be there.
func keepManifest(ctx context.Context, s *store.Store, to checkpoint.Store) (m store.Manifest, news bool, err error) {
	m, at, err := s.Manifest(ctx)
	if err != nil || at == 0 || m.Stored == m.Step {
		return m, false, err
	}
	if _, err := checkpoint.PutManifest(ctx, to, m.Bytes); err != nil {
		return m, false, err
	}
	news, err = s.ManifestStored(ctx, m.Step)
	return m, news, err
}

func (s *server) Finished(ctx context.Context, r *zerofleetv1.FinishedRequest) (*zerofleetv1.FinishedResponse, error) {
	w, err := s.caller(ctx, r.GetWorker())
	if err != nil {
		return nil, err
	}
	if r.GetOutcome() == zerofleetv1.Outcome_OUTCOME_UNSPECIFIED {
		return &zerofleetv1.FinishedResponse{}, s.store.Remove(ctx, w)
	}
	err = s.store.PutFinished(ctx, w.ID, store.Finished{
		Incarnation: w.Incarnation, Outcome: r.GetOutcome(), Step: r.GetStep(), Message: r.GetMessage(), Time: time.Now(),
	})
	return &zerofleetv1.FinishedResponse{}, err
}

func (s *server) Ask(ctx context.Context, r *zerofleetv1.AskRequest) (*zerofleetv1.AskResponse, error) {
	a := ask{kind: membership.InstructionKind(r.GetKind()), max: int(r.GetMax()), suspend: r.GetSuspend(), resume: r.GetResume(), done: make(chan error, 1)}
	if a.max == 0 && !a.suspend && !a.resume && a.kind != membership.Checkpoint && a.kind != membership.Stop {
		return nil, status.Errorf(codes.InvalidArgument, "instruction %s: want checkpoint or stop", a.kind)
	}
	select {
	case s.asks <- a:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	select {
	case err := <-a.done:
		if err != nil {
			return nil, status.Error(codes.InvalidArgument, err.Error())
		}
		return &zerofleetv1.AskResponse{}, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (s *server) Status(ctx context.Context, _ *zerofleetv1.StatusRequest) (*zerofleetv1.StatusResponse, error) {
	v, err := s.store.View(ctx)
	if err != nil {
		return nil, err
	}
	return s.status(v), nil
}
