// Package exactsum adds float64 values without rounding: the sum, and every bit that
// is derived from it, does not depend on the order of the additions or on how
// they were dealt to ranks.
//
// Source: the superaccumulator of Kulisch and Miranker 1986, SIAM Review 28(1), with
// 32-bit digits in 64-bit limbs, so that carries are propagated once in 2^30 additions.
package exactsum

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/big"
)

const (
	digitBits = 32
	bias      = 1088 // digit 0 weighs 2^-1088, below the least subnormal, 2^-1074
	digits    = 68   // up to 2^1088: 2^64 of the largest values
)

// Sum is an exact sum. The zero Sum is 0. It is a value: copies are independent.
type Sum struct {
	limbs   [digits]int64
	pending int  // additions since the last carry
	nan     bool // a NaN was added, or both infinities
	inf     int8 // the sign of an infinity that was added
}

// Add adds x.
func (s *Sum) Add(x float64) {
	bits := math.Float64bits(x)
	exp := int(bits >> 52 & 0x7ff)
	mant := bits & (1<<52 - 1)
	negative := bits>>63 != 0
	if exp == 0x7ff {
		s.addSpecial(mant != 0, negative)
		return
	}
	if exp == 0 {
		exp = 1
	} else {
		mant |= 1 << 52
	}
	at := exp - 1075 + bias // mant's lowest bit weighs 2^(exp-1075)
	i, shift := at/digitBits, at%digitBits
	lo := mant << shift
	hi := mant >> (64 - shift) // Go defines a shift by 64 as 0
	d0, d1, d2 := int64(lo&math.MaxUint32), int64(lo>>digitBits), int64(hi)
	if negative {
		d0, d1, d2 = -d0, -d1, -d2
	}
	s.limbs[i] += d0
	s.limbs[i+1] += d1
	s.limbs[i+2] += d2
	if s.pending++; s.pending == 1<<30 {
		s.carry()
	}
}

func (s *Sum) addSpecial(nan, negative bool) {
	sign := int8(1)
	if negative {
		sign = -1
	}
	if nan || s.inf == -sign {
		s.nan = true
	}
	s.inf = sign
}

// Merge adds all that t holds.
func (s *Sum) Merge(t Sum) {
	t.carry()
	s.carry()
	for i, d := range t.limbs {
		s.limbs[i] += d
	}
	s.nan = s.nan || t.nan || s.inf*t.inf < 0
	if s.inf == 0 {
		s.inf = t.inf
	}
	s.carry()
}

// carry brings every limb but the last into [0, 2^32); the last holds the sign.
func (s *Sum) carry() {
	var c int64
	for i := range digits - 1 {
		d := s.limbs[i] + c
		c = d >> digitBits // arithmetic: rounds down
		s.limbs[i] = d - c<<digitBits
	}
	s.limbs[digits-1] += c
	s.pending = 0
}

// Finite reports whether no Inf and no NaN was added.
func (s *Sum) Finite() bool { return !s.nan && s.inf == 0 }

// Float64 is the sum rounded once, to nearest even.
func (s Sum) Float64() float64 {
	switch {
	case s.nan:
		return math.NaN()
	case s.inf != 0:
		return math.Inf(int(s.inf))
	}
	s.carry()
	n := new(big.Int)
	for i := digits - 1; i >= 0; i-- {
		n.Lsh(n, digitBits).Add(n, big.NewInt(s.limbs[i]))
	}
	f := new(big.Float).SetInt(n) // precision: all of n's bits
	f.SetMantExp(f, -bias)
	v, _ := f.Float64()
	return v
}

// A sum on the wire: byte 0: bit 0 NaN, bit 1 +Inf, bit 2 -Inf; byte 1: the first digit that is not 0;
// byte 2: how many digits follow; then little-endian uint32 digits, then the last limb as int64.
const headerBytes = 3

// AppendBinary appends the canonical encoding: equal sums give equal bytes.
func (s Sum) AppendBinary(b []byte) ([]byte, error) {
	s.carry()
	lo, hi := 0, digits-1
	for lo < hi && s.limbs[lo] == 0 {
		lo++
	}
	for hi > lo && s.limbs[hi-1] == 0 {
		hi--
	}
	var flags byte
	if s.nan {
		flags |= 1
	}
	if s.inf > 0 {
		flags |= 2
	}
	if s.inf < 0 {
		flags |= 4
	}
	b = append(b, flags, byte(lo), byte(hi-lo))
	for _, d := range s.limbs[lo:hi] {
		b = binary.LittleEndian.AppendUint32(b, uint32(d))
	}
	return binary.LittleEndian.AppendUint64(b, uint64(s.limbs[digits-1])), nil
}

// Decode reads one encoded sum from b and returns what follows it.
func Decode(b []byte) (s Sum, rest []byte, err error) {
	if len(b) < headerBytes {
		return s, nil, fmt.Errorf("exact sum: %d bytes, want %d at least", len(b), headerBytes)
	}
	flags, lo, n := b[0], int(b[1]), int(b[2])
	want := headerBytes + 4*n + 8
	if flags > 7 || lo+n > digits-1 || len(b) < want {
		return s, nil, fmt.Errorf("exact sum: flags %d, digits [%d,%d) in %d bytes: damaged", flags, lo, lo+n, len(b))
	}
	s.nan = flags&1 != 0
	switch {
	case flags&2 != 0:
		s.inf = 1
	case flags&4 != 0:
		s.inf = -1
	}
	for i := range n {
		s.limbs[lo+i] = int64(binary.LittleEndian.Uint32(b[headerBytes+4*i:]))
	}
	s.limbs[digits-1] = int64(binary.LittleEndian.Uint64(b[want-8:]))
	return s, b[want:], nil
}
