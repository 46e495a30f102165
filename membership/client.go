package membership

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/cenkalti/backoff/v5"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	grpcbackoff "google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	zerofleetv1 "github.com/zerofleet/zerofleet/proto/zerofleet/v1"
)

const (
	// callTimeout bounds one attempt of a call that the coordinator answers at once.
	callTimeout = 5 * time.Second
	// MaxMessageBytes bounds one message either way: the largest is a manifest.
	MaxMessageBytes = 64 << 20
	// KeepaliveTime is how often an idle connection is probed; a peer that is silent for as long again is gone.
	KeepaliveTime = 10 * time.Second
)

// Client is a worker's connection to its job's coordinator, whichever process that is at the moment.
// It may be used by several goroutines.
type Client struct {
	locate Locator
	dial   Dialer
	log    *slog.Logger
	now    func() time.Time

	mu        sync.Mutex
	conn      *grpc.ClientConn // nil until first used, and after Close
	at        Endpoint         // what conn dials
	closed    bool
	contact   time.Time // last answer of any coordinator, or when the client was made
	answering bool      // whether the last call was answered
}

// Dialer makes the connection to a coordinator, as net.Dialer.DialContext does.
type Dialer func(ctx context.Context, network, addr string) (net.Conn, error)

// Dial prepares a client for the coordinator that locate finds, over dial; nil is the plain network. It fails when locate
// does, and does not wait for the coordinator to answer. Close ends it.
func Dial(ctx context.Context, locate Locator, dial Dialer, log *slog.Logger) (*Client, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	c := &Client{locate: locate, dial: dial, log: log, now: time.Now, answering: true}
	c.contact = c.now()
	if _, err := c.connection(true); err != nil {
		return nil, fmt.Errorf("dial coordinator: %w", err)
	}
	return c, nil
}

// Close closes the connection. Sessions must have been closed before.
func (c *Client) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	if c.conn == nil {
		return nil
	}
	err := c.conn.Close()
	c.conn = nil
	return err
}

// Credentials are what this worker's own connections, to the job's other workers, are held to.
func (c *Client) Credentials() *Credentials {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at.Credentials
}

// Lost is for how long no coordinator has answered: 0 while one does.
func (c *Client) Lost() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.answering {
		return 0
	}
	return c.now().Sub(c.contact)
}

// Job is what a worker computes, and where.
type Job struct {
	ResolvedYAML []byte
	RunDir       string // absolute
	WorkDir      string // absolute: what the job's relative paths are relative to
	StopAt       uint64 // end, with a checkpoint, after this step; 0: at the job's own end
}

// FetchJob returns the resolved job.
func (c *Client) FetchJob(ctx context.Context) (Job, error) {
	var r *zerofleetv1.FetchJobResponse
	err := c.call(ctx, callTimeout, func(ctx context.Context, s zerofleetv1.ControlClient) (err error) {
		r, err = s.FetchJob(ctx, &zerofleetv1.FetchJobRequest{})
		return err
	})
	if err != nil {
		return Job{}, fmt.Errorf("fetch job: %w", err)
	}
	return Job{ResolvedYAML: r.GetResolvedYaml(), RunDir: r.GetRunDir(), WorkDir: r.GetWorkDir(), StopAt: r.GetStopAt()}, nil
}

// connection is the current connection. With relocate, the coordinator is looked up first, and a connection to another
// address replaces the current one.
func (c *Client) connection(relocate bool) (*grpc.ClientConn, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, ErrClosed
	}
	if c.conn != nil && !relocate {
		return c.conn, nil
	}
	at, err := c.locate()
	if err != nil {
		return nil, err
	}
	if c.conn != nil && at.Addr == c.at.Addr && at.Token == c.at.Token {
		return c.conn, nil
	}
	conn, err := at.Connect(c.dial)
	if err != nil {
		return nil, err
	}
	if c.conn != nil {
		c.log.Info("coordinator has moved", "from", c.at.Addr, "to", at.Addr)
		if err := c.conn.Close(); err != nil {
			c.log.Debug("close connection to the previous coordinator", "error", err)
		}
	}
	c.conn, c.at = conn, at
	return conn, nil
}

// Connect makes a connection to the coordinator, which is dialled at the first call, over dial; nil is the plain network.
// The caller closes it.
func (e Endpoint) Connect(dial Dialer) (*grpc.ClientConn, error) {
	var more []grpc.DialOption
	if dial != nil {
		more = append(more, grpc.WithContextDialer(dial.patient))
	}
	conn, err := grpc.NewClient("passthrough:///"+e.Addr, append(more,
		grpc.WithTransportCredentials(credentials.NewTLS(e.Credentials.Client(RoleCoordinator))),
		grpc.WithPerRPCCredentials(bearer(e.Token)),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: KeepaliveTime, Timeout: KeepaliveTime, PermitWithoutStream: true}),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           grpcbackoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second},
			MinConnectTimeout: 2 * time.Second,
		}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(MaxMessageBytes), grpc.MaxCallSendMsgSize(MaxMessageBytes)),
	)...)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", e.Addr, err)
	}
	return conn, nil
}

// patient dials, and bounds for how long a peer may acknowledge nothing. gRPC itself does that to plain TCP connections alone.
func (d Dialer) patient(ctx context.Context, addr string) (net.Conn, error) {
	conn, err := d(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	socket, ok := conn.(syscall.Conn)
	if !ok {
		return conn, nil
	}
	raw, err := socket.SyscallConn()
	if err == nil {
		var set error
		err = raw.Control(func(fd uintptr) {
			set = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(KeepaliveTime.Milliseconds()))
		})
		err = errors.Join(err, set)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("dial %s: %w", addr, err), conn.Close())
	}
	return conn, nil
}

// answered records that a coordinator has, or has not, answered.
func (c *Client) answered(yes bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if yes {
		c.contact = c.now()
	}
	if yes != c.answering {
		c.answering = yes
		c.log.Info("coordinator", "answering", yes)
	}
}

// call makes one call, and makes it again for as long as nobody answers it, until ctx ends. Each attempt may take
// timeout; 0 is no limit of its own.
func (c *Client) call(ctx context.Context, timeout time.Duration, do func(context.Context, zerofleetv1.ControlClient) error) error {
	wait := newBackoff()
	for relocate := false; ; relocate = true {
		conn, err := c.connection(relocate)
		if err == nil {
			err = attempt(ctx, timeout, zerofleetv1.NewControlClient(conn), do)
		}
		switch {
		case err == nil:
			c.answered(true)
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, ErrClosed):
			return err
		case !unanswered(err):
			c.answered(true)
			return translate(err)
		}
		c.answered(status.Code(err) == codes.Aborted)
		c.log.Debug("coordinator does not answer", "error", err)
		if err := sleep(ctx, wait.NextBackOff()); err != nil {
			return err
		}
	}
}

func attempt(ctx context.Context, timeout time.Duration, s zerofleetv1.ControlClient, do func(context.Context, zerofleetv1.ControlClient) error) error {
	if timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	return do(ctx, s)
}

// unanswered says whether err means that no coordinator took the call, so that it is to be made again. A control file
// that cannot be read at the moment is of that kind: a new coordinator may be writing it.
func unanswered(err error) bool {
	s, ok := status.FromError(err)
	if !ok {
		return true
	}
	switch s.Code() {
	case codes.Unavailable, codes.DeadlineExceeded, codes.Canceled, codes.Aborted:
		return true
	}
	return false
}

// translate turns a final answer into an error of this package.
func translate(err error) error {
	s := status.Convert(err)
	if s.Code() == codes.FailedPrecondition {
		return fmt.Errorf("%w: %s", ErrFenced, s.Message())
	}
	return errors.New(s.Message())
}

func newBackoff() *backoff.ExponentialBackOff {
	b := backoff.NewExponentialBackOff()
	b.InitialInterval, b.Multiplier, b.MaxInterval = 50*time.Millisecond, 2, time.Second
	return b
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// bearer sends a token with every call.
type bearer string

func (b bearer) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + string(b)}, nil
}

func (bearer) RequireTransportSecurity() bool { return true }
