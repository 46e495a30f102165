package engine

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"math"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/zerofleet/zerofleet/collective"
	"github.com/zerofleet/zerofleet/collective/grouptest"
	"github.com/zerofleet/zerofleet/collective/internal/frame"
	"github.com/zerofleet/zerofleet/kernels"
	pb "github.com/zerofleet/zerofleet/proto/zerofleet/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A term that arrives in pieces is added like a whole one, wherever the pieces are cut.
func TestFoldPieces(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		dtype := rapid.SampledFrom([]kernels.DType{kernels.F32, kernels.BF16, kernels.Int8}).Draw(t, "type")
		n := rapid.IntRange(0, 300).Draw(t, "elements")
		if dtype.Block() > 1 {
			n = n % 5 * dtype.Block()
		}
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1))
		src := make([]byte, dtype.Size(n))
		for i := range src {
			src[i] = byte(rng.Uint32())
		}
		var pieces mem.BufferSlice
		for rest := src; len(rest) > 0; {
			k := min(rng.IntN(9), len(rest))
			if rng.IntN(4) == 0 {
				k = min(rng.IntN(200), len(rest))
			}
			pieces = append(pieces, mem.SliceBuffer(rest[:k]))
			rest = rest[k:]
		}
		whole, cut := grouptest.NewAccumulator(n+5), grouptest.NewAccumulator(n+5)
		if n > 0 {
			if err := whole.Fold(0, 3, src, dtype); err != nil {
				t.Fatal(err)
			}
		}
		if err := foldPieces(cut, 0, 3, pieces, dtype); err != nil {
			t.Fatal(err)
		}
		for i := range whole.Sum {
			if math.Float32bits(whole.Sum[i]) != math.Float32bits(cut.Sum[i]) {
				t.Fatalf("element %d: got %v in pieces, want %v", i, cut.Sum[i], whole.Sum[i])
			}
		}
	})
}

// However small the budget, its parts fit into it and a chunk can be granted.
func TestDivide(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		peers := rapid.IntRange(1, 1000).Draw(t, "peers")
		budget := rapid.Int64Range(int64(peers)*minPeerBudget, 1<<40).Draw(t, "budget")
		chunk, eager, fold := divide(budget, peers)
		if chunk < 4<<10 || chunk > frame.MaxDataBytes || chunk&(chunk-1) != 0 {
			t.Fatalf("chunks of %d bytes: want a power of two, 4096 to %d", chunk, frame.MaxDataBytes)
		}
		if int64(peers*2*chunk) > fold || eager < 0 || int64(peers*eager)+fold > budget {
			t.Fatalf("chunk %d, eager %d, fold %d do not fit into %d for %d peers", chunk, eager, fold, budget, peers)
		}
	})
}

func TestConfigValidate(t *testing.T) {
	err := Config{IDs: []string{"a", "b"}, Rank: 2, Budget: 1}.Validate()
	want := "rank 2 of 2: want a rank below the world size\n" +
		"receive budget of 1 bytes: want at least 16384 for 1 peers\n" +
		"deadline 0s: want more than 0\n" +
		"generation 0: they count from 1"
	if err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

// sink is a link whose peer reads everything and says nothing.
type sink struct{}

func (sink) Send(bool, *frame.Outgoing) error { return nil }
func (sink) ChunkBytes() int                  { return 4096 }
func (sink) Lends([]byte) bool                { return false }
func (sink) Fresh() bool                      { return true }
func (sink) Close()                           {}

// FuzzDeliver plays a peer that sends anything that passes for a frame, while operations of
// every kind are in flight. Whatever it does, nothing crashes, and the Group closes.
func FuzzDeliver(f *testing.F) {
	op := func(kind collective.Kind, seq uint64) []byte {
		b, err := proto.Marshal(&pb.CollectiveOp{Seq: seq, Kind: uint32(kind), Name: "x", Elems: 2000, Type: uint32(kernels.F32), Contributors: 2})
		if err != nil {
			f.Fatal(err)
		}
		return b
	}
	add := func(parts ...[]byte) { f.Add(bytes.Join(parts, nil)) }
	one := func(kind frame.Kind, space frame.Space, seq, chunk byte, meta []byte, data int) []byte {
		b := []byte{byte(kind), byte(kernels.F32), byte(space), 0, seq, chunk, byte(len(meta))}
		return append(binary.LittleEndian.AppendUint16(append(b, meta...), uint16(data)), 0)
	}
	add(one(frame.Post, 0, 1, 0, op(collective.KindAllGather, 1), 0), one(frame.Data, 0, 1, 0, nil, 4096), one(frame.Data, 0, 1, 1, nil, 3904))
	add(one(frame.Post, 0, 2, 0, op(collective.KindReduceScatter, 2), 0), one(frame.Data, 0, 2, 0, nil, 4096), one(frame.Data, 0, 2, 1, nil, 3904), one(frame.Credit, 0, 2, 2, nil, 0))
	add(one(frame.Post, 0, 9, 0, op(collective.KindAllReduce, 9), 0), one(frame.Credit, 0, 9, 2, nil, 0))
	add(one(frame.Leave, 0, 0, 0, nil, 0), one(frame.Ack, 0, 0, 0, nil, 0))
	add(one(frame.Progress, 0, 0, 0, []byte("\x0a\x02\x08\x01"), 0))
	f.Fuzz(func(t *testing.T, script []byte) {
		e, err := New(Config{Job: "j", Generation: 2, Rank: 1, IDs: []string{"a", "b"}, Budget: 1 << 20, Deadline: time.Hour})
		if err != nil {
			t.Fatal(err)
		}
		e.Start([]Link{sink{}, nil})
		defer e.Close()
		buf := func(n int) collective.Buffer {
			return collective.Buffer{Bytes: make([]byte, 4*n), Type: kernels.F32}
		}
		ctx := context.Background()
		e.AllGather(ctx, "x", buf(4000), buf(2000))
		e.ReduceScatter(ctx, "x", grouptest.NewAccumulator(2000), buf(4000), 0, 2)
		e.AllReduce(ctx, "x", buf(10))
		e.AllReduce(ctx, "x", buf(20000))
		e.Broadcast(ctx, "x", 0, buf(2000))
		e.Send(ctx, "x", 0, buf(2000))
		e.Recv(ctx, "x", 0, buf(2000))
		for len(script) >= 10 && e.Err() == nil {
			b := script
			h := frame.Header{
				Kind: frame.Kind(b[0]), Type: kernels.DType(b[1]), Space: frame.Space(b[2] % 4), Flags: b[3] & 3,
				Seq: uint64(b[4]), Chunk: uint32(b[5]), Job: e.job, Generation: 2, Rank: 0,
			}
			metaBytes := int(b[6])
			b = b[7:]
			meta := b[:min(metaBytes, len(b))]
			b = b[len(meta):]
			var data []byte
			if len(b) >= 2 {
				data = make([]byte, binary.LittleEndian.Uint16(b))
				b = b[2:]
			}
			bulk := len(b) > 0 && b[0]&1 != 0 || h.Kind == frame.Data
			script = b[min(1, len(b)):]
			out := frame.Outgoing{Header: h, Meta: meta, Data: data}
			wire, err := out.Encode(mem.DefaultBufferPool())
			if err != nil {
				t.Fatal(err)
			}
			in, err := frame.Decode(wire)
			wire.Free()
			if err != nil {
				e.Reject(0, err)
				continue
			}
			e.Deliver(0, bulk, in)
		}
		e.Lost(0, false, io.EOF) // else Close waits for the peer to know
		if s := e.Stats(); s.BufferedBytes < 0 || s.PeakBufferedBytes > 1<<20 {
			t.Errorf("%d bytes buffered, at most %d: want 0 to the budget", s.BufferedBytes, s.PeakBufferedBytes)
		}
	})
}

// A link that no longer takes anything does not keep a Group from closing, and Close waits
// for what still sends from a caller's memory.
func TestCloseWithStuckLink(t *testing.T) {
	e, err := New(Config{Job: "j", Generation: 1, Rank: 0, IDs: []string{"a", "b"}, Budget: 1 << 20, Deadline: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	l := &stuck{closed: make(chan struct{}), sending: make(chan struct{})}
	e.Start([]Link{nil, l})
	p := e.Send(context.Background(), "x", 1, collective.Buffer{Bytes: make([]byte, 10000), Type: kernels.U8})
	<-l.sending
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-p.Done():
	default:
		t.Error("the group is closed, and an operation is still pending")
	}
}

// stuck is a link that blocks every send until it is closed.
type stuck struct {
	once            sync.Once
	closed, sending chan struct{}
}

func (l *stuck) Send(bool, *frame.Outgoing) error {
	l.once.Do(func() { close(l.sending) })
	<-l.closed
	return context.Canceled
}
func (l *stuck) ChunkBytes() int   { return 4096 }
func (l *stuck) Lends([]byte) bool { return false }
func (l *stuck) Fresh() bool       { return true }
func (l *stuck) Close()            { close(l.closed) }
