package train

import (
	"fmt"
	"sync/atomic"

	"github.com/zerofleet/zerofleet/kernels"
)

// Reduction is the order in which a step's leaves are added. It decides bits, so it is part of the job.
type Reduction uint8

const (
	// Fold adds leaf 0, 1, 2 ... onto an accumulator that starts at +0.
	Fold Reduction = iota
	// Tree8 adds each aligned group of 8 leaves as a balanced tree, and folds the groups' sums. In a last group that is not full
	// a node with one child is that child. Its rounding error grows with the logarithm of a group, and with the number of groups.
	Tree8
)

// treeLeaves is how many leaves a group of Tree8 has, treeLevels how many sums of one wait for their right sibling at most: of 1
// or 2 leaves, of 2 and of 4.
const (
	treeLeaves = 8
	treeLevels = 3
)

// accumulator adds leaves to this rank's slice, in the order that the collective gives them in: element by element, leaf 0, 1, 2.
type accumulator struct {
	acc    []float32
	levels [treeLevels][]float32 // of Tree8, like acc; nil for Fold
	leaves int                   // of the step
	fold   func(acc []float32, src []byte, t kernels.DType) error
	folded *atomic.Int64 // elements, over all leaves
}

func (a accumulator) Len() int { return len(a.acc) }

func (a accumulator) Fold(leaf, off int, src []byte, t kernels.DType) error {
	n := t.Len(len(src))
	if off < 0 || off+n > len(a.acc) {
		return fmt.Errorf("fold elements [%d,%d) of %d", off, off+n, len(a.acc))
	}
	a.folded.Add(int64(n))
	if a.levels[0] == nil {
		return a.fold(a.acc[off:off+n], src, t)
	}
	return a.grow(leaf, off, n, src, t)
}

// grow adds a leaf to the tree. Level 0 has a leaf that is alone, or the sum of two that has just become whole; level k the left
// sum of 1<<k leaves that waits for its right one. A node that is whole moves up until it is a left one.
//
// A leaf begins as +0 plus itself. That a -0 becomes +0 by it changes nothing: the fold starts at +0, to which both add the same.
func (a accumulator) grow(leaf, off, n int, src []byte, t kernels.DType) error {
	level := func(k int) []float32 {
		if k == treeLevels {
			return a.acc[off : off+n]
		}
		return a.levels[k][off : off+n]
	}
	add := func(to, from int) error { return a.fold(level(to), rawBytes(level(from)), kernels.F32) }
	at := leaf % treeLeaves
	if at%2 == 0 {
		clear(level(0))
	}
	if err := a.fold(level(0), src, t); err != nil {
		return err
	}
	for k := 0; at>>k&1 == 1; k++ { // the sum of level k is a right node, or of level 0 a pair: it is whole
		switch {
		case k+1 == treeLevels || at>>(k+1)&1 == 1:
			if err := add(k+1, k); err != nil {
				return err
			}
		default:
			copy(level(k+1), level(k))
		}
	}
	if leaf != a.leaves-1 || at == treeLeaves-1 {
		return nil
	}
	// The last group is not full: what waits moves up alone.
	waits := -1
	for k := range treeLevels {
		if (at+1)>>k&1 == 0 {
			continue
		}
		if waits >= 0 {
			if err := add(k, waits); err != nil {
				return err
			}
		}
		waits = k
	}
	return add(treeLevels, waits)
}
