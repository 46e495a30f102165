// Package kerneltest is the conformance suite of a kernels.Backend: a new one is done when Run passes.
//
// Each Op is compared with a reference in float64, over sizes that leave remainders at every blocking, with a
// tolerance that its file derives. Every case runs once per number of threads and must give the same bits each
// time, leave the memory around its buffers alone and write all of its outputs.
package kerneltest

import (
	"bytes"
	"testing"

	"github.com/zerofleet/zerofleet/kernels"
)

// Open opens a Backend that uses so many threads, for a device that has the notion. Run closes it.
type Open func(t testing.TB, threads int) kernels.Backend

// A Case exercises one Op, in every variant and a spread of sizes.
type Case struct {
	Name string
	Run  func(r *Rig)
}

// cases are the Ops' own files, in the order of ops.go.
func cases() []Case {
	return concat(
		matmulCases,
		attentionCases,
		elementwiseCases,
		convertCases,
		sumCases,
		rmsnormCases,
		ropeCases,
		swigluCases,
		idCases,
		crossEntropyCases,
		adamwCases,
	)
}

func concat(groups ...[]Case) []Case {
	var all []Case
	for _, g := range groups {
		all = append(all, g...)
	}
	return all
}

// Run checks everything that package kernels promises of a Backend.
func Run(t *testing.T, open Open) {
	for _, c := range backendChecks {
		t.Run(c.name, func(t *testing.T) {
			b := open(t, 2)
			c.run(t, b)
			if err := b.Close(); err != nil {
				t.Errorf("close: %v", err)
			}
		})
	}
	for _, c := range cases() {
		t.Run(c.Name, func(t *testing.T) { runCase(t, open, c) })
	}
}

// runCase runs a case with each number of threads and compares the bits that it read.
func runCase(t *testing.T, open Open, c Case) {
	var first []reading
	for _, threads := range threadCounts {
		b := open(t, threads)
		r := newRig(t, b, c.Name)
		r.first = first == nil
		c.Run(r)
		r.close()
		if err := b.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
		if t.Failed() {
			return
		}
		if first == nil {
			first = r.readings
			continue
		}
		if len(r.readings) != len(first) {
			t.Fatalf("%d threads: %d results, with %d thread %d", threads, len(r.readings), threadCounts[0], len(first))
		}
		for i, got := range r.readings {
			if !bytes.Equal(got.bits, first[i].bits) {
				t.Fatalf("%d threads: result %d (%s) has other bits than with %d", threads, i, got.what, threadCounts[0])
			}
		}
	}
}
