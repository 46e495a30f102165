// Package local is the transport between goroutines of one process: a Group per rank, joined
// by a hub that executes an operation once all its ranks have posted it. It is the simplest
// thing that keeps the contract of collective.Group, the yardstick for the other transports
// in tests; nothing in it is fast.
package local

import (
	"context"
	"fmt"
	"time"

	"github.com/zerofleet/zerofleet/collective"
	"github.com/zerofleet/zerofleet/collective/internal/check"
)

// group is one rank's door to the hub.
type group struct {
	hub        *hub
	rank       int
	generation uint64
	recorder   collective.Recorder

	// Guarded by hub.mu.
	seq    map[order]uint64 // last assigned
	stats  collective.Stats
	closed bool
	final  *collective.StallError // what was stalled when the group failed, nil for nothing
}

// New makes the Groups of n ranks of generation 1, n at least 1. Each must be closed; the
// last Close waits for the goroutine that New starts.
func New(n int) []collective.Group { return NewGeneration(n, 1) }

// NewGeneration is New for a numbered generation.
func NewGeneration(n int, generation uint64) []collective.Group {
	if n < 1 {
		panic(fmt.Sprintf("local: %d ranks: want at least 1", n))
	}
	h := &hub{done: make(chan struct{}), waiting: map[key][]*post{}, open: n, culprit: -1}
	h.changed.L = &h.mu
	out := make([]collective.Group, n)
	for r := range n {
		g := &group{hub: h, rank: r, generation: generation, seq: map[order]uint64{}}
		g.stats.Peers = make([]collective.PeerStats, n)
		h.groups = append(h.groups, g)
		out[r] = g
	}
	go h.run()
	return out
}

func (g *group) Rank() int          { return g.rank }
func (g *group) Size() int          { return len(g.hub.groups) }
func (g *group) Generation() uint64 { return g.generation }

// Last is collective.Group's.
func (g *group) Last() (collective.Record, bool) { return g.recorder.Last() }

// Stalled is collective.Group's.
func (g *group) Stalled(longer time.Duration) *collective.StallError {
	return g.hub.stalled(g.rank, longer)
}

// Share is collective.Group's: goroutines share all memory.
func (g *group) Share([]byte, int) error { return nil }

func (g *group) AllGather(ctx context.Context, name string, dst, shard collective.Buffer) *collective.Pending {
	op, err := check.AllGather(g.Size(), name, dst, shard)
	if err != nil {
		return collective.Completed(err)
	}
	return g.hub.post(ctx, g, everyone, op, args{dst: dst, src: shard})
}

func (g *group) ReduceScatter(ctx context.Context, name string, acc collective.Accumulator, src collective.Buffer, firstLeaf, contributors int) *collective.Pending {
	op, err := check.ReduceScatter(g.rank, g.Size(), name, acc, src, firstLeaf, contributors)
	if err != nil {
		return collective.Completed(err)
	}
	return g.hub.post(ctx, g, everyone, op, args{acc: acc, src: src})
}

func (g *group) AllReduce(ctx context.Context, name string, buf collective.Buffer) *collective.Pending {
	op, err := check.AllReduce(name, buf)
	if err != nil {
		return collective.Completed(err)
	}
	return g.hub.post(ctx, g, everyone, op, args{dst: buf})
}

func (g *group) Exchange(ctx context.Context, record []byte) ([][]byte, error) {
	op, err := check.Exchange(record)
	if err != nil {
		return nil, err
	}
	records := make([][]byte, g.Size())
	p := g.hub.post(ctx, g, everyone, op, args{record: record, records: records})
	<-p.Done() // ctx is watched by the hub: the record is the hub's until then
	if err := p.Wait(ctx); err != nil {
		return nil, err
	}
	return records, nil
}

func (g *group) Send(ctx context.Context, name string, to int, src collective.Buffer) *collective.Pending {
	op, err := check.Transfer(collective.KindSend, g.rank, g.Size(), name, to, src)
	if err != nil {
		return collective.Completed(err)
	}
	return g.hub.post(ctx, g, order{g.rank, to}, op, args{src: src})
}

func (g *group) Recv(ctx context.Context, name string, from int, dst collective.Buffer) *collective.Pending {
	op, err := check.Transfer(collective.KindRecv, g.rank, g.Size(), name, from, dst)
	if err != nil {
		return collective.Completed(err)
	}
	return g.hub.post(ctx, g, order{from, g.rank}, op, args{dst: dst})
}

func (g *group) Broadcast(ctx context.Context, name string, root int, buf collective.Buffer) *collective.Pending {
	op, err := check.Broadcast(g.Size(), name, root, buf)
	if err != nil {
		return collective.Completed(err)
	}
	return g.hub.post(ctx, g, everyone, op, args{dst: buf})
}

func (g *group) Stats() collective.Stats {
	g.hub.mu.Lock()
	defer g.hub.mu.Unlock()
	s := g.stats
	s.Peers = append([]collective.PeerStats(nil), g.stats.Peers...)
	return s
}

func (g *group) Records() []collective.Record { return g.recorder.Records() }

func (g *group) Close() error {
	g.hub.close(g)
	return nil
}
