// Package grpc joins processes to a Group: over gRPC streams, or over what these agree on: lanes, and shared memory between
// processes of one host.
//
//	ep, err := grpc.Listen(ctx, grpc.Options{Addr: "127.0.0.1:0", TLS: serverTLS})
//	// tell the coordinator ep.Addr(), learn the generation
//	group, err := ep.Join(ctx, grpc.Config{Job: ..., Generation: g, Rank: r, Peers: peers, ClientTLS: clientTLS})
//
// Of two ranks the lower one connects. A connection carries two streams: control and bulk.
// Each begins with a handshake in which both sides name the job, the generation, the world
// size and both ranks. An Endpoint outlives generations: joining one ends the one before.
package grpc

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/experimental"

	"github.com/zerofleet/zerofleet/collective"
	"github.com/zerofleet/zerofleet/collective/internal/frame"
)

// The stream of tensors through gRPC, chosen by bench_test.go on one host, 2 cores.
const (
	streamWindowBytes = 4 << 20
	connWindowBytes   = 8 << 20
	writeBufferBytes  = 128 << 10
	readBufferBytes   = 128 << 10
)

const (
	// helloTimeout is how long a caller may take to say who it is.
	helloTimeout = 10 * time.Second
	// maxHeld bounds the streams that wait for this rank to join their generation.
	maxHeld = 4096
)

// Options say where and how an Endpoint listens.
type Options struct {
	// Addr is host:port; port 0 takes a free one.
	Addr string
	// TLS has this worker's certificate and, as ClientCAs, the job's authority. Every
	// caller must show a certificate of it that names the worker id. nil listens in the
	// clear, for anybody who reaches the address.
	TLS *tls.Config
	// Logger gets warnings; nil for none.
	Logger *slog.Logger
	// Serve adds what else is served on the port; nil for nothing. Whoever TLS lets in
	// reaches it.
	Serve func(grpc.ServiceRegistrar)
	// Dial connects to peers; nil for the plain network.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
	// Wrap is given each connection that a peer made, and returns what is used; nil for the connection itself.
	Wrap func(net.Conn) net.Conn
}

// Endpoint is where a worker's peers reach it, for all generations of a job.
type Endpoint struct {
	log    *slog.Logger
	lis    net.Listener
	server *grpc.Server
	tls    bool
	wrap   func(net.Conn) net.Conn
	local  *localSocket // nil where there is none
	dial   func(ctx context.Context, network, addr string) (net.Conn, error)
	served chan struct{} // the serving goroutine has ended
	held   chan struct{} // one token per waiting stream

	mu      sync.Mutex
	closed  bool
	current *membership     // nil before the first Join
	offers  map[token]offer // what connections beside gRPC may be for
	changed chan struct{}   // closed and replaced when current or closed changes
}

// Listen opens an Endpoint. Nobody gets in before Join.
func Listen(ctx context.Context, o Options) (*Endpoint, error) {
	ep := &Endpoint{
		log: o.Logger, tls: o.TLS != nil, dial: o.Dial, served: make(chan struct{}),
		held: make(chan struct{}, maxHeld), changed: make(chan struct{}),
		wrap: o.Wrap, offers: map[token]offer{},
	}
	if ep.wrap == nil {
		ep.wrap = func(c net.Conn) net.Conn { return c }
	}
	if ep.log == nil {
		ep.log = slog.New(slog.DiscardHandler)
	}
	if ep.dial == nil {
		ep.dial = (&net.Dialer{}).DialContext
	}
	opts := []grpc.ServerOption{
		grpc.ForceServerCodecV2(codec{}),
		grpc.MaxRecvMsgSize(frame.MaxBytes),
		grpc.StaticStreamWindowSize(streamWindowBytes),
		grpc.StaticConnWindowSize(connWindowBytes),
		grpc.WriteBufferSize(writeBufferBytes),
		grpc.ReadBufferSize(readBufferBytes),
		experimental.BufferPool(frame.Buffers),
		grpc.MaxConcurrentStreams(4),
		grpc.ConnectionTimeout(helloTimeout),
		grpc.WaitForHandlers(true),
	}
	creds := insecure.NewCredentials()
	if o.TLS != nil {
		c, err := serverTLS(o.TLS)
		if err != nil {
			return nil, fmt.Errorf("listen on %s: %w", o.Addr, err)
		}
		creds = credentials.NewTLS(c)
	}
	opts = append(opts, grpc.Creds(sorting{creds, ep}))
	var lc net.ListenConfig
	lis, err := lc.Listen(ctx, "tcp", o.Addr)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", o.Addr, err)
	}
	ep.lis = lis
	ep.server = grpc.NewServer(opts...)
	ep.server.RegisterService(&serviceDesc, ep)
	if o.Serve != nil {
		o.Serve(ep.server)
	}
	if ep.local, err = listenLocal(ep); err != nil {
		ep.log.Warn("no memory is shared with peers on this host", "err", err)
	}
	go func() {
		defer close(ep.served)
		if err := ep.server.Serve(listener{lis, ep.wrap}); err != nil {
			ep.log.Error("collective endpoint stopped", "addr", lis.Addr().String(), "err", err)
		}
	}()
	return ep, nil
}

// Addr is the address that was bound, host:port.
func (ep *Endpoint) Addr() string { return ep.lis.Addr().String() }

// Close closes the current generation's Group, if there is one, and stops listening.
func (ep *Endpoint) Close() error {
	ep.mu.Lock()
	ep.closed = true
	m := ep.current
	ep.announce()
	ep.mu.Unlock()
	var err error
	if m != nil {
		err = m.close()
	}
	ep.server.Stop()
	<-ep.served
	if ep.local != nil {
		ep.local.close()
	}
	return err
}

// announce wakes what waits for current or closed. The caller holds mu.
func (ep *Endpoint) announce() {
	close(ep.changed)
	ep.changed = make(chan struct{})
}

var errEndpointClosed = errors.New("endpoint closed")

// enter makes m the current membership, and fences the one before.
func (ep *Endpoint) enter(m *membership) error {
	ep.mu.Lock()
	defer ep.mu.Unlock()
	if ep.closed {
		return errEndpointClosed
	}
	if old := ep.current; old != nil {
		if m.cfg.Generation <= old.cfg.Generation {
			return fmt.Errorf("%w: this rank has been in generation %d", collective.ErrFenced, old.cfg.Generation)
		}
		old.engine.Fence(m.cfg.Generation)
	}
	ep.current = m
	ep.announce()
	return nil
}
