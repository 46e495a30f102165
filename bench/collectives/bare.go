package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/mem"
)

// Bare streams: what Go's sockets and gRPC give without a collective on top.
const (
	bareTCP  = "bare-tcp"
	bareGRPC = "bare-grpc"
)

// messageBytes is how much is written at once, as long as a frame of collective/grpc.
const messageBytes = 1 << 20

// end is one end of a stream: rank 0 sends, rank 1 listens. Only one direction is full.
type end struct {
	setup
	client *tls.Config
	lis    net.Listener // rank 1's
	buf    []byte
	wire   messages
	free   []func()
	opened chan grpc.ServerStream
}

// messages carries at most messageBytes at once.
type messages interface {
	send(b []byte) error
	// receive gives the length of what has come: at most len(b), which may hold it.
	receive(b []byte) (int, error)
}

func newEnd(ctx context.Context, s setup) (*end, error) {
	if s.Ranks != 2 {
		return nil, fmt.Errorf("a stream of %d ends", s.Ranks)
	}
	server, client, err := s.Pair.configs()
	if err != nil {
		return nil, err
	}
	e := &end{setup: s, client: client, buf: make([]byte, messageBytes), opened: make(chan grpc.ServerStream)}
	if s.Rank == 0 {
		return e, nil
	}
	var lc net.ListenConfig
	if e.lis, err = lc.Listen(ctx, "tcp", s.Host+":0"); err != nil {
		return nil, err
	}
	lis := e.lis
	stop := context.AfterFunc(ctx, func() { _ = lis.Close() })
	e.free = append(e.free, func() { stop(); _ = lis.Close() })
	if s.What == bareGRPC {
		e.serve(server)
	} else if server != nil {
		e.lis = tls.NewListener(e.lis, server)
	}
	return e, nil
}

func (e *end) address() string {
	if e.lis == nil {
		return "-"
	}
	return e.lis.Addr().String()
}

func (e *end) close() error {
	for i := len(e.free) - 1; i >= 0; i-- {
		e.free[i]()
	}
	return nil
}

func (e *end) meet(ctx context.Context, peers []string) (err error) {
	switch {
	case e.Rank == 0 && e.What == bareGRPC:
		return e.call(peers[1])
	case e.What == bareGRPC:
		select {
		case s := <-e.opened:
			e.wire = grpcMessages{s}
			_, err = e.wire.receive(e.buf) // the message that opened it
			return err
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	var c net.Conn
	switch {
	case e.Rank == 1:
		c, err = e.lis.Accept()
	case e.client != nil:
		c, err = (&tls.Dialer{Config: e.client}).DialContext(ctx, "tcp", peers[1])
	default:
		c, err = (&net.Dialer{}).DialContext(ctx, "tcp", peers[1])
	}
	if err != nil {
		return err
	}
	if t, ok := c.(*tls.Conn); ok && e.Rank == 1 { // else it would wait for the first read
		if err := t.HandshakeContext(ctx); err != nil {
			return errors.Join(err, c.Close())
		}
	}
	e.wire = tcpMessages{c}
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	e.free = append(e.free, func() { stop(); _ = c.Close() })
	return nil
}

func (e *end) do(_ context.Context, o order) (float64, error) {
	if o.operation != opStream {
		return 0, fmt.Errorf("a stream cannot do %s", o.operation)
	}
	once := func() error {
		if e.Rank == 0 {
			for left := o.bytes; left > 0; left -= messageBytes {
				if err := e.wire.send(e.buf[:min(left, messageBytes)]); err != nil {
					return err
				}
			}
			_, err := e.wire.receive(e.buf[:1])
			return err
		}
		for left := o.bytes; left > 0; {
			n, err := e.wire.receive(e.buf[:min(left, messageBytes)])
			if err != nil {
				return err
			}
			left -= int64(n)
		}
		return e.wire.send(e.buf[:1])
	}
	if err := once(); err != nil {
		return 0, err
	}
	return timed(o, once)
}

type tcpMessages struct{ net.Conn }

func (c tcpMessages) send(b []byte) error {
	_, err := c.Write(b)
	return err
}

func (c tcpMessages) receive(b []byte) (int, error) { return c.Read(b) }

// grpcStream is what the two ends of a gRPC stream have in common.
type grpcStream interface {
	SendMsg(m any) error
	RecvMsg(m any) error
}

type grpcMessages struct{ grpcStream }

func (s grpcMessages) send(b []byte) error { return s.SendMsg(b) }

func (s grpcMessages) receive([]byte) (n int, err error) {
	err = s.RecvMsg(&n)
	return n, err
}

// dropCodec sends bytes as they are, without a copy, and drops what it receives but its length.
type dropCodec struct{}

func (dropCodec) Name() string { return "bench-drop" }

func (dropCodec) Marshal(v any) (mem.BufferSlice, error) {
	b, ok := v.([]byte)
	if !ok {
		return nil, fmt.Errorf("marshal %T: want bytes", v)
	}
	return mem.BufferSlice{mem.SliceBuffer(b)}, nil
}

func (dropCodec) Unmarshal(data mem.BufferSlice, v any) error {
	n, ok := v.(*int)
	if !ok {
		return fmt.Errorf("unmarshal into %T: want a length", v)
	}
	*n = data.Len()
	return nil
}

// The windows and buffers of collective/grpc.
const (
	streamWindowBytes = 4 << 20
	connWindowBytes   = 8 << 20
	socketBufferBytes = 128 << 10
)

var dropStream = grpc.StreamDesc{StreamName: "Drop", ServerStreams: true, ClientStreams: true}

// serve waits for the one stream of rank 0.
func (e *end) serve(config *tls.Config) {
	ctx, cancel := context.WithCancel(context.Background())
	desc := dropStream
	desc.Handler = func(_ any, s grpc.ServerStream) error {
		select {
		case e.opened <- s:
			<-ctx.Done() // the stream lives as long as the rank
		case <-ctx.Done():
		}
		return nil
	}
	options := []grpc.ServerOption{grpc.ForceServerCodecV2(dropCodec{}), grpc.MaxRecvMsgSize(2 * messageBytes),
		grpc.StaticStreamWindowSize(streamWindowBytes), grpc.StaticConnWindowSize(connWindowBytes),
		grpc.WriteBufferSize(socketBufferBytes), grpc.ReadBufferSize(socketBufferBytes)}
	if config != nil {
		options = append(options, grpc.Creds(credentials.NewTLS(config)))
	}
	server := grpc.NewServer(options...)
	server.RegisterService(&grpc.ServiceDesc{ServiceName: "bench", HandlerType: (*any)(nil), Streams: []grpc.StreamDesc{desc}}, nil)
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = server.Serve(e.lis) // who calls sees when it fails
	}()
	e.free = append(e.free, func() {
		cancel()
		server.Stop()
		<-served
	})
}

// call opens the stream to rank 1.
func (e *end) call(addr string) error {
	creds := insecure.NewCredentials()
	if e.client != nil {
		creds = credentials.NewTLS(e.client)
	}
	cc, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(creds), grpc.WithNoProxy(),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(dropCodec{}), grpc.MaxCallRecvMsgSize(2*messageBytes)),
		grpc.WithStaticStreamWindowSize(streamWindowBytes), grpc.WithStaticConnWindowSize(connWindowBytes),
		grpc.WithWriteBufferSize(socketBufferBytes), grpc.WithReadBufferSize(socketBufferBytes))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	e.free = append(e.free, func() { cancel(); _ = cc.Close() })
	s, err := cc.NewStream(ctx, &dropStream, "/bench/Drop")
	if err != nil {
		return err
	}
	e.wire = grpcMessages{s}
	if err := e.wire.send(e.buf[:1]); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	return nil
}
