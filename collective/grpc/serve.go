package grpc

import (
	"context"
	"net"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/zerofleet/zerofleet/collective/internal/frame"
	pb "github.com/zerofleet/zerofleet/proto/zerofleet/v1"
)

const linkMethod = "/zerofleet.v1.Collective/Link"

// serviceDesc is written by hand, since its messages are frames and not protobuf.
var serviceDesc = grpc.ServiceDesc{
	ServiceName: "zerofleet.v1.Collective",
	HandlerType: (*linkServer)(nil),
	Streams: []grpc.StreamDesc{{
		StreamName: "Link", ServerStreams: true, ClientStreams: true,
		Handler: func(srv any, s grpc.ServerStream) error { return srv.(linkServer).serveLink(s) },
	}},
	Metadata: "zerofleet/v1/collective.proto",
}

type linkServer interface{ serveLink(grpc.ServerStream) error }

// serveLink is the life of one stream that a peer opened.
func (ep *Endpoint) serveLink(s grpc.ServerStream) error {
	from, ok := peer.FromContext(s.Context())
	if !ok {
		return status.Error(codes.Internal, "no peer address")
	}
	addr, ok := from.Addr.(remoteAddr)
	if !ok {
		return status.Errorf(codes.Internal, "peer address of type %T", from.Addr)
	}
	var hello pb.CollectiveHello
	slow := time.AfterFunc(helloTimeout, func() { _ = addr.conn.Close() })
	err := recvMessage(s, frame.Hello, &hello)
	slow.Stop()
	if err != nil {
		return status.Errorf(codes.InvalidArgument, "handshake: %v", err)
	}
	m, err := ep.await(s.Context(), &hello)
	if err != nil {
		return err
	}
	rank, chunkBytes, err := m.admit(&hello, from.AuthInfo)
	if err != nil {
		ep.log.Warn("collective peer refused", "addr", addr.String(), "id", hello.GetFromId(), "err", plain(err))
		return err
	}
	return m.serve(s, rank, hello.GetBulk(), chunkBytes, addr.conn)
}

// await waits until this rank is in the caller's generation. A caller of a newer one fences
// the present one.
func (ep *Endpoint) await(ctx context.Context, h *pb.CollectiveHello) (*membership, error) {
	select {
	case ep.held <- struct{}{}:
		defer func() { <-ep.held }()
	default:
		return nil, status.Error(codes.Unavailable, "too many callers wait")
	}
	for {
		ep.mu.Lock()
		m, closed, changed := ep.current, ep.closed, ep.changed
		ep.mu.Unlock()
		switch {
		case closed:
			return nil, status.Error(codes.Unavailable, errEndpointClosed.Error())
		case m == nil:
		case h.GetJob() != m.cfg.Job:
			return nil, status.Errorf(codes.InvalidArgument, "a caller of job %.64q: this is job %q", h.GetJob(), m.cfg.Job)
		case h.GetGeneration() < m.cfg.Generation:
			return nil, status.Errorf(codes.FailedPrecondition, "generation %d is over: this rank is in generation %d", h.GetGeneration(), m.cfg.Generation)
		case h.GetGeneration() == m.cfg.Generation:
			return m, nil
		default:
			m.engine.Fence(h.GetGeneration())
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, status.FromContextError(ctx.Err()).Err()
		}
	}
}

// admit checks who calls.
func (m *membership) admit(h *pb.CollectiveHello, auth credentials.AuthInfo) (rank, chunkBytes int, err error) {
	refuse := func(c codes.Code, format string, a ...any) (int, int, error) {
		return 0, 0, status.Errorf(c, format, a...)
	}
	world := uint32(len(m.cfg.Peers))
	switch {
	case h.GetVersion() != frame.Version:
		return refuse(codes.InvalidArgument, "version %d of the protocol: this rank speaks %d", h.GetVersion(), frame.Version)
	case h.GetWorld() != world:
		return refuse(codes.InvalidArgument, "a world of %d ranks: this rank knows %d", h.GetWorld(), world)
	case h.GetToRank() != uint32(m.cfg.Rank) || h.GetToId() != m.cfg.Peers[m.cfg.Rank].ID:
		return refuse(codes.InvalidArgument, "a call for rank %d (%.64s): this is rank %d (%s)", h.GetToRank(), h.GetToId(), m.cfg.Rank, m.cfg.Peers[m.cfg.Rank].ID)
	case h.GetFromRank() >= uint32(m.cfg.Rank):
		return refuse(codes.InvalidArgument, "rank %d calls rank %d: the lower rank calls", h.GetFromRank(), m.cfg.Rank)
	case h.GetChecksum() != m.cfg.Checksum:
		return refuse(codes.InvalidArgument, "checksums %t: this rank has %t", h.GetChecksum(), m.cfg.Checksum)
	}
	rank = int(h.GetFromRank())
	id := m.cfg.Peers[rank].ID
	if h.GetFromId() != id {
		return refuse(codes.PermissionDenied, "worker %.64q as rank %d: that is worker %q", h.GetFromId(), rank, id)
	}
	if m.cfg.ClientTLS != nil {
		t, ok := auth.(credentials.TLSInfo)
		if !ok {
			return refuse(codes.Unauthenticated, "no TLS")
		}
		if err := checkIdentity(t.State.PeerCertificates, m.cfg.Peers[rank].certificateName()); err != nil {
			return refuse(codes.PermissionDenied, "rank %d: %v", rank, err)
		}
	}
	chunkBytes, err = checkChunkBytes(h.GetChunkBytes())
	if err != nil {
		return refuse(codes.InvalidArgument, "%v", err)
	}
	return rank, chunkBytes, nil
}

// serve reads an admitted peer's stream until the link is closed.
func (m *membership) serve(s grpc.ServerStream, rank int, bulk bool, chunkBytes int, conn net.Conn) error {
	l, err := m.link(rank, func() *link { return newLink(rank, chunkBytes, conn, nil) })
	if err != nil {
		return status.Error(codes.Unavailable, err.Error())
	}
	if l.conn != conn || !l.add(bulk, s) {
		return status.Errorf(codes.AlreadyExists, "rank %d is connected already", rank)
	}
	w := &pb.CollectiveWelcome{
		Generation: m.cfg.Generation, Rank: uint32(m.cfg.Rank), Id: m.cfg.Peers[m.cfg.Rank].ID, ChunkBytes: uint32(m.engine.ChunkBytes()),
	}
	if !bulk {
		m.offer(l, w)
	}
	if err := sendMessage(s, m.cfg, frame.Welcome, w); err != nil {
		m.engine.Lost(rank, bulk, plain(err))
	} else if !bulk {
		if err := m.answered(l, s); err != nil {
			m.engine.Lost(rank, false, plain(err))
		}
	}
	l.greeted(bulk)
	m.completed()
	l.read(m.engine, bulk, s)
	l.waitClosed()
	return nil
}
