package grpc

import (
	"context"
	"encoding/binary"
	"errors"
	"math"
	"math/rand/v2"
	"regexp"
	"runtime"
	"sync"
	"testing"

	"github.com/zerofleet/zerofleet/collective"
	"github.com/zerofleet/zerofleet/collective/grouptest"
	"github.com/zerofleet/zerofleet/collective/internal/frame"
	"github.com/zerofleet/zerofleet/kernels"
)

// gated is an accumulator that waits for the test before each fold.
type gated struct {
	*grouptest.Accumulator
	gate <-chan struct{}
}

func (g gated) Fold(leaf, off int, src []byte, t kernels.DType) error {
	<-g.gate
	return g.Accumulator.Fold(leaf, off, src, t)
}

// A peer that sends beyond its credit is cut off.
func TestDataBeyondCredit(t *testing.T) {
	const budget, n = 64 << 10, 100_000
	g, i := withImpostor(t, fleet{budget: budget})
	gate := make(chan struct{})
	p := g.ReduceScatter(context.Background(), "block.3", gated{grouptest.NewAccumulator(n), gate}, f32(2*n), 0, 2)
	i.post(reduceOp(1, "block.3", n, 2))
	credit := i.await(frame.Credit).Chunk
	if credit == 0 || credit*16<<10 > budget {
		t.Fatalf("credit for %d chunks of 16 KiB in a budget of %d bytes", credit, budget)
	}
	for c := range credit + 1 {
		i.data(1, c, make([]byte, 16<<10))
	}
	// The fold holds the first chunk at its gate; the engine sees the last one arrive all the
	// same.
	i.await(frame.Leave)
	close(gate)
	err := within(t, p)
	var pe *collective.PeerError
	if !errors.As(err, &pe) || !regexp.MustCompile(`chunk \d+ of reduce-scatter #1 block.3 .* without credit, which ends at \d+`).MatchString(err.Error()) {
		t.Errorf("got %v, want a *PeerError about credit", err)
	}
	if s := g.Stats(); s.PeakBufferedBytes > budget {
		t.Errorf("buffered %d bytes, budget %d", s.PeakBufferedBytes, budget)
	}
}

// Sixteen ranks reduce 7 MB to a rank that folds slowly. What it holds stays within its budget, by its own count of what it let others send; so does the process.
func TestBudgetHolds(t *testing.T) {
	const (
		world  = 16
		budget = 1 << 20
		n      = 60_000
		rounds = 2
		slow   = 5
	)
	f := fleet{world: world, budget: budget}
	groups := f.open(t)
	defer func() {
		var wg sync.WaitGroup
		for _, g := range groups {
			wg.Go(func() { _ = g.Close() })
		}
		wg.Wait()
	}()
	src := make([]collective.Buffer, world)
	for r := range src {
		src[r] = f32(world * n)
		rng := rand.New(rand.NewPCG(uint64(r), 1))
		for i := 0; i < len(src[r].Bytes); i += 4 {
			src[r].Bytes[i], src[r].Bytes[i+3] = byte(rng.Uint32()), 0x3f // about 1
		}
	}
	gate := make(chan struct{})
	open := sync.OnceFunc(func() { close(gate) })
	defer open()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	accs := make([]*grouptest.Accumulator, world)
	for r := range accs {
		accs[r] = grouptest.NewAccumulator(n)
	}
	before := heapBytes()
	var pending []*collective.Pending
	for r, g := range groups {
		var acc collective.Accumulator = accs[r]
		if r == slow {
			acc = gated{accs[r], gate}
		}
		for i := range rounds {
			pending = append(pending, g.ReduceScatter(ctx, "unit", acc, src[r], i*world, world))
		}
	}
	// The slow rank folds nothing: it fills up to its budget, while the others fold all of
	// theirs.
	waitFor(t, func() bool {
		for r, g := range groups {
			s := g.Stats()
			done := s.TotalReceivedBytes() == rounds*(world-1)*4*n && s.BufferedBytes == 0
			if r == slow {
				done = s.GrantedBytes > budget/2 && s.BufferedBytes == s.GrantedBytes
			}
			if !done {
				return false
			}
		}
		return true
	})
	held := heapBytes() - before
	open()
	for _, p := range pending {
		if err := within(t, p); err != nil {
			t.Fatal(err)
		}
	}
	for r, g := range groups {
		s := g.Stats()
		if s.PeakGrantedBytes > budget || s.PeakBufferedBytes > budget || s.GrantedBytes != 0 || s.BufferedBytes != 0 {
			t.Errorf("rank %d: granted %d bytes at most, %d at the end; buffered %d at most, %d at the end: want at most %d and 0",
				r, s.PeakGrantedBytes, s.GrantedBytes, s.PeakBufferedBytes, s.BufferedBytes, budget)
		}
		for i, v := range accs[r].Sum {
			var want float32
			for range rounds {
				for q := range src {
					b := src[q].Bytes[4*(r*n+i):]
					want += math.Float32frombits(binary.LittleEndian.Uint32(b))
				}
			}
			if v != want {
				t.Fatalf("rank %d, element %d: got %v, want %v", r, i, v, want)
			}
		}
	}
	if most := int64(4 * budget); held > most {
		t.Errorf("the process holds %d bytes more, want at most %d", held, most)
	}
	t.Logf("slow rank: %d bytes granted at most, %d buffered at most, of %d that it receives; the process held %d bytes more",
		groups[slow].Stats().PeakGrantedBytes, groups[slow].Stats().PeakBufferedBytes, groups[slow].Stats().TotalReceivedBytes(), held)
}

// heapBytes is what is reachable on the heap.
func heapBytes() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC() // pools give up what they keep at the second one
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
