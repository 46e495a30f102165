// Package shard is the arithmetic of ZeRO: who owns which elements of a unit, what
// moves when the owners change, what each stage keeps in memory, and in which order
// a step gathers, computes, frees and reduces. It does no I/O and starts nothing.
//
// Source of the stages: Rajbhandari, Rasley, Ruwase, He 2020, arXiv:1910.02054.
package shard

import "fmt"

// BlockElems is the granularity of parts: sums over shards are taken by blocks of
// this many elements of the canonical order, so a block never has two owners.
const BlockElems = 256

// Layout is how a unit's flat buffer is cut among ranks. Rank r owns the r-th of
// World contiguous parts of equal length; the last parts may be padding. It is a
// value, compared with ==.
type Layout struct {
	elems, world int
}

// NewLayout cuts elems elements among world ranks.
func NewLayout(elems, world int) (Layout, error) {
	if elems < 0 || world < 1 {
		return Layout{}, fmt.Errorf("layout: elems=%d world=%d: want elems >= 0 and world >= 1", elems, world)
	}
	return Layout{elems: elems, world: world}, nil
}

// Elems is the number of elements without padding.
func (l Layout) Elems() int { return l.elems }

// World is the number of ranks.
func (l Layout) World() int { return l.world }

// PartElems is the length of every rank's part, padding included: a multiple of BlockElems.
func (l Layout) PartElems() int {
	quantum := l.world * BlockElems
	return (l.elems + quantum - 1) / quantum * BlockElems
}

// PaddedElems is the length of the flat buffer: World parts.
func (l Layout) PaddedElems() int { return l.world * l.PartElems() }

// Part is rank r's range [lo, hi) of the padded flat buffer.
func (l Layout) Part(r int) (lo, hi int) {
	n := l.PartElems()
	return r * n, (r + 1) * n
}

// Owned is the range [lo, hi) of elements that rank r owns, without padding; it may be empty.
func (l Layout) Owned(r int) (lo, hi int) {
	lo, hi = l.Part(r)
	return min(lo, l.elems), min(hi, l.elems)
}

// Move is a range of canonical elements that one rank has and another needs.
type Move struct {
	From, To int // ranks in the old and in the new layout
	Lo, Hi   int // canonical elements of the unit
}

// Reshard lists, in canonical order, what every rank of to needs from every rank of
// from: each element exactly once, a rank's own range included. Restoring at
// another world size, growing, shrinking, taking over and exporting are this list.
func Reshard(from, to Layout) ([]Move, error) {
	if from.elems != to.elems {
		return nil, fmt.Errorf("reshard: %d elements to %d: want the same unit", from.elems, to.elems)
	}
	var moves []Move
	for lo := 0; lo < from.elems; {
		f, t := lo/from.PartElems(), lo/to.PartElems()
		_, fHi := from.Owned(f)
		_, tHi := to.Owned(t)
		hi := min(fHi, tHi)
		moves = append(moves, Move{From: f, To: t, Lo: lo, Hi: hi})
		lo = hi
	}
	return moves, nil
}
