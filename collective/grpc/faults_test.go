package grpc

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/zerofleet/zerofleet/collective"
	"github.com/zerofleet/zerofleet/collective/grouptest"
	"github.com/zerofleet/zerofleet/collective/internal/frame"
	"github.com/zerofleet/zerofleet/kernels"
	"github.com/zerofleet/zerofleet/kernels/memfd"
	pb "github.com/zerofleet/zerofleet/proto/zerofleet/v1"
)

func f32(n int) collective.Buffer {
	return collective.Buffer{Bytes: make([]byte, 4*n), Type: kernels.F32}
}

func gatherOp(seq uint64, name string, elems int) *pb.CollectiveOp {
	return &pb.CollectiveOp{Seq: seq, Kind: uint32(collective.KindAllGather), Name: name, Elems: uint64(elems), Type: uint32(kernels.F32)}
}

func reduceOp(seq uint64, name string, elems, contributors int) *pb.CollectiveOp {
	return &pb.CollectiveOp{
		Seq: seq, Kind: uint32(collective.KindReduceScatter), Name: name, Elems: uint64(elems), Type: uint32(kernels.F32), Contributors: uint32(contributors),
	}
}

func within(t *testing.T, p *collective.Pending) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	err := p.Wait(ctx)
	if ctx.Err() != nil {
		t.Fatal("the operation hangs")
	}
	return err
}

// A peer that breaks the protocol is named, with what it did, and the Group ends.
func TestProtocolViolations(t *testing.T) {
	const n = 1000 // elements of a part
	gather := func(g collective.Group) *collective.Pending {
		return g.AllGather(context.Background(), "block.3", f32(2*n), f32(n))
	}
	reduce := func(g collective.Group) *collective.Pending {
		return g.ReduceScatter(context.Background(), "block.3", grouptest.NewAccumulator(n), f32(2*n), 0, 2)
	}
	whole := make([]byte, 4*n)
	for name, c := range map[string]struct {
		begin func(collective.Group) *collective.Pending
		act   func(*impostor)
		want  string
	}{
		"another job": {gather, func(i *impostor) {
			i.data(1, 0, whole, func(h *frame.Header) { h.Job++ })
		}, "a data frame of another job"},
		"another rank": {gather, func(i *impostor) {
			i.data(1, 0, whole, func(h *frame.Header) { h.Rank = 7 })
		}, "a data frame of rank 7"},
		"too short": {gather, func(i *impostor) { i.data(1, 0, whole[4:]) }, "3996 bytes as chunk 0 of all-gather #1 block.3 .*: want 4000"},
		"too long":  {gather, func(i *impostor) { i.data(1, 0, make([]byte, 4*n+4)) }, "4004 bytes as chunk 0"},
		"wrong type": {gather, func(i *impostor) {
			i.data(1, 0, whole, func(h *frame.Header) { h.Type = kernels.BF16 })
		}, "bf16 data for all-gather #1"},
		"repeated": {gather, func(i *impostor) {
			i.data(1, 0, whole)
			i.data(1, 0, whole)
		}, "chunk 0 of all-gather #1 block.3 .*: want 1 of 1"},
		"reordered":   {gather, func(i *impostor) { i.data(1, 1, whole) }, "chunk 1 of all-gather #1 block.3 .*: want 0 of 1"},
		"not posted":  {gather, func(i *impostor) { i.data(2, 0, whole) }, "data of operation #2, which is not open to it"},
		"not of us":   {gather, func(i *impostor) { i.data(1, 0, whole, func(h *frame.Header) { h.Space = frame.Pair }) }, "data of operation #1, which is not open"},
		"on control":  {gather, func(i *impostor) { i.send(false, frame.Outgoing{Header: frame.Header{Kind: frame.Data}}) }, "a data frame on the wrong stream"},
		"on bulk":     {gather, func(i *impostor) { i.send(true, frame.Outgoing{Header: frame.Header{Kind: frame.Post}}) }, "a post frame on the wrong stream"},
		"late hello":  {gather, func(i *impostor) { i.message(frame.Hello, goodHello(false)) }, "a hello frame after the handshake"},
		"no credit":   {reduce, func(i *impostor) { i.data(1, 0, whole); i.data(1, 1, whole) }, "chunk 1 of reduce-scatter #1 block.3 .*: want 1 of 1"},
		"term length": {reduce, func(i *impostor) { i.data(1, 0, whole[:400]) }, "400 bytes of f32 as chunk 0 of reduce-scatter #1 .*: want 1000 elements"},
		"term type": {reduce, func(i *impostor) {
			i.data(1, 0, whole, func(h *frame.Header) { h.Type = kernels.I32 })
		}, "i32 data for reduce-scatter #1"},
		"credit for nothing": {gather, func(i *impostor) {
			i.send(false, frame.Outgoing{Header: frame.Header{Kind: frame.Credit, Seq: 9, Chunk: 1}})
		}, "credit for operation #9"},
		"credit for a gather": {gather, func(i *impostor) {
			i.send(false, frame.Outgoing{Header: frame.Header{Kind: frame.Credit, Seq: 1, Chunk: 1}})
		}, "credit for all-gather #1"},
		"credit beyond the end": {reduce, func(i *impostor) {
			i.send(false, frame.Outgoing{Header: frame.Header{Kind: frame.Credit, Seq: 1, Chunk: 5}})
		}, "credit to chunk 5 of reduce-scatter #1 .*: want 0 to 1"},
		"posted twice": {gather, func(i *impostor) {
			i.post(gatherOp(1, "block.3", n))
			i.post(gatherOp(1, "block.3", n))
		}, "a second post of all-gather #1 block.3"},
		"posted twice, early": {gather, func(i *impostor) {
			i.post(gatherOp(2, "x", n))
			i.post(gatherOp(2, "x", n))
		}, "a second post of all-gather #2 x"},
		"posted what is over": {gather, func(i *impostor) { i.post(gatherOp(0, "x", n)) }, "sequence numbers count from 1"},
		"unknown kind":        {gather, func(i *impostor) { i.post(&pb.CollectiveOp{Seq: 2, Kind: 99}) }, "an operation of kind 99"},
		"huge shape": {gather, func(i *impostor) {
			o := gatherOp(2, "x", 0)
			o.Elems = 1 << 60
			i.post(o)
		}, "1152921504606846976 elements: want at most"},
		"a post that is none": {gather, func(i *impostor) {
			i.send(false, frame.Outgoing{Header: frame.Header{Kind: frame.Post}, Meta: []byte("\xff\xff\xff")})
		}, "a post that does not parse"},
		"a gather that brings data": {gather, func(i *impostor) {
			o := gatherOp(1, "block.3", n)
			i.message(frame.Post, o, func(h *frame.Header) { h.Seq, h.Type, h.Flags = 1, kernels.F32, frame.FlagEager })
		}, "a post of all-gather #1 block.3 .* with its data"},
		"far ahead": {gather, func(i *impostor) {
			for seq := range uint64(1025) {
				i.post(gatherOp(seq+2, "x", 1))
			}
		}, "1025 operations and 0 bytes ahead of this rank: want at most 1024"},
		"eager beyond measure": {gather, func(i *impostor) {
			h := frame.Header{Kind: frame.Post, Flags: frame.FlagEager}
			for seq := uint64(2); seq < 8; seq++ {
				h.Seq = seq
				m := meta(i.t, &pb.CollectiveOp{Seq: seq, Kind: uint32(collective.KindExchange)})
				i.send(false, frame.Outgoing{Header: h, Meta: m, Data: make([]byte, 60<<10)})
			}
		}, "operations and [0-9]+ bytes ahead of this rank"},
		"no frame": {gather, func(i *impostor) {
			i.raw(false, []byte("GET / HTTP/1.1\r\n\r\n"+strings.Repeat("x", frame.HeaderBytes)))
		}, "frame begins with 47 45 54 20|begins with 47 45"},
		"bad checksum": {gather, func(i *impostor) {
			f := frame.Outgoing{Header: frame.Header{Kind: frame.Data, Type: kernels.F32, Seq: 1, Flags: frame.FlagSummed, Job: frame.JobHash("job-1"), Generation: 3}, Data: whole}
			s, err := codec{}.Marshal(&f)
			if err != nil {
				i.t.Fatal(err)
			}
			b := s.Materialize()
			b[len(b)-1] ^= 1
			i.raw(true, b)
		}, "data frame 1.0: bad checksum"},
		"beyond the longest frame": {gather, func(i *impostor) {
			if i.by == Stream {
				i.raw(true, make([]byte, frame.MaxBytes+1))
				return
			}
			head, err := (&frame.Outgoing{Header: frame.Header{Kind: frame.Data}}).Head()
			if err != nil {
				i.t.Fatal(err)
			}
			binary.LittleEndian.PutUint32(head[44:], frame.MaxDataBytes+1)
			i.raw(true, head)
		}, "larger than max|1048577 bytes of data: want at most 1048576"},
		"cut off": {gather, func(i *impostor) {
			f := frame.Outgoing{Header: frame.Header{Kind: frame.Data, Type: kernels.F32, Seq: 1, Job: frame.JobHash("job-1"), Generation: 3}, Data: whole}
			head, err := f.Head()
			if err != nil {
				i.t.Fatal(err)
			}
			i.raw(true, append(head, whole[:100]...))
			if i.by != Stream {
				_ = i.lanes[1].Close()
			}
		}, "data frame of 159 bytes: its header wants 4059|connection lost: unexpected EOF"},
		"a receipt for nothing": {gather, func(i *impostor) {
			i.send(false, frame.Outgoing{Header: frame.Header{Kind: frame.Taken, Seq: 1}})
		}, "a receipt for all-gather #1 block.3 .*, of which nothing is lent to it"},
		"a receipt for what is over": {gather, func(i *impostor) {
			i.send(false, frame.Outgoing{Header: frame.Header{Kind: frame.Taken, Seq: 7}})
		}, "a receipt for operation #7, which is not open to it"},
	} {
		for _, by := range []Transport{Stream, Lanes, SHM} {
			t.Run(string(by)+"/"+name, func(t *testing.T) {
				t.Parallel()
				g, i := withImpostor(t, fleet{by: by})
				p := c.begin(g)
				i.await(frame.Post)
				c.act(i)
				err := within(t, p)
				var pe *collective.PeerError
				if !errors.As(err, &pe) || pe.Rank != 0 || pe.ID != "worker-a" {
					t.Fatalf("got %v, want a *PeerError of rank 0", err)
				}
				if !regexp.MustCompile(c.want).MatchString(err.Error()) {
					t.Errorf("got %q, want one that says %q", err, c.want)
				}
				if later := within(t, g.AllReduce(context.Background(), "later", f32(1))); !errors.Is(later, collective.ErrPeer) {
					t.Errorf("a later operation: got %v, want the first error", later)
				}
			})
		}
	}
}

// What is lent and is not there, or not what was asked for, names who lends; nothing crashes.
func TestBadLoans(t *testing.T) {
	const n = 1000
	lent := func(r frame.Ref) func(*impostor) {
		return func(i *impostor) {
			f := frame.Outgoing{Header: frame.Header{Kind: frame.Data, Type: kernels.F32, Seq: 1, Flags: frame.FlagLent, Job: frame.JobHash("job-1"), Generation: 3}}
			head, err := f.HeadOf(r)
			if err != nil {
				i.t.Fatal(err)
			}
			i.raw(true, head)
		}
	}
	for name, c := range map[string]struct {
		by     Transport
		reduce bool
		act    func(*impostor)
		want   string
	}{
		"over lanes":             {Lanes, false, lent(frame.Ref{Region: 1, Len: 4 * n}), "memory is lent over a link that cannot"},
		"the page":               {SHM, false, lent(frame.Ref{Region: 0, Len: 4 * n}), "region 0 is lent"},
		"a region beyond":        {SHM, false, lent(frame.Ref{Region: 64, Len: 4 * n}), "region 64 is lent"},
		"beyond its end":         {SHM, false, lent(frame.Ref{Region: 1, Off: 4096, Len: 4 * n}), `bytes \[4096, \+4000\) are lent of region 1, which has 8000`},
		"an offset that wraps":   {SHM, false, lent(frame.Ref{Region: 1, Off: 1<<64 - 4000, Len: 4 * n}), "are lent of region 1"},
		"too little":             {SHM, false, lent(frame.Ref{Region: 1, Len: 4*n - 4}), "3996 bytes lent for all-gather #1 block.3 .*: want 4000"},
		"too little to be added": {SHM, true, lent(frame.Ref{Region: 1, Len: 4*n - 4}), "3996 bytes of f32 lent for reduce-scatter #1 .*: want 1000 elements"},
		"never passed": {SHM, false, func(i *impostor) {
			lent(frame.Ref{Region: 2, Len: 4 * n})(i)
			_ = i.loan.Close()
		}, "region 2 is lent and was not passed"},
		"taken back": {SHM, false, func(i *impostor) {
			i.loan.Revoke()
			lent(frame.Ref{Region: 1, Len: 4 * n})(i)
		}, "it took back what it had lent"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g, i := withImpostor(t, fleet{by: c.by})
			if i.loan != nil {
				b, fd, err := memfd.New("test", 8*n)
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() {
					if err := errors.Join(memfd.Unmap(b), unix.Close(fd)); err != nil {
						t.Error(err)
					}
				})
				if err := i.loan.Share(b, fd); err != nil {
					t.Fatal(err)
				}
			}
			var p *collective.Pending
			if c.reduce {
				p = g.ReduceScatter(context.Background(), "block.3", grouptest.NewAccumulator(n), f32(2*n), 0, 2)
				i.post(reduceOp(1, "block.3", n, 2))
			} else {
				p = g.AllGather(context.Background(), "block.3", f32(2*n), f32(n))
				i.post(gatherOp(1, "block.3", n))
			}
			i.await(frame.Post)
			c.act(i)
			err := within(t, p)
			var pe *collective.PeerError
			if !errors.As(err, &pe) || pe.Rank != 0 || !regexp.MustCompile(c.want).MatchString(err.Error()) {
				t.Errorf("got %v, want a *PeerError of rank 0 that says %q", err, c.want)
			}
		})
	}
}

// Frames over gRPC beside those of the lanes would be a second stream of one peer's: they are refused.
func TestStreamThatLanesReplaced(t *testing.T) {
	g, i := withImpostor(t, fleet{by: Lanes})
	p := g.AllGather(context.Background(), "x", f32(2), f32(1))
	i.await(frame.Post)
	h := frame.Header{Kind: frame.Data, Type: kernels.F32, Seq: 1, Job: frame.JobHash("job-1"), Generation: 3}
	if err := i.streams[1].SendMsg(&frame.Outgoing{Header: h, Data: make([]byte, 4)}); err != nil {
		t.Fatal(err)
	}
	err := within(t, p)
	var pe *collective.PeerError
	if !errors.As(err, &pe) || pe.Rank != 0 || !strings.Contains(err.Error(), "a data frame over gRPC, which lanes has replaced") {
		t.Errorf("got %v, want a *PeerError of rank 0", err)
	}
}

// A connection that shows no token, or one that is not known, is let into nothing.
func TestLaneNeedsToken(t *testing.T) {
	g, i := withImpostor(t, fleet{by: Lanes})
	addr := strings.TrimPrefix(i.cc.Target(), "passthrough:///")
	for name, hello := range map[string]proto.Message{
		"none":    &pb.CollectiveLane{},
		"unknown": &pb.CollectiveLane{Token: make([]byte, 16)},
		"memory":  &pb.CollectiveLane{Token: make([]byte, 16), Use: useMemory},
	} {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		head, err := (&frame.Outgoing{Header: frame.Header{Kind: frame.Hello}, Meta: meta(t, hello)}).Head()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write(head); err != nil {
			t.Fatal(err)
		}
		_ = c.SetReadDeadline(time.Now().Add(patience))
		if n, err := c.Read(make([]byte, 1)); err == nil || n > 0 || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: %d bytes and %v came back: want the end of the connection", name, n, err)
		}
		_ = c.Close()
	}
	p := g.AllGather(context.Background(), "x", f32(2), f32(1))
	i.post(gatherOp(1, "x", 1))
	i.data(1, 0, make([]byte, 4))
	if err := within(t, p); err != nil {
		t.Errorf("the peer that was let in: %v", err)
	}
}

func meta(t *testing.T, m proto.Message) []byte {
	t.Helper()
	b, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Frames of an older generation are dropped; the operation goes on.
func TestOlderGenerationIsDropped(t *testing.T) {
	g, i := withImpostor(t, fleet{})
	dst := f32(2)
	p := g.AllGather(context.Background(), "x", dst, f32(1))
	old := func(h *frame.Header) { h.Generation = 2 }
	i.data(1, 0, []byte{9, 9, 9, 9}, old)
	i.message(frame.Post, gatherOp(1, "other", 5), old, func(h *frame.Header) { h.Seq, h.Type = 1, kernels.F32 })
	i.post(gatherOp(1, "x", 1))
	i.data(1, 0, []byte{1, 2, 3, 4})
	if err := within(t, p); err != nil {
		t.Fatal(err)
	}
	if string(dst.Bytes) != "\x01\x02\x03\x04\x00\x00\x00\x00" {
		t.Errorf("gathered % x", dst.Bytes)
	}
	if s := g.Stats(); s.DroppedFrames != 2 {
		t.Errorf("dropped %d frames, want 2", s.DroppedFrames)
	}
}

// A frame of a newer generation ends every wait.
func TestNewerGenerationFences(t *testing.T) {
	g, i := withImpostor(t, fleet{})
	p := g.AllGather(context.Background(), "x", f32(2), f32(1))
	i.data(1, 0, []byte{9, 9, 9, 9}, func(h *frame.Header) { h.Generation = 4 })
	if err := within(t, p); !errors.Is(err, collective.ErrFenced) {
		t.Fatalf("got %v, want ErrFenced", err)
	}
	leave := i.await(frame.Leave)
	var m pb.CollectiveLeave
	if err := proto.Unmarshal(leave.Meta, &m); err != nil || m.GetFencedBy() != 4 {
		t.Errorf("the peer was told %v, want that generation 4 has begun", &m)
	}
}

// A peer whose connection breaks in the middle of a transfer is named at once, with its last
// operation.
func TestPeerDiesHalfWay(t *testing.T) {
	for _, by := range []Transport{Stream, Lanes, SHM} {
		t.Run(string(by), func(t *testing.T) { peerDiesHalfWay(t, by) })
	}
}

func peerDiesHalfWay(t *testing.T, by Transport) {
	g, i := withImpostor(t, fleet{by: by, deadline: time.Hour})
	const n = 1 << 20
	p := g.AllGather(context.Background(), "block.3", f32(2*n), f32(n))
	i.post(gatherOp(1, "block.3", n))
	i.data(1, 0, make([]byte, frame.MaxDataBytes))
	waitFor(t, func() bool { return g.Stats().Peers[0].ReceivedBytes > 0 })
	for _, c := range append(i.lanes[:], i.conn) { // as when a process ends
		if c != nil {
			_ = c.Close()
		}
	}
	err := within(t, p)
	var pe *collective.PeerError
	if !errors.As(err, &pe) || pe.Rank != 0 {
		t.Fatalf("got %v, want a *PeerError of rank 0", err)
	}
	want := `rank 0 \(worker-a\): connection lost: .*; its last operation was all-gather #1 block.3 \[1048576 f32\], begun [0-9.]+m?s ago`
	if !regexp.MustCompile(want).MatchString(err.Error()) {
		t.Errorf("got %q, want %q", err, want)
	}
}

// waitFor waits for a condition that nothing signals.
func waitFor(t *testing.T, ok func() bool) {
	t.Helper()
	give := time.Now().Add(patience)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !ok() {
		if time.Now().After(give) {
			t.Fatal("the condition never came true")
		}
		<-tick.C
	}
}

// A peer that does not arrive, does not send or does not read is named when the deadline has
// passed.
func TestStalls(t *testing.T) {
	const big = 32 << 20 // more than sockets and windows hold
	for name, c := range map[string]struct {
		begin func(collective.Group) *collective.Pending
		act   func(*impostor)
		want  string
	}{
		"has not arrived": {
			func(g collective.Group) *collective.Pending {
				return g.AllGather(context.Background(), "block.3", f32(2*8192), f32(8192))
			},
			func(i *impostor) {
				i.message(frame.Progress, &pb.CollectiveProgress{Last: reduceOp(40, "embed", 64, 2), Finished: true, AgeMicros: 61e6})
			},
			`^rank 0 \(worker-a\) has not arrived at all-gather #1 block.3 \[8192 f32\]: its last operation was reduce-scatter #40 embed of leaves 0 to 1 \[64 f32\], finished 1m1s ago`,
		},
		"begun nothing": {
			func(g collective.Group) *collective.Pending { return g.AllReduce(context.Background(), "sum", f32(1)) },
			func(*impostor) {},
			`^rank 0 \(worker-a\) has not arrived at all-reduce #1 sum \[1 f32\]: it has begun no operation, nothing heard from it for [0-9]+ms \(no progress for`,
		},
		"sends nothing": {
			func(g collective.Group) *collective.Pending {
				return g.AllGather(context.Background(), "block.3", f32(2), f32(1))
			},
			func(i *impostor) { i.post(gatherOp(1, "block.3", 1)) },
			`^rank 0 \(worker-a\) does not finish its part of all-gather #1 block.3 \[1 f32\]: its last operation was all-gather #1`,
		},
		"sends no term": {
			func(g collective.Group) *collective.Pending {
				return g.ReduceScatter(context.Background(), "block.3", grouptest.NewAccumulator(1), f32(2), 0, 2)
			},
			func(i *impostor) { i.post(reduceOp(1, "block.3", 1, 2)) },
			`^rank 0 \(worker-a\) does not finish its part of reduce-scatter #1`,
		},
		"does not read": {
			func(g collective.Group) *collective.Pending {
				return g.Send(context.Background(), "shard", 0, f32(big/4))
			},
			func(i *impostor) {
				i.post(&pb.CollectiveOp{Seq: 1, Kind: uint32(collective.KindRecv), Name: "shard", Elems: big / 4, Type: uint32(kernels.F32), Peer: 1})
			},
			`^rank 0 \(worker-a\) does not read its part of send #1 shard to rank 0 \[8388608 f32\]`,
		},
		"sends a byte at a time": {
			func(g collective.Group) *collective.Pending {
				return g.AllGather(context.Background(), "block.3", f32(2*8192), f32(8192))
			},
			func(i *impostor) {
				i.post(gatherOp(1, "block.3", 8192))
				i.trickle(frame.Outgoing{Header: frame.Header{Kind: frame.Data, Type: kernels.F32, Seq: 1}, Data: make([]byte, 4*8192)})
			},
			// Over gRPC the post trickles too, on the same connection.
			`^rank 0 \(worker-a\) (does not finish its part of|has not arrived at) all-gather #1 block.3 \[8192 f32\]`,
		},
	} {
		for _, by := range []Transport{Stream, Lanes, SHM} {
			t.Run(string(by)+"/"+name, func(t *testing.T) {
				t.Parallel()
				const deadline = 400 * time.Millisecond
				g, i := withImpostor(t, fleet{by: by, deadline: deadline})
				c.act(i)
				begun := time.Now()
				p := c.begin(g)
				err := within(t, p)
				took := time.Since(begun)
				var s *collective.StallError
				if !errors.As(err, &s) || !errors.Is(err, collective.ErrStalled) {
					t.Fatalf("got %v, want a *StallError", err)
				}
				if !regexp.MustCompile(c.want).MatchString(err.Error()) {
					t.Errorf("got %q, want %q", err, c.want)
				}
				if took < deadline/2 || took > patience/2 {
					t.Errorf("took %s, want about %s", took, deadline)
				}
			})
		}
	}
}
