// Package probe asks a worker directly whether it lives, on the port that its peers reach it at, and tells what it found
// apart: a process that is gone, one that hangs, and a machine that cannot be reached are different evidence.
package probe

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	zerofleetv1 "github.com/zerofleet/zerofleet/proto/zerofleet/v1"
)

// Finding is what a probe found. Its numbers, where they are evidence, are the wire's.
type Finding uint8

// What can be found.
const (
	// Unclear says nothing about the worker: the fault may be the prober's own.
	Unclear = Finding(zerofleetv1.Evidence_EVIDENCE_UNSPECIFIED)
	// Refused: nothing listens at the worker's address, or another process does. Its process is gone.
	Refused = Finding(zerofleetv1.Evidence_EVIDENCE_REFUSED)
	// Silent: its machine takes the connection, and the process does not answer on it.
	Silent = Finding(zerofleetv1.Evidence_EVIDENCE_SILENT)
	// Unreachable: nothing comes back from its machine.
	Unreachable = Finding(zerofleetv1.Evidence_EVIDENCE_UNREACHABLE)
	// Answered: it lives.
	Answered Finding = 255
)

func (f Finding) String() string {
	switch f {
	case Refused:
		return "refused"
	case Silent:
		return "silent"
	case Unreachable:
		return "unreachable"
	case Answered:
		return "answered"
	}
	return "unclear"
}

// Result is a finding and what was seen, in words.
type Result struct {
	Finding Finding
	Detail  string
}

// Target is one incarnation of a worker.
type Target struct {
	Addr        string // host:port of its collective endpoint
	ID          string
	Incarnation uint64
}

// Dialer makes a probe's connection, as net.Dialer.DialContext does.
type Dialer func(ctx context.Context, network, addr string) (net.Conn, error)

// Ping probes once, for at most timeout. config dials a worker of the job, over dial; nil is the plain network.
func Ping(ctx context.Context, at Target, config *tls.Config, dial Dialer, timeout time.Duration) Result {
	if dial == nil {
		dial = (&net.Dialer{}).DialContext
	}
	began := time.Now()
	within, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	r := ping(within, at, config, dial)
	took := time.Since(began)
	switch {
	case ctx.Err() != nil:
		return Result{Unclear, ctx.Err().Error()}
	case r.Finding != Answered && took > timeout+timeout/2:
		// Its own timer was that late: this process did not run, and an answer may be lying there unread.
		return Result{Unclear, fmt.Sprintf("the prober itself stood still: it was given %s and took %s", timeout, took.Round(time.Millisecond))}
	}
	return r
}

func ping(ctx context.Context, at Target, config *tls.Config, dial Dialer) Result {
	conn, err := dial(ctx, "tcp", at.Addr)
	if err != nil {
		return dialed(err)
	}
	defer conn.Close()
	var used atomic.Bool
	cc, err := grpc.NewClient("passthrough:///"+at.Addr,
		grpc.WithTransportCredentials(credentials.NewTLS(config)),
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) {
			if used.Swap(true) {
				return nil, errors.New("one connection to a probe")
			}
			return conn, nil
		}),
		grpc.WithNoProxy(), grpc.WithDisableRetry(), grpc.WithDisableServiceConfig(),
	)
	if err != nil {
		return Result{Unclear, err.Error()}
	}
	defer cc.Close()
	reply, err := zerofleetv1.NewWorkerClient(cc).Ping(ctx, &zerofleetv1.PingRequest{})
	switch {
	case err == nil && reply.GetIncarnation() != 0 && (reply.GetId() != at.ID || reply.GetIncarnation() != at.Incarnation):
		return Result{Refused, fmt.Sprintf("worker %s incarnation %d is at %s now", reply.GetId(), reply.GetIncarnation(), at.Addr)}
	case err == nil, status.Code(err) == codes.Unimplemented:
		return Result{Answered, ""}
	case ctx.Err() != nil, status.Code(err) == codes.DeadlineExceeded:
		return Result{Silent, fmt.Sprintf("%s takes connections and does not answer", at.Addr)}
	}
	return Result{Unclear, status.Convert(err).Message()}
}

// dialed says what a connection that was not made means.
func dialed(err error) Result {
	var timeout net.Error
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return Result{Refused, err.Error()}
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EHOSTDOWN),
		errors.As(err, &timeout) && timeout.Timeout():
		return Result{Unreachable, err.Error()}
	}
	return Result{Unclear, err.Error()}
}

// Server answers probes for a worker.
type Server struct {
	zerofleetv1.UnimplementedWorkerServer
	self atomic.Pointer[zerofleetv1.PingResponse]
}

// Register makes s answer on a server.
func (s *Server) Register(r grpc.ServiceRegistrar) { zerofleetv1.RegisterWorkerServer(r, s) }

// Is says which incarnation of which worker this process is from now on.
func (s *Server) Is(id string, incarnation uint64) {
	s.self.Store(&zerofleetv1.PingResponse{Id: id, Incarnation: incarnation})
}

// Ping is the service's.
func (s *Server) Ping(context.Context, *zerofleetv1.PingRequest) (*zerofleetv1.PingResponse, error) {
	if r := s.self.Load(); r != nil {
		return r, nil
	}
	return &zerofleetv1.PingResponse{}, nil
}
