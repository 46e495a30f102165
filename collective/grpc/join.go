package grpc

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/zerofleet/zerofleet/collective"
	"github.com/zerofleet/zerofleet/collective/internal/engine"
	"github.com/zerofleet/zerofleet/collective/shm"
	"github.com/zerofleet/zerofleet/kernels"
)

// DefaultBudget is the receive budget of a rank, in bytes.
const DefaultBudget = 256 << 20

// DefaultDeadline is how long an operation may be without progress.
const DefaultDeadline = time.Minute

// Peer is one member of a generation.
type Peer struct {
	ID   string // worker id
	Addr string // host:port of its Endpoint
	// Name is what its certificate says, as common name or DNS name. "" means ID; workers that share the key pair of
	// a job's workers have the name of that role.
	Name string
	// Host names its machine: ranks of one have one name. "" in any peer: nobody asks where the others are.
	Host string
}

func (p Peer) certificateName() string {
	if p.Name == "" {
		return p.ID
	}
	return p.Name
}

// Config says which generation to join, and as whom.
type Config struct {
	Job        string
	Generation uint64
	Rank       int
	// Peers are all members in rank order, this one included.
	Peers []Peer
	// Budget is how many bytes this rank holds at most that were received and not yet
	// folded; 0 means DefaultBudget. What gRPC has in its stream windows while an
	// all-gather's bytes are copied into place comes on top, 4 MiB a peer at most.
	Budget int64
	// Deadline is how long an operation may be without progress; 0 means DefaultDeadline.
	Deadline time.Duration
	// Checksum covers tensors with checksums; all ranks must say the same. What peers read in this rank's memory has none.
	Checksum bool
	// AnyOrder lets reduce-scatters add what arrives in any order: the result's bits then differ from time to time. With Fold
	// they may also be given the sum of several ranks' terms at once.
	AnyOrder bool
	// Fold adds terms of a type, element by element: what is summed outside of an Accumulator. nil: slowly.
	Fold func(acc []float32, src []byte, t kernels.DType) error
	// Transport is what carries tensors and what announces them; "" means Auto. gRPC always carries the handshake.
	Transport Transport
	// ClientTLS has this worker's certificate and, as RootCAs, the job's authority. It must
	// be set exactly when Options.TLS was.
	ClientTLS *tls.Config
}

// Transport is what carries frames.
type Transport string

// The transports. A link takes the first of its list that both its ends can use.
const (
	Auto   Transport = "auto"  // as SHM
	SHM    Transport = "shm"   // memory that both map, on one host; then lanes, then gRPC
	Lanes  Transport = "lanes" // connections of their own; then gRPC
	Stream Transport = "grpc"  // gRPC streams
)

// carriers are what a link may be carried by, the best first, before gRPC.
func (t Transport) carriers() ([]string, error) {
	switch t {
	case "", Auto, SHM:
		return []string{string(SHM), string(Lanes)}, nil
	case Lanes:
		return []string{string(Lanes)}, nil
	case Stream:
		return nil, nil
	}
	return nil, fmt.Errorf("transport %q: want auto, shm, lanes or grpc", string(t))
}

// Validate reports all faults at once.
func (c Config) Validate() error {
	var errs []error
	if _, err := c.Transport.carriers(); err != nil {
		errs = append(errs, err)
	}
	if c.Job == "" {
		errs = append(errs, errors.New("job: empty"))
	}
	if c.Rank < 0 || c.Rank >= len(c.Peers) {
		errs = append(errs, fmt.Errorf("rank: %d of %d peers: want a rank below their number", c.Rank, len(c.Peers)))
	}
	seen := map[string]int{}
	for r, p := range c.Peers {
		if p.ID == "" || p.Addr == "" && r != c.Rank {
			errs = append(errs, fmt.Errorf("peers[%d]: id %q, address %q: want both", r, p.ID, p.Addr))
		}
		if q, ok := seen[p.ID]; ok {
			errs = append(errs, fmt.Errorf("peers[%d]: id %q is rank %d's too", r, p.ID, q))
		}
		seen[p.ID] = r
	}
	return errors.Join(errs...)
}

// membership is a generation being joined, or joined.
type membership struct {
	cfg    Config
	ep     *Endpoint
	engine *engine.Engine
	loan   *shm.Loan // nil: no memory is shared

	mu     sync.Mutex
	links  []*link  // by rank; nil where there is none yet
	why    []string // by rank: why there is none yet
	closed bool
	ready  chan struct{} // a link was completed; holds one token
}

// Join enters a generation: it connects to every peer and is connected to by them, trying
// again until ctx ends, and returns the Group. It ends the Group of any older generation
// with ErrFenced. ctx bounds joining alone.
//
// Errors: ErrFenced when this rank or a peer knows a newer generation; a *PeerError when a
// peer refuses or was lost; else an error that names every rank that is missing, and why.
func (ep *Endpoint) Join(ctx context.Context, c Config) (collective.Group, error) {
	fail := func(err error) (collective.Group, error) {
		return nil, fmt.Errorf("join generation %d of job %s as rank %d: %w", c.Generation, c.Job, c.Rank, err)
	}
	if err := c.Validate(); err != nil {
		return fail(err)
	}
	if (c.ClientTLS != nil) != ep.tls {
		return fail(errors.New("tls: this rank listens with it and calls without, or the reverse"))
	}
	if c.Budget == 0 {
		c.Budget = DefaultBudget
	}
	if c.Deadline == 0 {
		c.Deadline = DefaultDeadline
	}
	ids, hosts := make([]string, len(c.Peers)), make([]string, len(c.Peers))
	for r, p := range c.Peers {
		ids[r] = p.ID
		if hosts != nil {
			hosts[r] = p.Host
		}
		if p.Host == "" {
			hosts = nil
		}
	}
	m := &membership{cfg: c, ep: ep, links: make([]*link, len(c.Peers)), why: make([]string, len(c.Peers)), ready: make(chan struct{}, 1)}
	cfg := engine.Config{
		Job: c.Job, Generation: c.Generation, Rank: c.Rank, IDs: ids,
		Budget: c.Budget, Deadline: c.Deadline, Checksum: c.Checksum, AnyOrder: c.AnyOrder, Fold: c.Fold, Hosts: hosts, Logger: ep.log,
	}
	if m.loan = ep.lend(c); m.loan != nil {
		cfg.Revoke = m.loan.Revoke
	}
	var err error
	if m.engine, err = engine.New(cfg); err != nil {
		return fail(errors.Join(err, m.unlend()))
	}
	for r := range m.why {
		m.why[r] = "it has not called"
	}
	if err := ep.enter(m); err != nil {
		_ = m.close()
		return fail(err)
	}
	if err := m.connect(ctx); err != nil {
		_ = m.close()
		return fail(err)
	}
	m.start()
	return &group{m.engine, m}, nil
}

// group is a membership as its rank sees it.
type group struct {
	*engine.Engine
	m *membership
}

// Share is collective.Group's.
func (g *group) Share(b []byte, fd int) error {
	if g.m.loan == nil {
		return nil
	}
	return g.m.loan.Share(b, fd)
}

// Close is collective.Group's.
func (g *group) Close() error { return g.m.close() }

// Stats is collective.Group's.
func (g *group) Stats() collective.Stats {
	s := g.Engine.Stats()
	for r, l := range g.m.links {
		if l != nil {
			s.Peers[r].Transport = l.transport()
			s.Peers[r].SocketBytesSent, s.Peers[r].SocketBytesReceived = l.socketBytes()
		}
	}
	return s
}

// connect calls the ranks above, and waits until all links are complete.
func (m *membership) connect(ctx context.Context) error {
	calls, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	fatal := make(chan error, len(m.cfg.Peers))
	for r := m.cfg.Rank + 1; r < len(m.cfg.Peers); r++ {
		wg.Go(func() {
			if err := m.call(calls, r); err != nil {
				fatal <- err
			}
		})
	}
	for {
		missing := m.missing()
		if missing == nil {
			return nil
		}
		select {
		case <-m.ready:
		case err := <-fatal:
			if ctx.Err() == nil {
				return err
			}
		case <-m.engine.Over():
			return m.engine.Err()
		case <-ctx.Done():
			return fmt.Errorf("%s: %w", strings.Join(m.missing(), "; "), context.Cause(ctx))
		}
	}
}

// missing says for each rank without a complete link why that is; nil for none.
func (m *membership) missing() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []string
	for r, p := range m.cfg.Peers {
		if r != m.cfg.Rank && (m.links[r] == nil || !m.links[r].complete()) {
			out = append(out, fmt.Sprintf("rank %d (%s) at %s is missing: %s", r, p.ID, p.Addr, m.why[r]))
		}
	}
	return out
}

// start gives the engine its links.
func (m *membership) start() {
	m.mu.Lock()
	defer m.mu.Unlock()
	links := make([]engine.Link, len(m.links))
	by := map[string]int{}
	for r, l := range m.links {
		if l != nil {
			links[r] = l.carrier()
			by[l.transport()]++
		}
	}
	m.ep.log.Info("collective group formed", "generation", m.cfg.Generation, "rank", m.cfg.Rank, "peers_by_transport", by)
	m.engine.Start(links)
}

// close ends the engine and every link.
func (m *membership) close() error {
	err := m.engine.Close()
	m.mu.Lock()
	m.closed = true
	links := m.links
	m.mu.Unlock()
	for _, l := range links {
		if l != nil {
			l.carrier().Close()
			m.ep.withdraw(l)
		}
	}
	return errors.Join(err, m.unlend())
}

// unlend ends what this rank lends and has been lent. Nothing uses it any more.
func (m *membership) unlend() error {
	if m.loan == nil {
		return nil
	}
	return m.loan.Close()
}

// link finds or makes the link to a peer that a stream belongs to.
func (m *membership) link(peer int, make func() *link) (*link, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return nil, errEndpointClosed
	}
	if m.links[peer] == nil {
		m.links[peer] = make()
	}
	return m.links[peer], nil
}

// completed notes that a link may be complete.
func (m *membership) completed() {
	select {
	case m.ready <- struct{}{}:
	default:
	}
}

func (m *membership) blame(peer int, why error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.why[peer] = why.Error()
}

func (m *membership) peerError(r int, cause error) error {
	return &collective.PeerError{Rank: r, ID: m.cfg.Peers[r].ID, Err: cause}
}
