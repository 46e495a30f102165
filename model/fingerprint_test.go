package model

import (
	"strings"
	"testing"

	"github.com/zerofleet/zerofleet/kernels"
)

// recording is a Stream that notes the shapes of what another one is given.
type recording struct {
	kernels.Stream
	shapes map[string]bool
}

func (r recording) Launch(op kernels.Op) error {
	r.shapes[shapeOf(op)] = true
	return r.Stream.Launch(op)
}

// Every Op that a step launches, whichever rows count, has its shape among the fingerprint's cases. Only the copies of
// rows to and from the head come in more shapes than that: a copy has no bits of its own.
func TestFingerprintCasesCoverAStep(t *testing.T) {
	for _, name := range []string{"preset://tiny", "preset://tiny-untied"} {
		for _, most := range []int{mostLogits, 64 * 257} { // one chunk, chunks of 64 rows
			d := tiny(t, name, kernels.BF16)
			d.head.most = most
			const b, tokens = 3, 50
			cases, err := d.FingerprintCases(b, tokens)
			must(t, err)
			covered := map[string]bool{}
			for _, c := range cases {
				covered[c.Name] = true
			}
			m := newMachine(t, 2)
			r := newRig(t, m, d, someWeights(d), PassOptions{B: b, T: tokens, Train: true})
			stream := recording{m.stream, map[string]bool{}}
			step := &machine{m.backend, stream}
			r.m = step
			for counted := 0; counted <= b*tokens; counted += 15 {
				in := someInput(b, tokens)
				for i := range in.Labels {
					if in.Labels[i] = -1; i < counted {
						in.Labels[i] = 1
					}
				}
				must(t, r.pass.Load(t.Context(), stream, in))
				r.forward(t)
				r.backward(t)
			}
			for shape := range stream.shapes {
				if !covered[shape] && !strings.HasPrefix(shape, kernels.Embedding{}.Name()+" ") {
					t.Errorf("%s: not among the cases: %s", name, shape)
				}
			}
			r.free(t)
		}
	}
}

// A fingerprint is a function of the machine's bits: the same twice and for another number of threads, another for
// another type.
func TestFingerprint(t *testing.T) {
	sums := map[string]bool{}
	for _, act := range []kernels.DType{kernels.F32, kernels.BF16} {
		d := tiny(t, "preset://tiny", act)
		cases, err := d.FingerprintCases(2, 24)
		must(t, err)
		var want string
		for _, threads := range []int{1, 2, 1} {
			sum, _, err := kernels.Fingerprint(t.Context(), newMachine(t, threads).backend, cases)
			must(t, err)
			if want == "" {
				want = sum
			}
			if sum != want {
				t.Errorf("%s with %d threads: %s, want %s", act, threads, sum, want)
			}
		}
		sums[want] = true
	}
	if len(sums) != 2 {
		t.Error("f32 and bf16 have one fingerprint")
	}
}
