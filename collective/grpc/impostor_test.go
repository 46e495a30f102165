package grpc

import (
	"context"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"

	"github.com/zerofleet/zerofleet/collective"
	"github.com/zerofleet/zerofleet/collective/internal/frame"
	"github.com/zerofleet/zerofleet/collective/shm"
	"github.com/zerofleet/zerofleet/kernels"
	pb "github.com/zerofleet/zerofleet/proto/zerofleet/v1"
)

// rawCodec is codec, and sends bytes that are no frame too.
type rawCodec struct{ codec }

func (c rawCodec) Marshal(v any) (mem.BufferSlice, error) {
	if b, ok := v.([]byte); ok {
		return mem.BufferSlice{mem.SliceBuffer(b)}, nil
	}
	return c.codec.Marshal(v)
}

// impostor is rank 0 of a fleet of two, played frame by frame by the test.
type impostor struct {
	t       *testing.T
	cc      *grpc.ClientConn
	conn    net.Conn
	streams [2]grpc.ClientStream
	by      Transport
	lanes   [2]net.Conn // unless by is Stream
	reader  *frame.Reader
	loan    *shm.Loan // with SHM
	slow    atomic.Bool
}

// trickling is a connection that sends a byte at a time once its impostor is slow.
type trickling struct {
	net.Conn
	i *impostor
}

func (c trickling) Write(b []byte) (n int, err error) {
	for c.i.slow.Load() && n < len(b) {
		k, err := c.Conn.Write(b[n : n+1])
		if n += k; err != nil {
			return n, err
		}
		<-time.After(10 * time.Millisecond) // it is slow: that is what is tested
	}
	k, err := c.Conn.Write(b[n:])
	return n + k, err
}

// trickle sends a bulk frame of the running generation a byte at a time, for as long as the other side has it.
func (i *impostor) trickle(f frame.Outgoing) {
	i.t.Helper()
	f.Job, f.Generation = frame.JobHash("job-1"), 3
	send := func() { _ = i.streams[1].SendMsg(&f) }
	if c := i.lanes[1]; c != nil {
		head, err := f.Head()
		if err != nil {
			i.t.Fatal(err)
		}
		send = func() { _, _ = trickling{c, i}.Write(append(head, f.Data...)) }
	}
	i.slow.Store(true)
	var sending sync.WaitGroup
	sending.Go(send)
	i.t.Cleanup(func() { // what it writes to is closed before
		i.slow.Store(false)
		sending.Wait()
	})
}

// dialAs opens a connection to an endpoint and no stream.
func dialAs(t *testing.T, f fleet, addr, id, peerID string) *impostor {
	t.Helper()
	creds := insecure.NewCredentials()
	if f.ca != nil {
		c, err := clientTLS(f.ca.worker(t, id), peerID)
		if err != nil {
			t.Fatal(err)
		}
		creds = credentials.NewTLS(c)
	}
	i := &impostor{t: t}
	d := dialer{connect: func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := (&net.Dialer{}).DialContext(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return trickling{c, i}, nil
	}}
	cc, err := grpc.NewClient("passthrough:///"+strings.TrimPrefix(addr, "passthrough:///"), grpc.WithTransportCredentials(creds), grpc.WithContextDialer(d.dial),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(rawCodec{}), grpc.MaxCallRecvMsgSize(frame.MaxBytes)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cc.Close() })
	i.cc = cc
	cc.Connect()
	if i.streams[0], err = cc.NewStream(t.Context(), &serviceDesc.Streams[0], linkMethod, grpc.WaitForReady(true)); err != nil {
		t.Fatal(err)
	}
	if i.streams[1], err = cc.NewStream(t.Context(), &serviceDesc.Streams[0], linkMethod, grpc.WaitForReady(true)); err != nil {
		t.Fatal(err)
	}
	i.conn = d.last()
	return i
}

func goodHello(bulk bool) *pb.CollectiveHello {
	return &pb.CollectiveHello{
		Version: frame.Version, Job: "job-1", Generation: 3, World: 2, FromRank: 0, FromId: "worker-a", ToRank: 1, ToId: "worker-b",
		Bulk: bulk, ChunkBytes: frame.MaxDataBytes,
	}
}

// hello sends a hello on one of the streams and returns the answer.
func (i *impostor) hello(h *pb.CollectiveHello) error {
	_, err := i.greet(h)
	return err
}

func (i *impostor) greet(h *pb.CollectiveHello) (*pb.CollectiveWelcome, error) {
	i.t.Helper()
	s := i.streams[index(h.GetBulk())]
	if err := sendMessage(s, Config{Job: h.GetJob(), Generation: h.GetGeneration()}, frame.Hello, h); err != nil {
		i.t.Fatal(err)
	}
	w := &pb.CollectiveWelcome{}
	return w, recvMessage(s, frame.Welcome, w)
}

// answer takes what it was offered, of the transport that the test is about.
func (i *impostor) answer(addr string, w *pb.CollectiveWelcome) {
	i.t.Helper()
	switch i.by {
	case Lanes:
		for use := range i.lanes {
			i.lanes[use] = i.lane("tcp", addr, w, use)
		}
	case SHM:
		for use := range i.lanes {
			i.lanes[use] = i.lane("unix", "@"+w.GetUnixName(), w, use)
		}
		var err error
		if i.loan, err = shm.New(3); err != nil {
			i.t.Fatal(err)
		}
		if _, err := i.loan.Connect(i.lane("unix", "@"+w.GetUnixName(), w, useMemory).(*net.UnixConn), patience); err != nil {
			i.t.Fatal(err)
		}
		i.t.Cleanup(func() {
			if err := i.loan.Close(); err != nil {
				i.t.Error(err)
			}
		})
	}
	if i.lanes[0] != nil {
		i.reader = frame.NewReader(i.lanes[0])
	}
	a := &pb.CollectiveAnswer{Transport: string(i.by)}
	if err := sendMessage(i.streams[0], Config{Job: "job-1", Generation: 3}, frame.Answer, a); err != nil {
		i.t.Fatal(err)
	}
}

// lane opens a connection beside gRPC.
func (i *impostor) lane(network, addr string, w *pb.CollectiveWelcome, use int) net.Conn {
	i.t.Helper()
	c, err := net.Dial(network, addr)
	if err != nil {
		i.t.Fatal(err)
	}
	i.t.Cleanup(func() { _ = c.Close() })
	m := &membership{cfg: Config{Job: "job-1", Generation: 3}}
	if err := m.introduce(i.t.Context(), c, use, w.GetToken()); err != nil {
		i.t.Fatal(err)
	}
	return c
}

// raw sends bytes as they are.
func (i *impostor) raw(bulk bool, b []byte) {
	if c := i.lanes[index(bulk)]; c != nil {
		_, _ = c.Write(b)
		return
	}
	_ = i.streams[index(bulk)].SendMsg(b)
}

// send sends a frame of the running generation, changed by edits.
func (i *impostor) send(bulk bool, f frame.Outgoing, edits ...func(*frame.Header)) {
	i.t.Helper()
	f.Job, f.Generation, f.Rank = frame.JobHash("job-1"), 3, 0
	for _, edit := range edits {
		edit(&f.Header)
	}
	var err error
	if c := i.lanes[index(bulk)]; c != nil {
		var head []byte
		if head, err = f.Head(); err == nil {
			_, err = c.Write(append(head, f.Data...))
		}
	} else {
		err = i.streams[index(bulk)].SendMsg(&f)
	}
	if err != nil {
		i.t.Logf("send %s: %v", f.Kind, err) // the other side may have hung up: that is what is tested
	}
}

func (i *impostor) message(k frame.Kind, m proto.Message, edits ...func(*frame.Header)) {
	i.t.Helper()
	meta, err := proto.Marshal(m)
	if err != nil {
		i.t.Fatal(err)
	}
	i.send(false, frame.Outgoing{Header: frame.Header{Kind: k}, Meta: meta}, edits...)
}

// post announces an operation.
func (i *impostor) post(o *pb.CollectiveOp) {
	i.t.Helper()
	i.message(frame.Post, o, func(h *frame.Header) {
		h.Seq, h.Type = o.GetSeq(), kernels.DType(o.GetType())
		if k := collective.Kind(o.GetKind()); k == collective.KindSend || k == collective.KindRecv {
			h.Space = frame.Pair
		}
	})
}

// data sends a chunk.
func (i *impostor) data(seq uint64, chunk uint32, b []byte, edits ...func(*frame.Header)) {
	i.t.Helper()
	h := frame.Header{Kind: frame.Data, Type: kernels.F32, Seq: seq, Chunk: chunk, Flags: frame.FlagSummed}
	i.send(true, frame.Outgoing{Header: h, Data: b}, edits...)
}

// await reads control frames until one of the kind arrives.
func (i *impostor) await(k frame.Kind) *frame.Frame {
	i.t.Helper()
	for i.reader != nil {
		f, err := i.reader.Next()
		if err == nil && f.DataBytes > 0 {
			err = i.reader.Data(f, make([]byte, f.DataBytes))
		}
		if err != nil {
			i.t.Fatalf("await %s: %v", k, err)
		}
		if f.Kind == k {
			return f
		}
	}
	for {
		var r received
		if err := i.streams[0].RecvMsg(&r); err != nil {
			i.t.Fatalf("await %s: %v", k, err)
		}
		if r.err != nil {
			i.t.Fatalf("await %s: %v", k, r.err)
		}
		if r.frame.Kind == k {
			return r.frame
		}
		r.frame.Free()
	}
}

// withImpostor makes a generation of two in which the test plays rank 0.
func withImpostor(t *testing.T, f fleet) (collective.Group, *impostor) {
	t.Helper()
	f.world = 2
	eps, peers := f.listen(t)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var group collective.Group
	joined := make(chan error, 1)
	go func() {
		var err error
		group, err = eps[1].Join(ctx, f.config(t, 1, peers))
		joined <- err
	}()
	i := dialAs(t, f, eps[1].Addr(), "worker-a", "worker-b")
	if i.by = f.by; i.by == "" {
		i.by = Stream
	}
	if err := i.hello(goodHello(true)); err != nil {
		t.Fatal(err)
	}
	w, err := i.greet(goodHello(false))
	if err != nil {
		t.Fatal(err)
	}
	i.answer(eps[1].Addr(), w)
	if err := <-joined; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := group.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return group, i
}
