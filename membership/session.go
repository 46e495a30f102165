package membership

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/zerofleet/zerofleet/membership/probe"
	zerofleetv1 "github.com/zerofleet/zerofleet/proto/zerofleet/v1"
)

// Registration is what a worker says of itself.
type Registration struct {
	ID      string // the worker's, the same over its incarnations; "": the coordinator chooses one
	Addr    string // host:port of its collective endpoint, already listening
	Host    string
	Device  string
	PID     int
	Threads int
	Gossip  string // host:port of its failure detector, already listening
	// Disturb is told when somebody disturbs this worker's network on purpose. It must not wait. nil: nobody can.
	Disturb func(Disturbance)
}

// Disturbance is what a worker's network suffers on purpose, for a while from now.
type Disturbance struct {
	Partition bool // nothing passes; otherwise what is sent passes slowly
	For       time.Duration
	Rate      float64 // bytes a second, where it is slow
}

// Session is one incarnation of a worker. It renews its lease and delivers reports in goroutines of its own until Close.
// Its methods may be called by several goroutines.
type Session struct {
	client                     *Client
	id                         *zerofleetv1.Identity
	lease                      time.Duration
	gossip                     Gossip
	fingerprint, fingerprintOf string // the job's, at the registration
	reports                    *queue
	disturb                    func(Disturbance) // nil: nobody can
	stop                       context.CancelFunc
	goroutines                 sync.WaitGroup
	done                       chan struct{} // closed when err is set
	mu                         sync.Mutex
	generation                 Generation // newest seen; Number 0: none yet
	instruction                Instruction
	mark                       Mark
	memory                     memory
	changed                    chan struct{} // closed, and replaced, when generation or mark changes
	err                        error
	stall                      *Stall        // told with each renewal; nil: none
	renewNow                   chan struct{} // holds one token when a renewal is not to wait for its time
}

// Register makes this process the living incarnation of worker r.ID. It waits for the coordinator until ctx ends, and
// fails when another living process has the id.
func (c *Client) Register(ctx context.Context, r Registration) (*Session, error) {
	nonce := make([]byte, 16)
	if _, err := rand.Read(nonce); err != nil {
		return nil, fmt.Errorf("register worker %s: %w", r.ID, err)
	}
	var reply *zerofleetv1.RegisterResponse
	request := &zerofleetv1.RegisterRequest{
		Id: r.ID, Addr: r.Addr, Host: r.Host, Device: r.Device,
		Pid: int64(r.PID), Threads: int32(r.Threads), Nonce: nonce, GossipAddr: r.Gossip,
	}
	err := c.call(ctx, callTimeout, func(ctx context.Context, s zerofleetv1.ControlClient) (err error) {
		reply, err = s.Register(ctx, request)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("register worker %s: %w", r.ID, err)
	}
	r.ID = reply.GetId()
	lease := time.Duration(reply.GetLeaseSeconds()) * time.Second
	if lease <= 0 {
		return nil, fmt.Errorf("register worker %s: coordinator gave a lease of %s, want more than 0", r.ID, lease)
	}
	// The session outlives the call that made it: it ends with Close.
	run, stop := context.WithCancel(context.WithoutCancel(ctx))
	s := &Session{
		client: c, id: &zerofleetv1.Identity{Id: reply.GetId(), Incarnation: reply.GetIncarnation()}, lease: lease,
		gossip:  Gossip{Key: reply.GetGossipKey(), Seeds: reply.GetGossipSeeds()},
		reports: newQueue(), disturb: r.Disturb, stop: stop, done: make(chan struct{}), changed: make(chan struct{}),
		fingerprint: reply.GetFingerprint(), fingerprintOf: reply.GetFingerprintWorker(),
		memory: newMemory(request), renewNow: make(chan struct{}, 1),
	}
	s.goroutines.Go(func() { s.renew(run) })
	s.goroutines.Go(func() { s.watch(run) })
	s.goroutines.Go(func() { s.deliver(run) })
	return s, nil
}

// ID is the worker's id, Incarnation which life of it this is.
func (s *Session) ID() string          { return s.id.GetId() }
func (s *Session) Incarnation() uint64 { return s.id.GetIncarnation() }

// Fingerprint is what the job's kernels computed when the worker registered, and the worker that announced it; "": nobody had.
func (s *Session) Fingerprint() (fingerprint, worker string) { return s.fingerprint, s.fingerprintOf }

// Gossip is what a worker's failure detector needs to take part.
type Gossip struct {
	Key   []byte
	Seeds []string // host:port of those that live
}

// Gossip is what the coordinator handed out at the registration.
func (s *Session) Gossip() Gossip { return s.gossip }

// Done is closed when the session has ended: Err says why.
func (s *Session) Done() <-chan struct{} { return s.done }

// Err is nil while the session lives, then ErrFenced, ErrClosed or what the coordinator refused it with.
func (s *Session) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// Generation waits for a generation with a number above after and returns the newest one. It fails when the session
// ends or ctx does.
func (s *Session) Generation(ctx context.Context, after uint64) (Generation, error) {
	for {
		s.mu.Lock()
		g, changed, err := s.generation, s.changed, s.err
		s.mu.Unlock()
		switch {
		case err != nil:
			return Generation{}, err
		case g.Number > after:
			return g, nil
		}
		select {
		case <-changed:
		case <-s.done:
		case <-ctx.Done():
			return Generation{}, ctx.Err()
		}
	}
}

// Settled waits until a generation is settled. It is false when the generation is over before that.
func (s *Session) Settled(ctx context.Context, generation uint64) (bool, error) {
	for {
		s.mu.Lock()
		m, g, changed, err := s.mark, s.generation, s.changed, s.err
		s.mu.Unlock()
		switch {
		case err != nil:
			return false, err
		case m.Settled >= generation:
			return true, nil
		case m.Over >= generation || g.Number > generation:
			return false, nil
		}
		select {
		case <-changed:
		case <-s.done:
		case <-ctx.Done():
			return false, context.Cause(ctx)
		}
	}
}

// Over waits until a generation is over: the coordinator has said so, or written a newer one. It returns why in words, and
// "" when ctx or the session ends first.
func (s *Session) Over(ctx context.Context, generation uint64) string {
	for {
		s.mu.Lock()
		m, g, changed := s.mark, s.generation, s.changed
		s.mu.Unlock()
		switch {
		case m.Over >= generation:
			return m.Why
		case g.Number > generation:
			return g.Why
		}
		select {
		case <-changed:
		case <-s.done:
			return ""
		case <-ctx.Done():
			return ""
		}
	}
}

// Promise gives the coordinator this worker's word that it has closed everything of a generation, and what it holds. It
// waits for the coordinator until ctx ends.
func (s *Session) Promise(ctx context.Context, generation uint64, held []Held, openLeaves int, why string) error {
	r := &zerofleetv1.PromiseRequest{Worker: s.id, Generation: generation, OpenLeaves: uint32(openLeaves), Why: why}
	for _, h := range held {
		r.Held = append(r.Held, h.Proto())
	}
	s.remember(func(told *zerofleetv1.Known) { told.Promise = r })
	err := s.client.call(ctx, callTimeout, func(ctx context.Context, c zerofleetv1.ControlClient) error {
		_, err := c.Promise(ctx, r)
		return err
	})
	if err != nil {
		return fmt.Errorf("promise to leave generation %d: %w", generation, err)
	}
	return nil
}

// Drain tells the coordinator that this worker's machine goes, and when.
func (s *Session) Drain(ctx context.Context, deadline time.Time, why string) error {
	s.remember(func(told *zerofleetv1.Known) {
		told.Drain, s.memory.drainBy = &zerofleetv1.DrainRequest{Worker: s.id, Why: why}, deadline
	})
	err := s.client.call(ctx, callTimeout, func(ctx context.Context, c zerofleetv1.ControlClient) error {
		_, err := c.Drain(ctx, &zerofleetv1.DrainRequest{Worker: s.id, RemainingNanos: int64(time.Until(deadline)), Why: why})
		return err
	})
	if err != nil {
		return fmt.Errorf("tell the coordinator that worker %s drains: %w", s.ID(), err)
	}
	return nil
}

// Suspect tells the coordinator what this worker found when it looked after another member of its generation, and since
// when it has been looking. removed says that the coordinator, having looked too, has removed it; why is what it found.
func (s *Session) Suspect(ctx context.Context, generation uint64, m Member, found probe.Result, since time.Time) (removed bool, why string, err error) {
	var r *zerofleetv1.SuspectResponse
	err = s.client.call(ctx, callTimeout, func(ctx context.Context, c zerofleetv1.ControlClient) (err error) {
		r, err = c.Suspect(ctx, &zerofleetv1.SuspectRequest{
			Worker: s.id, Generation: generation, Suspect: &zerofleetv1.Identity{Id: m.ID, Incarnation: m.Incarnation},
			Evidence: zerofleetv1.Evidence(found.Finding), Detail: found.Detail, SinceMillis: uint32(time.Since(since).Milliseconds()),
		})
		return err
	})
	if err != nil {
		return false, "", fmt.Errorf("accuse worker %s: %w", m.ID, err)
	}
	return r.GetRemoved(), r.GetWhy(), nil
}

// Settle tells the coordinator that this worker's share of a generation's state is in place, and what came from where.
func (s *Session) Settle(ctx context.Context, generation uint64, received, restored int64) error {
	r := &zerofleetv1.SettleRequest{Worker: s.id, Generation: generation, ReceivedBytes: uint64(received), RestoredBytes: uint64(restored)}
	s.remember(func(told *zerofleetv1.Known) { told.Share = r })
	err := s.client.call(ctx, callTimeout, func(ctx context.Context, c zerofleetv1.ControlClient) error {
		_, err := c.Settle(ctx, r)
		return err
	})
	if err != nil {
		return fmt.Errorf("settle generation %d: %w", generation, err)
	}
	return nil
}

// Instruction is the newest instruction seen; the zero value if there was none. It does not wait.
func (s *Session) Instruction() Instruction {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.instruction
}

// StoreFingerprint announces what this worker's kernels compute, and returns what the job is held to: the fingerprint of
// generation 1's rank 0, and that worker's id. It waits for that worker.
func (s *Session) StoreFingerprint(ctx context.Context, generation uint64, rank int, fingerprint string) (reference, worker string, err error) {
	var r *zerofleetv1.StoreFingerprintResponse
	err = s.client.call(ctx, 0, func(ctx context.Context, c zerofleetv1.ControlClient) (err error) {
		r, err = c.StoreFingerprint(ctx, &zerofleetv1.StoreFingerprintRequest{
			Worker: s.id, Generation: generation, Rank: uint32(rank), Fingerprint: fingerprint,
		})
		return err
	})
	if err != nil {
		return "", "", fmt.Errorf("store fingerprint: %w", err)
	}
	s.remember(func(told *zerofleetv1.Known) {
		told.Fingerprint, told.FingerprintWorker = r.GetReference(), r.GetReferenceWorker()
	})
	return r.GetReference(), r.GetReferenceWorker(), nil
}

// CommitManifest makes the checkpoint of a step exist, if generation is still the job's newest and no later step is
// committed. Otherwise committed is false and why says what it lost to. It waits for the coordinator until ctx ends.
func (s *Session) CommitManifest(ctx context.Context, manifest []byte, step, generation uint64) (committed bool, why string, err error) {
	var r *zerofleetv1.CommitManifestResponse
	err = s.client.call(ctx, 0, func(ctx context.Context, c zerofleetv1.ControlClient) (err error) {
		r, err = c.CommitManifest(ctx, &zerofleetv1.CommitManifestRequest{
			Worker: s.id, Generation: generation, Step: step, Manifest: manifest,
		})
		return err
	})
	if err != nil {
		return false, "", fmt.Errorf("commit manifest of step %d: %w", step, err)
	}
	if r.GetCommitted() {
		s.remember(func(told *zerofleetv1.Known) { told.CommittedStep, told.CommittedGeneration = step, generation })
	}
	return r.GetCommitted(), r.GetWhy(), nil
}

// Finish delivers what is still unreported and tells the coordinator how this worker's part of the job ended, even if it
// refused the reports. It waits for the coordinator until ctx ends; what is undelivered then is in Unacknowledged.
func (s *Session) Finish(ctx context.Context, outcome Outcome, step uint64, message string) error {
	undelivered := s.Flush(ctx)
	if errors.Is(undelivered, ErrFenced) {
		return undelivered
	}
	err := s.client.call(ctx, callTimeout, func(ctx context.Context, c zerofleetv1.ControlClient) error {
		_, err := c.Finished(ctx, &zerofleetv1.FinishedRequest{Worker: s.id, Outcome: outcome, Step: step, Message: message})
		return err
	})
	if err != nil {
		return fmt.Errorf("tell the coordinator that worker %s has finished: %w", s.ID(), err)
	}
	if undelivered != nil {
		return fmt.Errorf("deliver reports: %w", undelivered)
	}
	return nil
}

// Leave gives up this worker's place, where a run ends or goes on without it.
func (s *Session) Leave(ctx context.Context) error {
	err := s.client.call(ctx, callTimeout, func(ctx context.Context, c zerofleetv1.ControlClient) error {
		_, err := c.Finished(ctx, &zerofleetv1.FinishedRequest{Worker: s.id})
		return err
	})
	if err != nil {
		return fmt.Errorf("give up the place of worker %s: %w", s.ID(), err)
	}
	return nil
}

// Close ends the session's goroutines and waits for them. The lease is left to expire: a worker that ends in order has
// called Finish.
func (s *Session) Close() {
	s.fail(ErrClosed)
	s.stop()
	s.goroutines.Wait()
}

// fail ends the session with err, if it has not ended.
func (s *Session) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.err = err
		close(s.done)
	}
}

// refused ends the session with err unless it only says that the session's own context has ended.
func (s *Session) refused(ctx context.Context, err error) {
	if ctx.Err() == nil && !errors.Is(err, ErrClosed) {
		s.fail(err)
	}
	s.stop()
}

func (s *Session) renew(ctx context.Context) {
	every := time.NewTicker(s.lease / 3)
	defer every.Stop()
	for {
		err := s.client.call(ctx, s.lease/3, func(ctx context.Context, c zerofleetv1.ControlClient) error {
			_, err := c.Renew(ctx, &zerofleetv1.RenewRequest{Worker: s.id, Stall: s.stalled()})
			return err
		})
		if err != nil {
			s.refused(ctx, fmt.Errorf("renew lease of worker %s: %w", s.ID(), err))
			return
		}
		select {
		case <-every.C:
		case <-s.renewNow:
		case <-ctx.Done():
			return
		}
	}
}

func (s *Session) watch(ctx context.Context) {
	for ctx.Err() == nil {
		// A stream ends when its coordinator does: the next one is told everything, asked, and tells everything again.
		err := s.client.call(ctx, 0, func(ctx context.Context, c zerofleetv1.ControlClient) error {
			stream, err := c.Watch(ctx, &zerofleetv1.WatchRequest{Worker: s.id, Known: s.known()})
			if err != nil {
				return err
			}
			s.reports.again()
			for {
				m, err := stream.Recv()
				if err != nil {
					return err
				}
				s.client.answered(true)
				s.see(m)
			}
		})
		if err != nil {
			s.refused(ctx, fmt.Errorf("watch generations: %w", err))
			return
		}
	}
}

// see takes one message of the watch. Older ones than what is known come after a reconnect and change nothing.
func (s *Session) see(m *zerofleetv1.WatchResponse) {
	if e := m.GetEnded(); e != nil {
		s.fail(fmt.Errorf("%w: %s", ErrEnded, strings.TrimSuffix(e.GetState()+": "+e.GetMessage(), ": ")))
		return
	}
	if d := m.GetDisturbance(); d != nil && s.disturb != nil {
		s.disturb(Disturbance{Partition: d.GetKind() == zerofleetv1.DisturbanceKind_DISTURBANCE_KIND_PARTITION,
			For: time.Duration(d.GetForNanos()), Rate: d.GetRate()})
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if g := m.GetGeneration(); g.GetNumber() > s.generation.Number {
		s.generation = GenerationFromProto(g)
		s.memory.seen[s.generation.Number] = s.generation
		s.announce()
	}
	if m := m.GetMark(); m.GetSettled() > s.mark.Settled || m.GetOver() > s.mark.Over {
		s.mark = Mark{Settled: max(m.GetSettled(), s.mark.Settled), Over: max(m.GetOver(), s.mark.Over), Why: m.GetWhy()}
		s.memory.forget(s.mark.Settled)
		s.announce()
	}
	if i := m.GetInstruction(); i.GetSequence() > s.instruction.Sequence {
		s.instruction = Instruction{Sequence: i.GetSequence(), Kind: InstructionKind(i.GetKind()), Why: i.GetWhy()}
	}
}

// announce wakes what waits for a generation or a mark. The caller holds mu.
func (s *Session) announce() {
	close(s.changed)
	s.changed = make(chan struct{})
}
