package grouptest

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/zerofleet/zerofleet/collective"
	"github.com/zerofleet/zerofleet/kernels"
)

func testAllGather(t *testing.T, groups []collective.Group, rng *rand.Rand) {
	ctx := patient(t)
	w := len(groups)
	for _, dtype := range []kernels.DType{kernels.F32, kernels.BF16, kernels.U8, kernels.F64} {
		for _, n := range append(sizes(rng), 20000+rng.IntN(5000)) { // more than what a transport may take for small

			all := values(rng, n*w, dtype)
			eachRank(groups, func(r int, g collective.Group) {
				at := fmt.Sprintf("%d %s, rank %d", n, dtype, r)
				own := slice(all, r*n, (r+1)*n)
				dst := values(rand.New(rand.NewPCG(1, 2)), n*w, dtype)
				if !wait(t, g.AllGather(ctx, "apart", dst, own), "%s", at) {
					return
				}
				if !bytes.Equal(dst.Bytes, all.Bytes) {
					t.Errorf("%s: gathered other bytes than were given", at)
				}
				dst = values(rand.New(rand.NewPCG(3, 4)), n*w, dtype)
				part := slice(dst, r*n, (r+1)*n)
				copy(part.Bytes, own.Bytes)
				if wait(t, g.AllGather(ctx, "in place", dst, part), "%s, in place", at) && !bytes.Equal(dst.Bytes, all.Bytes) {
					t.Errorf("%s, in place: gathered other bytes than were given", at)
				}
			})
		}
	}
}

// testReduceScatter runs rounds of leaves onto one accumulator, all in flight at once, the
// last round not full.
func testReduceScatter(t *testing.T, groups []collective.Group, rng *rand.Rand) {
	ctx := patient(t)
	w := len(groups)
	for _, dtype := range []kernels.DType{kernels.F32, kernels.BF16, kernels.Int8} {
		for _, n := range sizes(rng) {
			n = n / dtype.Block() * dtype.Block()
			leaves := 2*w + 1 + rng.IntN(w)
			all := make([]collective.Buffer, leaves)
			want := make([]float32, w*n)
			for l := range all {
				all[l] = values(rng, w*n, dtype)
				foldInto(want, all[l].Bytes, dtype)
			}
			eachRank(groups, func(r int, g collective.Group) {
				acc := NewAccumulator(n)
				var rounds []*collective.Pending
				for first := 0; first < leaves; first += w {
					contributors := min(w, leaves-first)
					var src collective.Buffer
					if r < contributors {
						src = all[first+r]
					}
					rounds = append(rounds, g.ReduceScatter(ctx, "unit", acc, src, first, contributors))
				}
				for i, p := range rounds {
					wait(t, p, "%d %s, rank %d, round %d", n, dtype, r, i)
				}
				if err := sameBits(acc.Sum, want[r*n:(r+1)*n]); err != nil {
					t.Errorf("%d %s, %d leaves, rank %d: %v", n, dtype, leaves, r, err)
				}
				for i, next := range acc.next {
					if next != leaves {
						t.Errorf("%d %s, rank %d: element %d saw %d leaves, want %d", n, dtype, r, i, next, leaves)
						break
					}
				}
			})
		}
	}
}

func testAllReduce(t *testing.T, groups []collective.Group, rng *rand.Rand) {
	ctx := patient(t)
	for _, n := range append(sizes(rng), 17000+rng.IntN(5000)) {
		want := make([]float32, n)
		terms := make([]collective.Buffer, len(groups))
		for r := range terms {
			terms[r] = values(rng, n, kernels.F32)
			foldInto(want, terms[r].Bytes, kernels.F32)
		}
		eachRank(groups, func(r int, g collective.Group) {
			if wait(t, g.AllReduce(ctx, "sum", terms[r]), "%d, rank %d", n, r) {
				if err := sameBits(floats(terms[r].Bytes), want); err != nil {
					t.Errorf("%d, rank %d: %v", n, r, err)
				}
			}
		})
	}
}

func testExchange(t *testing.T, groups []collective.Group, rng *rand.Rand) {
	ctx := patient(t)
	for _, most := range []int{0, 1, 300, collective.MaxRecordBytes} {
		records := make([][]byte, len(groups))
		for r := range records {
			n := most
			if most > 0 && r > 0 {
				n = rng.IntN(most + 1)
			}
			records[r] = values(rng, n, kernels.U8).Bytes
		}
		eachRank(groups, func(r int, g collective.Group) {
			own := slices.Clone(records[r])
			got, err := g.Exchange(ctx, own)
			if err != nil {
				t.Errorf("rank %d: %v", r, err)
				return
			}
			clear(own) // it is the caller's again
			if len(got) != len(records) {
				t.Errorf("rank %d: got %d records, want %d", r, len(got), len(records))
				return
			}
			for q := range got {
				if !bytes.Equal(got[q], records[q]) {
					t.Errorf("rank %d: rank %d's record differs", r, q)
				}
			}
		})
	}
}

// testSendRecv sends every rank's buffers to every other, several in flight, posted in an
// order of each rank's own.
func testSendRecv(t *testing.T, groups []collective.Group, rng *rand.Rand) {
	ctx := patient(t)
	w := len(groups)
	const rounds = 3
	given := map[[3]int]collective.Buffer{}
	for from := range w {
		for to := range w {
			for i := range rounds {
				n := []int{0, 1 + rng.IntN(100), 9000 + rng.IntN(3000)}[rng.IntN(3)]
				given[[3]int{from, to, i}] = values(rng, n, kernels.BF16)
			}
		}
	}
	seed := rng.Uint64()
	eachRank(groups, func(r int, g collective.Group) {
		order := rand.New(rand.NewPCG(seed, uint64(r)))
		var pending []*collective.Pending
		got := map[[3]int]collective.Buffer{}
		for i := range rounds {
			for _, q := range order.Perm(w) {
				if q == r {
					continue
				}
				out, in := given[[3]int{r, q, i}], [3]int{q, r, i}
				got[in] = collective.Buffer{Bytes: make([]byte, len(given[in].Bytes)), Type: kernels.BF16}
				name := fmt.Sprintf("shard.%d", i)
				if order.IntN(2) == 0 {
					pending = append(pending, g.Send(ctx, name, q, out), g.Recv(ctx, name, q, got[in]))
				} else {
					pending = append(pending, g.Recv(ctx, name, q, got[in]), g.Send(ctx, name, q, out))
				}
			}
		}
		for _, p := range pending {
			if !wait(t, p, "rank %d", r) {
				return
			}
		}
		for k, b := range got {
			if !bytes.Equal(b.Bytes, given[k].Bytes) {
				t.Errorf("rank %d: transfer %d from rank %d differs", r, k[2], k[0])
			}
		}
	})
}

func testBroadcast(t *testing.T, groups []collective.Group, rng *rand.Rand) {
	ctx := patient(t)
	for root := range groups {
		for _, n := range sizes(rng) {
			given := values(rng, n, kernels.F32)
			eachRank(groups, func(r int, g collective.Group) {
				buf := collective.Buffer{Bytes: make([]byte, 4*n), Type: kernels.F32}
				if r == root {
					copy(buf.Bytes, given.Bytes)
				}
				if wait(t, g.Broadcast(ctx, "weights", root, buf), "%d of %d, rank %d", n, root, r) && !bytes.Equal(buf.Bytes, given.Bytes) {
					t.Errorf("%d of rank %d: rank %d got other bytes", n, root, r)
				}
			})
		}
	}
}
