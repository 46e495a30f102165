package grouptest

import (
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/zerofleet/zerofleet/collective"
	"github.com/zerofleet/zerofleet/kernels"
)

// testStats compares the counters with the bytes that the plan's formulas give: a direct
// exchange moves (W-1)/W of the buffer per rank.
func testStats(t *testing.T, groups []collective.Group, rng *rand.Rand) {
	ctx := patient(t)
	w := len(groups)
	const n = 3001
	contributors := max(1, w-1)
	eachRank(groups, func(r int, g collective.Group) {
		rng := rand.New(rand.NewPCG(uint64(r), 1))
		wait(t, g.AllGather(ctx, "g", buffer(n*w), buffer(n)), "rank %d", r)
		var src collective.Buffer
		if r < contributors {
			src = values(rng, n*w, kernels.BF16)
		}
		wait(t, g.ReduceScatter(ctx, "r", NewAccumulator(n), src, 0, contributors), "rank %d", r)
		if _, err := g.Exchange(ctx, make([]byte, 10)); err != nil {
			t.Errorf("rank %d: %v", r, err)
		}
		if w > 1 && r == 0 {
			wait(t, g.Send(ctx, "s", 1, buffer(n)), "rank %d", r)
		}
		if w > 1 && r == 1 {
			wait(t, g.Recv(ctx, "s", 0, buffer(n)), "rank %d", r)
		}
		wait(t, g.Broadcast(ctx, "b", w-1, buffer(n)), "rank %d", r)
	})
	peers := uint64(w - 1)
	for r, g := range groups {
		s := g.Stats()
		sent := func(k collective.Kind, want uint64) {
			t.Helper()
			if s.SentBytes[k] != want {
				t.Errorf("rank %d sent %d bytes of %s, want %d", r, s.SentBytes[k], k, want)
			}
		}
		received := func(k collective.Kind, want uint64) {
			t.Helper()
			if s.ReceivedBytes[k] != want {
				t.Errorf("rank %d received %d bytes of %s, want %d", r, s.ReceivedBytes[k], k, want)
			}
		}
		when := func(b bool, n uint64) uint64 {
			if b {
				return n
			}
			return 0
		}
		sent(collective.KindAllGather, peers*n*4)
		received(collective.KindAllGather, peers*n*4)
		sent(collective.KindReduceScatter, when(r < contributors, peers*n*2))
		received(collective.KindReduceScatter, uint64(contributors)*n*2-when(r < contributors, n*2))
		sent(collective.KindExchange, peers*10)
		received(collective.KindExchange, peers*10)
		sent(collective.KindSend, when(w > 1 && r == 0, n*4))
		received(collective.KindRecv, when(w > 1 && r == 1, n*4))
		sent(collective.KindBroadcast, when(r == w-1, peers*n*4))
		received(collective.KindBroadcast, when(r != w-1, n*4))
		if s.Ops[collective.KindAllGather] != 1 || s.Ops[collective.KindReduceScatter] != 1 || s.Ops[collective.KindExchange] != 1 {
			t.Errorf("rank %d counts operations %v", r, s.Ops)
		}
		var out, in uint64
		for q, p := range s.Peers {
			out += p.SentBytes
			in += p.ReceivedBytes
			if q == r && (p.SentBytes != 0 || p.ReceivedBytes != 0) {
				t.Errorf("rank %d counts bytes to itself: %+v", r, p)
			}
		}
		if out != s.TotalSentBytes() || in != s.TotalReceivedBytes() {
			t.Errorf("rank %d: peers sum to %d and %d bytes, kinds to %d and %d", r, out, in, s.TotalSentBytes(), s.TotalReceivedBytes())
		}
		if s.BufferedBytes != 0 {
			t.Errorf("rank %d still buffers %d bytes", r, s.BufferedBytes)
		}
	}
}

// testRecords checks what the flight recorder says of ended operations, and that it forgets.
func testRecords(t *testing.T, groups []collective.Group, _ *rand.Rand) {
	ctx := patient(t)
	eachRank(groups, func(r int, g collective.Group) {
		for range collective.MaxRecords {
			if _, err := g.Exchange(ctx, nil); err != nil {
				t.Errorf("rank %d: %v", r, err)
				return
			}
		}
		wait(t, g.AllGather(ctx, "block.3", buffer(7*g.Size()), buffer(7)), "rank %d", r)
		records := g.Records()
		if len(records) != collective.MaxRecords {
			t.Errorf("rank %d keeps %d records, want %d", r, len(records), collective.MaxRecords)
			return
		}
		if first := records[0]; first.Seq != 2 || first.Kind != collective.KindExchange {
			t.Errorf("rank %d: the oldest record is %v, want exchange #2", r, first)
		}
		last := records[len(records)-1]
		if last.Op.String() != "all-gather #257 block.3 [7 f32]" || last.Ended.Before(last.Posted) || last.Err != "" {
			t.Errorf("rank %d: the newest record is %v, from %v to %v", r, last, last.Posted, last.Ended)
		}
		if newest, ok := g.Last(); !ok || newest != last {
			t.Errorf("rank %d: the last operation is %v, want %v", r, newest, last)
		}
		var log strings.Builder
		if err := collective.Dump(&log, records); err != nil || strings.Count(log.String(), "\n") != len(records) {
			t.Errorf("rank %d: dump of %d records has %d lines, error %v", r, len(records), strings.Count(log.String(), "\n"), err)
		}
	})
}
