package grouptest

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"testing"

	"github.com/zerofleet/zerofleet/collective"
	"github.com/zerofleet/zerofleet/kernels"
)

// A step is one operation of a random program that all ranks run.
type step struct {
	kind  collective.Kind
	n     int
	dtype kernels.DType
	root  int
	// What the ranks give, and what a reduction gives.
	given []collective.Buffer
	sum   []float32
	acc   int // which accumulator a reduce-scatter folds onto
	first int
	count int // contributors
}

const programAccs = 2

// program makes a random list of steps; sums says what each accumulator must hold at the end.
func program(rng *rand.Rand, w int) (steps []step, sums [programAccs][]float32, accElems [programAccs]int) {
	leaves := [programAccs]int{}
	for a := range programAccs {
		accElems[a] = rng.IntN(6000)
		sums[a] = make([]float32, w*accElems[a])
	}
	for range 60 {
		s := step{n: rng.IntN(6000), dtype: kernels.F32, root: rng.IntN(w), given: make([]collective.Buffer, w)}
		s.kind = []collective.Kind{collective.KindAllGather, collective.KindReduceScatter, collective.KindReduceScatter, collective.KindAllReduce, collective.KindBroadcast}[rng.IntN(5)]
		switch s.kind {
		case collective.KindReduceScatter:
			s.acc = rng.IntN(programAccs)
			s.n = accElems[s.acc]
			s.dtype = []kernels.DType{kernels.F32, kernels.BF16}[rng.IntN(2)]
			s.first, s.count = leaves[s.acc], 1+rng.IntN(w)
			leaves[s.acc] += s.count
			for r := range s.count {
				s.given[r] = values(rng, w*s.n, s.dtype)
				foldInto(sums[s.acc], s.given[r].Bytes, s.dtype)
			}
		case collective.KindAllReduce:
			if rng.IntN(4) == 0 {
				s.n += 16 << 10 // past one hop
			}
			s.sum = make([]float32, s.n)
			for r := range w {
				s.given[r] = values(rng, s.n, kernels.F32)
				foldInto(s.sum, s.given[r].Bytes, kernels.F32)
			}
		default:
			for r := range w {
				s.given[r] = values(rng, s.n, s.dtype)
			}
		}
		steps = append(steps, s)
	}
	return steps, sums, accElems
}

// testOverlap runs a random program with many operations in flight.
func testOverlap(t *testing.T, groups []collective.Group, rng *rand.Rand) {
	ctx := patient(t)
	w := len(groups)
	steps, sums, accElems := program(rng, w)
	seed := rng.Uint64()
	eachRank(groups, func(r int, g collective.Group) {
		pace := rand.New(rand.NewPCG(seed, uint64(r)))
		var accs [programAccs]*Accumulator
		for a := range accs {
			accs[a] = NewAccumulator(accElems[a])
		}
		type flight struct {
			what  string
			p     *collective.Pending
			check func() error
		}
		var flights []flight
		land := func() {
			f := flights[0]
			flights = flights[1:]
			if wait(t, f.p, "rank %d, %s", r, f.what) && f.check != nil {
				if err := f.check(); err != nil {
					t.Errorf("rank %d, %s: %v", r, f.what, err)
				}
			}
		}
		for i, s := range steps {
			p, check := s.begin(ctx, g, accs, fmt.Sprintf("step.%d", i))
			flights = append(flights, flight{fmt.Sprintf("step %d, %s", i, s.kind), p, check})
			for len(flights) > 0 && pace.IntN(10) == 0 || len(flights) > 20 {
				land()
			}
			if pace.IntN(3) == 0 {
				runtime.Gosched()
			}
		}
		for len(flights) > 0 {
			land()
		}
		for a, acc := range accs {
			n := accElems[a]
			if err := sameBits(acc.Sum, sums[a][r*n:(r+1)*n]); err != nil {
				t.Errorf("rank %d, accumulator %d: %v", r, a, err)
			}
		}
	})
}

// begin posts the step at one rank; check, if any, compares the result once it has ended.
func (s step) begin(ctx context.Context, g collective.Group, accs [programAccs]*Accumulator, name string) (p *collective.Pending, check func() error) {
	r, w := g.Rank(), g.Size()
	differ := fmt.Errorf("other bytes than were given")
	switch s.kind {
	case collective.KindReduceScatter:
		return g.ReduceScatter(ctx, name, accs[s.acc], s.given[r], s.first, s.count), nil
	case collective.KindAllReduce:
		return g.AllReduce(ctx, name, s.given[r]), func() error { return sameBits(floats(s.given[r].Bytes), s.sum) }
	case collective.KindBroadcast:
		buf := collective.Buffer{Bytes: make([]byte, 4*s.n), Type: kernels.F32}
		if r == s.root {
			copy(buf.Bytes, s.given[r].Bytes)
		}
		return g.Broadcast(ctx, name, s.root, buf), func() error {
			if !bytes.Equal(buf.Bytes, s.given[s.root].Bytes) {
				return differ
			}
			return nil
		}
	}
	dst := collective.Buffer{Bytes: make([]byte, 4*s.n*w), Type: kernels.F32}
	return g.AllGather(ctx, name, dst, s.given[r]), func() error {
		for q := range w {
			if !bytes.Equal(slice(dst, q*s.n, (q+1)*s.n).Bytes, s.given[q].Bytes) {
				return fmt.Errorf("rank %d's part: %w", q, differ)
			}
		}
		return nil
	}
}
