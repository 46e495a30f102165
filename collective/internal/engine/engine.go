// Package engine is a Group over links: ordered, framed connections to the other ranks. It
// knows sequence numbers, credits, the fold's order, deadlines and failures; a transport
// knows sockets. New makes an Engine, Deliver and Lost feed it, Start gives it the links.
//
// # An operation
//
// A rank that begins an operation announces it to its peers with a Post frame, on their
// control streams. A rank sends an operation's data, in chunks on the bulk stream, only to
// peers whose Post it has seen, so data never arrives before its buffer is there; what a
// reduce-scatter buffers is granted chunk by chunk on top (fold.go). Records and small
// all-reduces travel inside the Post: one hop. An operation ends when every rank's Post has
// arrived, all data is in place and nothing of the caller's memory is in use any more.
//
// # Locking
//
// mu guards everything. Code that touches a caller's memory does so without mu but with the
// operation's busy count raised, which keeps it from ending. Only settle may drop mu, and only
// to run the last part of an operation: callers look at their state again after it.
package engine

import (
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/zerofleet/zerofleet/collective"
	"github.com/zerofleet/zerofleet/collective/internal/frame"
	"github.com/zerofleet/zerofleet/kernels"
	pb "github.com/zerofleet/zerofleet/proto/zerofleet/v1"
)

const (
	// maxInFlight bounds the operations that one rank may have in flight, and with them what
	// peers must remember of them.
	maxInFlight = 1024
	// eagerBytes is the longest all-reduce that travels inside Posts. Exchanges always may.
	eagerBytes = 64 << 10
	// linger is how long a leaving rank waits for peers to acknowledge that they know.
	linger = time.Second
	// minPeerBudget is the least receive budget per peer.
	minPeerBudget = 16 << 10
)

// Config says who this rank is.
type Config struct {
	Job        string
	Generation uint64
	Rank       int
	IDs        []string      // worker ids in rank order; their number is the world size
	Budget     int64         // bytes received but not folded that this rank may hold
	Deadline   time.Duration // without progress, an operation fails
	Checksum   bool          // tensors are covered by checksums
	AnyOrder   bool          // reduce-scatters add what arrives, in no order: other bits each time, and nobody waited for in turn
	// Hosts names each rank's host, the same at every rank: large gathers send each part once to a host. nil: each to each.
	Hosts []string
	// Fold adds terms of a type: those of a long all-reduce, and in large reductions in no order a host's before they are sent. nil:
	// the engine adds f32 itself, and reductions go each to each.
	Fold func(acc []float32, src []byte, t kernels.DType) error
	// Revoke is called when the Group has ended, before callers have their memory back: what was lent is not to be read any
	// more. nil for nothing. It must not block.
	Revoke func()
	Logger *slog.Logger
}

// Validate reports all faults at once.
func (c Config) Validate() error {
	var errs []error
	w := len(c.IDs)
	if w == 0 || c.Rank < 0 || c.Rank >= w {
		errs = append(errs, fmt.Errorf("rank %d of %d: want a rank below the world size", c.Rank, w))
	}
	if want := int64(w-1) * minPeerBudget; c.Budget < want {
		errs = append(errs, fmt.Errorf("receive budget of %d bytes: want at least %d for %d peers", c.Budget, want, w-1))
	}
	if c.Hosts != nil && len(c.Hosts) != w {
		errs = append(errs, fmt.Errorf("%d hosts of %d ranks", len(c.Hosts), w))
	}
	if c.Deadline <= 0 {
		errs = append(errs, fmt.Errorf("deadline %s: want more than 0", c.Deadline))
	}
	if c.Generation == 0 {
		errs = append(errs, errors.New("generation 0: they count from 1"))
	}
	return errors.Join(errs...)
}

// Link is a connection to one peer: a control and a bulk stream, each ordered, neither
// waiting for the other.
type Link interface {
	// Send hands a frame over. It blocks while the peer does not read, and returns an error
	// once the link is closed or broken. f and what it refers to may be reused afterwards.
	Send(bulk bool, f *frame.Outgoing) error
	// ChunkBytes is the longest data part that the peer takes.
	ChunkBytes() int
	// Lends reports whether the peer can read b where it is.
	Lends(b []byte) bool
	// Fresh reports whether what the peer has lent still is what it lent.
	Fresh() bool
	// Close breaks both streams, without delay, and waits until nothing of the link runs.
	Close()
}

// Engine is one rank's Group.
type Engine struct {
	cfg        Config
	rank, size int
	job        uint64
	chunkBytes int     // longest data part this rank takes
	foldBudget int64   // bytes that reduce-scatters may have granted and not folded
	eagerLimit int     // bytes of eager data towards one peer for operations that it has not begun
	levels     *levels // nil: gathers are direct
	log        *slog.Logger
	recorder   collective.Recorder
	wg         sync.WaitGroup // every goroutine of the engine
	over       chan struct{}  // closed when the engine has failed or closes
	urgent     atomic.Int64   // records and small all-reduces in flight

	mu      sync.Mutex
	started bool
	err     error                  // why the group ended, nil while it works
	leave   *pb.CollectiveLeave    // what peers are told of it; set with err
	final   *collective.StallError // what was stalled when the group ended, nil for nothing
	peers   []*peer
	next    map[order]uint64 // last sequence number assigned
	moved   map[order]time.Time
	ops     map[key]*op
	early   map[key]*early
	folds   []*op     // reduce-scatters in call order, until folded
	foldC   sync.Cond // something to fold, or over
	stats   collective.Stats
}

// peer is what a rank knows of another one.
type peer struct {
	rank int
	id   string
	link Link

	control  []queued // to be sent, in order
	writing  bool     // somebody writes to the control stream
	controlC sync.Cond
	jobs     []*job // data to be sent, in the order of their operations
	bulkC    sync.Cond
	beating  bool // a heartbeat waits in control

	earlyPosts  int // Posts of it for operations that this rank has not begun
	earlyBytes  int // data inside them
	eagerAhead  int // eager data sent to it for operations that it has not begun
	leftControl bool
	leftBulk    bool
	gone        bool // it left: nothing more is to be expected of it
	lost        bool // its control stream ended
	acked       bool // it has seen this rank leave
	hungUp      bool // the link is closed
	bulkErr     error
	bulkLost    time.Time
	settled     chan struct{} // closed when lost, or when both sides know that the other leaves
	last        lastOp
	heard       time.Time
	stats       collective.PeerStats
}

// New makes the Engine of a rank. It takes frames at once, but sends none before Start.
func New(cfg Config) (*Engine, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("collective of job %s: %w", cfg.Job, err)
	}
	e := &Engine{
		cfg: cfg, rank: cfg.Rank, size: len(cfg.IDs), job: frame.JobHash(cfg.Job), log: cfg.Logger,
		next: map[order]uint64{}, moved: map[order]time.Time{}, ops: map[key]*op{}, early: map[key]*early{},
		over: make(chan struct{}),
	}
	if e.log == nil {
		e.log = slog.New(slog.DiscardHandler)
	}
	if cfg.Hosts != nil {
		e.levels = newLevels(cfg.Hosts, cfg.Rank)
	}
	e.chunkBytes, e.eagerLimit, e.foldBudget = divide(cfg.Budget, e.size-1)
	e.foldC.L = &e.mu
	now := time.Now()
	for r, id := range cfg.IDs {
		p := &peer{rank: r, id: id, settled: make(chan struct{}), heard: now}
		p.controlC.L, p.bulkC.L = &e.mu, &e.mu
		e.peers = append(e.peers, p)
	}
	e.wg.Add(2)
	go e.fold()
	go e.watch()
	return e, nil
}

// divide cuts a receive budget for so many peers: eager data gets an eighth, the fold the
// rest, in chunks small enough that each peer can have two granted.
func divide(budget int64, peers int) (chunkBytes, eagerLimit int, foldBudget int64) {
	if peers == 0 {
		return frame.MaxDataBytes, 0, budget
	}
	eagerLimit = int(min(budget/int64(8*peers), 256<<10))
	foldBudget = budget - int64(peers*eagerLimit)
	chunkBytes = frame.MaxDataBytes
	for int64(chunkBytes) > foldBudget/int64(2*peers) {
		chunkBytes /= 2
	}
	return chunkBytes, eagerLimit, foldBudget
}

// ChunkBytes is the longest data part this rank takes in one frame, a power of two.
func (e *Engine) ChunkBytes() int { return e.chunkBytes }

// Start gives the Engine its links, by rank, nil at its own, and begins to send. An Engine
// that ended before closes them.
func (e *Engine) Start(links []Link) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.started = true
	for r, p := range e.peers {
		if r == e.rank {
			continue
		}
		p.link = links[r]
		e.wg.Add(3)
		go e.sendControl(p)
		go e.sendBulk(p)
		go e.hangUp(p)
	}
}

// Urgent reports whether an operation is in flight whose time is that of its messages: records, small all-reduces.
func (e *Engine) Urgent() bool { return e.urgent.Load() > 0 }

// Over is closed when the Group has ended.
func (e *Engine) Over() <-chan struct{} { return e.over }

// Err is why the Group ended, nil while it works.
func (e *Engine) Err() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.err
}

// Rank is this rank.
func (e *Engine) Rank() int { return e.rank }

// Size is the world size.
func (e *Engine) Size() int { return e.size }

// Generation is the membership's number.
func (e *Engine) Generation() uint64 { return e.cfg.Generation }

// Records is a copy of the flight recorder.
func (e *Engine) Records() []collective.Record { return e.recorder.Records() }

// Last is the flight recorder's newest.
func (e *Engine) Last() (collective.Record, bool) { return e.recorder.Last() }

// Stats is a copy of the counters.
func (e *Engine) Stats() collective.Stats {
	e.mu.Lock()
	defer e.mu.Unlock()
	s := e.stats
	s.Peers = make([]collective.PeerStats, e.size)
	for r, p := range e.peers {
		s.Peers[r] = p.stats
	}
	return s
}

// Close leaves the Group: peers get what was completed, pending operations end with
// ErrClosed, every goroutine and link ends.
func (e *Engine) Close() error {
	e.mu.Lock()
	e.end(collective.ErrClosed, leaveInOrder())
	e.mu.Unlock()
	e.wg.Wait()
	return nil
}
