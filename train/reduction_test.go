package train

import (
	"fmt"
	"math"
	"math/rand/v2"
	"sync/atomic"
	"testing"

	"github.com/zerofleet/zerofleet/kernels"
)

// treeSum is Tree8 by its definition: a node's sum is its left half's and its right half's, of the leaves that there are.
func treeSum(leaves []float32) float32 {
	sum := float32(0)
	for at := 0; at < len(leaves); at += treeLeaves {
		sum += node(leaves[at:min(at+treeLeaves, len(leaves))], treeLeaves)
	}
	return sum
}

func node(leaves []float32, full int) float32 {
	half := full / 2
	switch {
	case full == 1:
		return leaves[0]
	case len(leaves) <= half:
		return node(leaves, half)
	}
	return node(leaves[:half], half) + node(leaves[half:], half)
}

// Whatever the number of leaves and the pieces that they come in, the accumulator's sum is that of the definition.
func TestTree8IsATree(t *testing.T) {
	add := func(acc []float32, src []byte, _ kernels.DType) error {
		for i, v := range floats(src) {
			acc[i] += v
		}
		return nil
	}
	const n = 40
	rng := rand.New(rand.NewPCG(1, 2))
	differs := 0
	for count := 1; count <= 27; count++ {
		a := accumulator{acc: make([]float32, n), leaves: count, fold: add, folded: new(atomic.Int64)}
		for k := range a.levels {
			a.levels[k] = make([]float32, n)
			for i := range a.levels[k] {
				a.levels[k][i] = float32(math.NaN()) // what the step before has left
			}
		}
		all := make([][]float32, count)
		for l := range all {
			all[l] = make([]float32, n)
			for i := range all[l] {
				all[l][i] = float32(math.Ldexp(rng.Float64()*2-1, rng.IntN(30)-15))
			}
		}
		for lo := 0; lo < n; {
			hi := min(n, lo+1+rng.IntN(n))
			for l := range all {
				if err := a.Fold(l, lo, rawBytes(all[l][lo:hi]), kernels.F32); err != nil {
					t.Fatal(err)
				}
			}
			lo = hi
		}
		for i, got := range a.acc {
			leaves, plain := make([]float32, count), float32(0)
			for l := range all {
				leaves[l] = all[l][i]
				plain += all[l][i]
			}
			if want := treeSum(leaves); math.Float32bits(got) != math.Float32bits(want) {
				t.Fatalf("%d leaves, element %d: %v, want %v", count, i, got, want)
			}
			if got != plain {
				differs++
			}
		}
		if got, want := a.folded.Load(), int64(count*n); got != want {
			t.Errorf("%d leaves: %d elements counted, want %d", count, got, want)
		}
	}
	if differs == 0 {
		t.Error("the tree's sums are all the fold's: the numbers show nothing")
	}
	if got, want := fmt.Sprint(treeSum([]float32{1, 2, 4})), "7"; got != want {
		t.Errorf("1 + 2 + 4 = %s", got)
	}
}
