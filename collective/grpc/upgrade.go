package grpc

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/zerofleet/zerofleet/collective/internal/frame"
	"github.com/zerofleet/zerofleet/collective/lanes"
	"github.com/zerofleet/zerofleet/collective/shm"
	pb "github.com/zerofleet/zerofleet/proto/zerofleet/v1"
)

// How a link comes to be carried by more than gRPC. The callee's Welcome offers what it can and a token. The caller opens
// connections that show the token, on the same port, or on a socket of the host's; each is confirmed. It then says on the
// control stream what it takes, before any other frame. What fails is passed over, and told.

// token admits connections to a link.
type token [16]byte

// The uses of a connection beside gRPC.
const (
	useControl = iota
	useBulk
	useMemory // passes memory that is lent, always on a unix socket
	uses
)

// offer is what a token admits to.
type offer struct {
	m *membership
	l *link
}

// laneProtocol is what a lane asks for in TLS's protocol negotiation.
const laneProtocol = "zerofleet-lane"

// lend begins to lend memory, where the transport may and the kernel lets it.
func (ep *Endpoint) lend(c Config) *shm.Loan {
	carriers, err := c.Transport.carriers()
	if err != nil || ep.local == nil || !slices.Contains(carriers, string(SHM)) {
		return nil
	}
	loan, err := shm.New(c.Generation)
	if err != nil {
		ep.log.Warn("no memory is shared with peers on this host", "err", err)
		return nil
	}
	return loan
}

// offer tells a caller how else it may reach this rank.
func (m *membership) offer(l *link, w *pb.CollectiveWelcome) {
	carriers, _ := m.cfg.Transport.carriers() // valid: the Config is
	if len(carriers) == 0 {
		return
	}
	if m.loan == nil {
		carriers = slices.DeleteFunc(carriers, func(s string) bool { return s == string(SHM) })
	} else {
		w.UnixName = m.ep.local.name
	}
	l.memory = make(chan *shm.Peer, 1)
	m.ep.mu.Lock()
	_, _ = rand.Read(l.token[:]) // never fails
	m.ep.offers[l.token] = offer{m, l}
	m.ep.mu.Unlock()
	w.Transports, w.Token = carriers, l.token[:]
}

// withdraw ends a link's offer.
func (ep *Endpoint) withdraw(l *link) {
	ep.mu.Lock()
	defer ep.mu.Unlock()
	delete(ep.offers, l.token)
}

// upgrade is the caller's side.
func (m *membership) upgrade(ctx context.Context, l *link, w *pb.CollectiveWelcome) error {
	ctx, cancel := context.WithTimeout(ctx, helloTimeout)
	defer cancel()
	carriers, _ := m.cfg.Transport.carriers()
	answer := &pb.CollectiveAnswer{Transport: string(Stream)}
	var why []error
	for _, by := range carriers {
		if !slices.Contains(w.GetTransports(), by) || by == string(SHM) && m.loan == nil {
			continue
		}
		conns, err := m.open(ctx, l.peer, by, w)
		var memory *shm.Peer
		if err == nil && by == string(SHM) {
			memory, err = m.borrow(conns[useMemory], helloTimeout)
		}
		if err == nil {
			err = m.carry(l, Transport(by), conns, memory)
		}
		if err == nil {
			answer.Transport = by
			break
		}
		why = append(why, fmt.Errorf("%s: %w", by, err))
	}
	if err := errors.Join(why...); err != nil {
		answer.Why = err.Error()
		m.tellFallback(l.peer, answer)
	}
	return sendMessage(l.streams[0], m.cfg, frame.Answer, answer)
}

func (m *membership) tellFallback(r int, a *pb.CollectiveAnswer) {
	level := m.ep.log.Warn
	if m.cfg.Transport == "" || m.cfg.Transport == Auto {
		level = m.ep.log.Info // peers on other hosts share no memory
	}
	level("a faster transport could not be used", "rank", r, "id", m.cfg.Peers[r].ID, "uses", a.GetTransport(), "why", a.GetWhy())
}

// open makes a transport's connections to a peer.
func (m *membership) open(ctx context.Context, r int, by string, w *pb.CollectiveWelcome) (conns [uses]net.Conn, err error) {
	defer func() {
		if err != nil {
			for _, c := range conns {
				if c != nil {
					_ = c.Close()
				}
			}
		}
	}()
	for use := range uses {
		if by != string(SHM) && use == useMemory {
			continue
		}
		if by == string(SHM) {
			conns[use], err = m.ep.dialLocal(ctx, w.GetUnixName(), use)
		} else {
			conns[use], err = m.dialLane(ctx, r)
		}
		if err != nil {
			return conns, err
		}
		if err = m.introduce(ctx, conns[use], use, w.GetToken()); err != nil {
			return conns, err
		}
	}
	return conns, nil
}

// dialLane connects to a peer's port, for a lane.
func (m *membership) dialLane(ctx context.Context, r int) (net.Conn, error) {
	c, err := m.ep.dial(ctx, "tcp", m.cfg.Peers[r].Addr)
	if err != nil || m.cfg.ClientTLS == nil {
		return c, err
	}
	cfg, err := clientTLS(m.cfg.ClientTLS, m.cfg.Peers[r].certificateName())
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	cfg.NextProtos = []string{laneProtocol}
	t := tls.Client(c, cfg)
	if err := t.HandshakeContext(ctx); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return t, nil
}

// introduce shows the token on a connection, and waits until it is taken.
func (m *membership) introduce(ctx context.Context, c net.Conn, use int, tok []byte) error {
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	meta, err := proto.Marshal(&pb.CollectiveLane{Token: tok, Use: uint32(use)})
	if err != nil {
		return err
	}
	if err := frame.WriteBare(c, &frame.Outgoing{Header: m.header(frame.Hello), Meta: meta}); err != nil {
		return err
	}
	got, err := frame.ReadBare(c)
	if err != nil {
		return fmt.Errorf("not let in: %w", err)
	}
	if got.Kind != frame.Welcome {
		return fmt.Errorf("a %s frame: want %s", got.Kind, frame.Welcome)
	}
	return nil
}

func (m *membership) header(k frame.Kind) frame.Header {
	return frame.Header{Kind: k, Job: frame.JobHash(m.cfg.Job), Generation: m.cfg.Generation, Rank: uint32(m.cfg.Rank)}
}

// borrow exchanges memory with a peer over a connection, which is closed if that fails.
func (m *membership) borrow(c net.Conn, patience time.Duration) (*shm.Peer, error) {
	u, ok := c.(*net.UnixConn)
	if !ok || m.loan == nil {
		return nil, errors.Join(fmt.Errorf("memory cannot be passed over %T", c), c.Close())
	}
	return m.loan.Connect(u, patience)
}

// carry makes a link be carried by connections, which are its from then on.
func (m *membership) carry(l *link, by Transport, conns [uses]net.Conn, memory *shm.Peer) error {
	c := lanes.Config{Peer: l.peer, ChunkBytes: l.chunkBytes, Control: conns[useControl], Bulk: conns[useBulk], Hangup: l.Close}
	if memory != nil {
		c.Lender = memory
		c.Near = len(m.cfg.Peers) <= runtime.NumCPU()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.over {
		if memory != nil {
			memory.Close()
		}
		return errors.Join(errLinkClosed, c.Control.Close(), c.Bulk.Close())
	}
	l.by, l.lane = by, lanes.New(c, m.engine)
	l.conns = [uses]net.Conn{}
	return nil
}

// answered is the callee's side: what the caller takes of what was offered.
func (m *membership) answered(l *link, s grpc.ServerStream) error {
	var a pb.CollectiveAnswer
	if err := recvMessage(s, frame.Answer, &a); err != nil {
		return err
	}
	defer m.ep.withdraw(l)
	if a.GetWhy() != "" {
		m.tellFallback(l.peer, &a)
	}
	by := Transport(a.GetTransport())
	if by == Stream {
		return nil
	}
	var memory *shm.Peer
	switch by {
	case Lanes:
	case SHM:
		select {
		case memory = <-l.memory: // it may have the page of this rank before this rank has its
		case <-l.closed:
			return errLinkClosed
		case <-s.Context().Done():
			return context.Cause(s.Context())
		}
	default:
		return fmt.Errorf("it takes transport %.32q, which was not offered", a.GetTransport())
	}
	l.mu.Lock()
	conns := l.conns
	l.mu.Unlock()
	if conns[useControl] == nil || conns[useBulk] == nil {
		return fmt.Errorf("it takes %s and has not opened all connections for it", by)
	}
	return m.carry(l, by, conns, memory)
}

// admitLane gives a connection that a peer opened to the link that its token is for. from reads it from its first byte.
func (ep *Endpoint) admitLane(c net.Conn, from io.Reader, local bool, patience time.Duration) error {
	_ = c.SetDeadline(time.Now().Add(patience))
	f, err := frame.ReadBare(from)
	if err != nil {
		return err
	}
	var hello pb.CollectiveLane
	if f.Kind != frame.Hello || len(f.Meta) == 0 || proto.Unmarshal(f.Meta, &hello) != nil || len(hello.GetToken()) != len(token{}) {
		return fmt.Errorf("a lane begins with a %s frame: want a hello with a token", f.Kind)
	}
	use := int(hello.GetUse())
	ep.mu.Lock()
	o, known := ep.offers[token(hello.GetToken())]
	ep.mu.Unlock()
	switch {
	case !known:
		return errors.New("a lane with an unknown token")
	case use >= uses || use == useMemory && !local:
		return fmt.Errorf("a lane for use %d", hello.GetUse())
	}
	if local && use != useMemory {
		c = ep.wrap(c)
	}
	if err := o.l.keep(use, c); err != nil {
		return err
	}
	if err := frame.WriteBare(c, &frame.Outgoing{Header: o.m.header(frame.Welcome)}); err != nil {
		return err
	}
	if use == useMemory {
		p, err := o.m.borrow(c, patience)
		if err != nil {
			return err
		}
		select {
		case o.l.memory <- p:
		default: // a second one is of no use; the Loan closes it
		}
		return nil
	}
	return c.SetDeadline(time.Time{})
}

// keep notes a connection for when the peer says what it takes. It closes one for the same use, of a transport that the
// peer has given up.
func (l *link) keep(use int, c net.Conn) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.over || l.lane != nil {
		return errLinkClosed
	}
	if old := l.conns[use]; old != nil {
		_ = old.Close()
	}
	l.conns[use] = c
	return nil
}
