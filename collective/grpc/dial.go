package grpc

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/experimental"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/zerofleet/zerofleet/collective"
	"github.com/zerofleet/zerofleet/collective/internal/frame"
	pb "github.com/zerofleet/zerofleet/proto/zerofleet/v1"
)

// The time between two attempts to reach a peer.
const (
	firstRetry = 20 * time.Millisecond
	lastRetry  = time.Second
)

// dialer remembers the connection it made last, so that it can be broken at once.
type dialer struct {
	connect func(ctx context.Context, network, addr string) (net.Conn, error)

	mu   sync.Mutex
	conn net.Conn
}

func (d *dialer) dial(ctx context.Context, addr string) (net.Conn, error) {
	c, err := d.connect(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.conn = c
	return c, nil
}

func (d *dialer) last() net.Conn {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.conn
}

// call connects to a peer, trying again until ctx ends or the peer refuses for good.
func (m *membership) call(ctx context.Context, r int) error {
	wait := firstRetry
	for {
		err := m.callOnce(ctx, r)
		if err == nil {
			m.completed()
			return nil
		}
		if !worthRetrying(err) {
			return m.refused(r, err)
		}
		m.blame(r, plain(err))
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return context.Cause(ctx)
		}
		wait = min(2*wait, lastRetry)
	}
}

func worthRetrying(err error) bool {
	if errors.Is(err, errIdentity) {
		return false
	}
	switch status.Code(err) {
	case codes.Unavailable, codes.Canceled, codes.DeadlineExceeded:
		return true
	}
	return false
}

// refused is the error of a peer that does not want this rank, or is not who it should be.
func (m *membership) refused(r int, err error) error {
	if status.Code(err) == codes.FailedPrecondition {
		return fmt.Errorf("rank %d (%s): %s: %w", r, m.cfg.Peers[r].ID, plain(err), collective.ErrFenced)
	}
	return m.peerError(r, plain(err))
}

// plain strips gRPC's wording from an error.
func plain(err error) error {
	if s, ok := status.FromError(err); ok {
		return errors.New(s.Message())
	}
	return err
}

// callOnce makes one connection with its two streams.
func (m *membership) callOnce(ctx context.Context, r int) (err error) {
	d := dialer{connect: m.ep.dial}
	var identity identityGuard
	creds := insecure.NewCredentials()
	if m.cfg.ClientTLS != nil {
		c, err := clientTLS(m.cfg.ClientTLS, m.cfg.Peers[r].certificateName())
		if err != nil {
			return err
		}
		c.VerifyConnection = identity.wrap(c.VerifyConnection)
		creds = credentials.NewTLS(c)
	}
	cc, err := grpc.NewClient("passthrough:///"+m.cfg.Peers[r].Addr,
		grpc.WithTransportCredentials(creds),
		grpc.WithContextDialer(d.dial),
		grpc.WithNoProxy(),
		grpc.WithDisableServiceConfig(),
		grpc.WithDisableRetry(),
		grpc.WithIdleTimeout(0),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.Config{BaseDelay: lastRetry, Multiplier: 1, MaxDelay: lastRetry}, MinConnectTimeout: 5 * time.Second}),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(codec{}), grpc.MaxCallRecvMsgSize(frame.MaxBytes), grpc.MaxCallSendMsgSize(frame.MaxBytes)),
		grpc.WithStaticStreamWindowSize(streamWindowBytes),
		grpc.WithStaticConnWindowSize(connWindowBytes),
		grpc.WithWriteBufferSize(writeBufferBytes),
		grpc.WithReadBufferSize(readBufferBytes),
		experimental.WithBufferPool(frame.Buffers),
	)
	if err != nil {
		return fmt.Errorf("rank %d at %s: %w", r, m.cfg.Peers[r].Addr, err)
	}
	// The streams live as long as the link; until it is complete, as long as ctx.
	life, end := context.WithCancel(context.Background())
	unbind := context.AfterFunc(ctx, end)
	taken := false // the link owns cc and end
	defer func() {
		unbind()
		if err != nil && !taken {
			end()
			_ = cc.Close()
		}
		if seen := identity.err(); seen != nil {
			err = seen
		}
	}()
	var streams [2]grpc.ClientStream
	var chunkBytes int
	var w *pb.CollectiveWelcome
	for i, bulk := range []bool{true, false} { // control last: an Answer follows it
		if streams[1-i], err = cc.NewStream(life, &serviceDesc.Streams[0], linkMethod); err != nil {
			return err
		}
		if w, err = m.greet(streams[1-i], r, bulk); err != nil {
			return err
		}
		if chunkBytes, err = checkChunkBytes(w.GetChunkBytes()); err != nil {
			return err
		}
	}
	l, err := m.link(r, func() *link {
		taken = true
		return newLink(r, chunkBytes, d.last(), func() {
			end()
			_ = cc.Close()
		})
	})
	if err != nil {
		return err
	}
	// Before the link is complete: whoever waits for it may go on then, and end ctx.
	if !unbind() {
		return context.Cause(ctx)
	}
	for i, s := range streams {
		if !l.add(i == 1, s) {
			return errLinkClosed
		}
	}
	// From here on the link's readers are owed.
	err = m.upgrade(ctx, l, w)
	if err != nil {
		m.engine.Lost(r, false, plain(err))
	}
	for i, s := range streams {
		l.greeted(i == 1)
		go l.read(m.engine, i == 1, s)
	}
	return err
}

// greet is the caller's side of the handshake on one stream.
func (m *membership) greet(s stream, r int, bulk bool) (*pb.CollectiveWelcome, error) {
	hello := &pb.CollectiveHello{
		Version: frame.Version, Job: m.cfg.Job, Generation: m.cfg.Generation, World: uint32(len(m.cfg.Peers)),
		FromRank: uint32(m.cfg.Rank), FromId: m.cfg.Peers[m.cfg.Rank].ID, ToRank: uint32(r), ToId: m.cfg.Peers[r].ID,
		Bulk: bulk, ChunkBytes: uint32(m.engine.ChunkBytes()), Checksum: m.cfg.Checksum,
	}
	if err := sendMessage(s, m.cfg, frame.Hello, hello); err != nil {
		// The stream ended; why is for RecvMsg to tell.
		var r received
		if e := s.RecvMsg(&r); e != nil {
			return nil, e
		}
		return nil, err
	}
	w := &pb.CollectiveWelcome{}
	if err := recvMessage(s, frame.Welcome, w); err != nil {
		return nil, err
	}
	if w.GetGeneration() != m.cfg.Generation || w.GetRank() != uint32(r) || w.GetId() != m.cfg.Peers[r].ID {
		return nil, fmt.Errorf("at %s answers rank %d (%s) of generation %d, want rank %d (%s) of generation %d",
			m.cfg.Peers[r].Addr, w.GetRank(), w.GetId(), w.GetGeneration(), r, m.cfg.Peers[r].ID, m.cfg.Generation)
	}
	return w, nil
}

// minChunkBytes is the least that a peer may say of itself: a block of any format fits into it, several times.
const minChunkBytes = 1 << 10

func checkChunkBytes(n uint32) (int, error) {
	if n < minChunkBytes || n > frame.MaxDataBytes || n&(n-1) != 0 {
		return 0, fmt.Errorf("chunks of %d bytes: want a power of two, %d to %d", n, minChunkBytes, frame.MaxDataBytes)
	}
	return int(n), nil
}

func sendMessage(s stream, c Config, k frame.Kind, msg proto.Message) error {
	meta, err := proto.Marshal(msg)
	if err != nil {
		return fmt.Errorf("marshal %s: %w", k, err)
	}
	h := frame.Header{Kind: k, Job: frame.JobHash(c.Job), Generation: c.Generation, Rank: uint32(c.Rank)}
	return s.SendMsg(&frame.Outgoing{Header: h, Meta: meta})
}

// recvMessage reads the one frame of a handshake.
func recvMessage(s stream, k frame.Kind, msg proto.Message) error {
	var r received
	if err := s.RecvMsg(&r); err != nil {
		return err
	}
	if r.err != nil {
		return r.err
	}
	defer r.frame.Free()
	if r.frame.Kind != k {
		return fmt.Errorf("a %s frame: want %s", r.frame.Kind, k)
	}
	if err := proto.Unmarshal(r.frame.Meta, msg); err != nil {
		return fmt.Errorf("parse %s: %w", k, err)
	}
	return nil
}
