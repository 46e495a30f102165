package data

import (
	"math"
	"math/bits"
)

// mix is the finaliser of splitmix64: a bijection of 64 bits whose output bits
// each depend on every input bit.
// Source: Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators", figure 15.
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// What a permutation is for: equal seeds give unrelated permutations.
const (
	forEpoch = iota + 1
	forExtra
	forHoldOut
)

// rounds of the Feistel network. Four suffice for large domains (Luby and
// Rackoff 1988); more are for small ones, whose halves are a few bits.
const rounds = 8

// A permutation of [0, n) that is computed, not stored: a Feistel network on the
// smallest even number of bits that holds n, walked along its cycle until the
// value is below n again (on average at most four times).
// Source: Black and Rogaway 2002, "Ciphers with arbitrary finite domains", methods 2 and 3.
type permutation struct {
	n    uint64
	half uint
	keys [rounds]uint64
}

// newPermutation is decided by n and the keys alone.
func newPermutation(n int64, keys ...uint64) permutation {
	p := permutation{n: uint64(n)}
	if n > 1 {
		p.half = uint(bits.Len64(uint64(n-1))+1) / 2
	}
	k := uint64(0x7a65726f666c6565) // any constant: "zeroflee"
	for _, key := range keys {
		k = mix(k ^ key)
	}
	for i := range p.keys {
		k = mix(k)
		p.keys[i] = k
	}
	return p
}

// at is the image of i, for i in [0, n).
func (p permutation) at(i int64) int64 {
	x := uint64(i)
	if p.half == 0 {
		return i
	}
	mask := uint64(1)<<p.half - 1
	for {
		left, right := x>>p.half, x&mask
		for _, k := range p.keys {
			left, right = right, left^(mix(right^k)>>(64-p.half))
		}
		if x = left<<p.half | right; x < p.n {
			return int64(x)
		}
	}
}

// share is one source's place in an epoch.
type share struct {
	first   int64 // its first record's index in the store
	records int64
	whole   int64 // how many times every record is seen
	extra   int64 // how many records are seen once more
	part    int   // which source, so that equal sources differ
}

func (s share) seen() int64 { return s.whole*s.records + s.extra }

func newShare(source int, first, records int64, weight float64) share {
	whole, fraction := math.Modf(weight)
	return share{
		first: first, records: records, part: source,
		whole: int64(whole), extra: int64(math.Round(float64(fraction * float64(records)))),
	}
}

// order says which record is the i-th of an epoch.
type order struct {
	seed    uint64
	shuffle bool
	shares  []share
	n       int64 // records in an epoch
}

func newOrder(seed uint64, shuffle bool, shares []share) order {
	o := order{seed: seed, shuffle: shuffle, shares: shares}
	for _, s := range shares {
		o.n += s.seen()
	}
	return o
}

// pass is the order of one epoch.
type pass struct {
	order
	epoch int64
	perm  permutation
}

func (o order) pass(epoch int64) pass {
	return pass{order: o, epoch: epoch, perm: newPermutation(o.n, forEpoch, o.seed, uint64(epoch))}
}

// record is the index in the store of the i-th record, 0 <= i < n.
func (p pass) record(i int64) int64 {
	if p.shuffle {
		i = p.perm.at(i)
	}
	for _, s := range p.shares {
		if i >= s.seen() {
			i -= s.seen()
			continue
		}
		if i < s.whole*s.records {
			return s.first + i%s.records
		}
		// The extra records of successive epochs are successive windows of one
		// permutation, so that all take their turn before any comes again.
		i -= s.whole * s.records
		at := (p.epoch%s.records*s.extra + i) % s.records
		return s.first + newPermutation(s.records, forExtra, p.seed, uint64(s.part)).at(at)
	}
	panic("data: record index beyond the epoch") // our own bug: callers stay below n
}

// heldOut tells whether the i-th record of a stream of records belongs to the
// part that is held out: one record, at a random place, out of each range
// [ceil(j/fraction), ceil((j+1)/fraction)). It needs no count of the records, so
// that files are read once.
func heldOut(seed, stream uint64, fraction float64, i int64) bool {
	if fraction <= 0 {
		return false
	}
	first := func(j int64) int64 { return int64(math.Ceil(float64(j) / fraction)) }
	j := int64(math.Floor(float64(float64(i) * fraction)))
	for ; j > 0 && first(j) > i; j-- { // rounding may have taken it one too far, either way
	}
	for ; first(j+1) <= i; j++ {
	}
	h := mix(mix(mix(mix(forHoldOut)^seed)^stream) ^ uint64(j))
	low, high := first(j), first(j+1)
	return i == low+int64(h%uint64(high-low))
}
