package model

import (
	"testing"

	"github.com/zerofleet/zerofleet/kernels"
	"github.com/zerofleet/zerofleet/kernels/cpu"
	"github.com/zerofleet/zerofleet/kernels/deferred"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// machine is a backend with one stream, closed with the test.
type machine struct {
	backend kernels.Backend
	stream  kernels.Stream
}

func newMachine(t testing.TB, threads int) *machine {
	t.Helper()
	b, err := cpu.Open(cpu.Options{Threads: threads})
	must(t, err)
	return onBackend(t, b)
}

func newDeferred(t testing.TB) *machine {
	t.Helper()
	b, err := cpu.Open(cpu.Options{Threads: 1})
	must(t, err)
	return onBackend(t, deferred.New(b))
}

func onBackend(t testing.TB, b kernels.Backend) *machine {
	t.Helper()
	s, err := b.NewStream("test")
	must(t, err)
	t.Cleanup(func() {
		must(t, s.Close())
		must(t, b.Close())
	})
	return &machine{backend: b, stream: s}
}

func (m *machine) read(t testing.TB, b kernels.Buffer) []float32 {
	t.Helper()
	x, err := downloadF32(t.Context(), m.stream, b)
	must(t, err)
	return x
}

// rig is a pass with everything it computes on: parameters, padded a little, and gradients full of
// what a backward must overwrite.
type rig struct {
	m                        *machine
	d                        *Decoder
	arena                    *kernels.Arena
	pass                     *Pass
	params32, weights, grads []kernels.Buffer
}

func buildRig(t testing.TB, d *Decoder, a *kernels.Arena, o PassOptions) *rig {
	t.Helper()
	r := &rig{d: d, arena: a}
	g := grabber{a: a}
	for _, u := range d.Units() {
		r.params32 = append(r.params32, g.take(kernels.Optimizer, kernels.F32, u.Elems))
		r.weights = append(r.weights, g.take(kernels.Parameters, d.act, u.Elems+7))
		r.grads = append(r.grads, g.take(kernels.LeafGrads, kernels.F32, u.Elems))
	}
	must(t, g.err)
	var err error
	r.pass, err = d.NewPass(a, o)
	must(t, err)
	return r
}

func newRig(t testing.TB, m *machine, d *Decoder, weights [][]float32, o PassOptions) *rig {
	t.Helper()
	measured := buildRig(t, d, &kernels.Arena{}, o)
	arena, err := measured.arena.Allocate(m.backend)
	must(t, err)
	r := buildRig(t, d, arena, o)
	r.m = m
	must(t, r.pass.Init(m.stream))
	for i, w := range weights {
		must(t, m.stream.Upload(r.params32[i], f32Bytes(w)))
		must(t, m.stream.Launch(kernels.Fill{Dst: r.grads[i], Value: 123}))
	}
	r.publish(t)
	return r
}

// publish rounds the f32 parameters to what is computed with.
func (r *rig) publish(t testing.TB) {
	t.Helper()
	for i, p := range r.params32 {
		must(t, r.m.stream.Launch(kernels.Convert{Dst: r.weights[i].Slice(0, p.Len()), Src: p}))
	}
}

func (r *rig) params(unit int) Params {
	p := Params{Unit: r.weights[unit]}
	if unit == len(r.weights)-1 && r.d.Tied() {
		p.Embedding = r.weights[0]
	}
	return p
}

// forward computes all units but the head.
func (r *rig) forward(t testing.TB) {
	t.Helper()
	for u := range len(r.weights) - 1 {
		must(t, r.pass.Forward(r.m.stream, u, r.params(u)))
	}
}

func (r *rig) backward(t testing.TB) {
	t.Helper()
	head := len(r.weights) - 1
	for u := head; u >= 0; u-- {
		g := Grads{Unit: r.grads[u]}
		if u == head && r.d.Tied() {
			g.Embedding = r.grads[0]
		}
		must(t, r.pass.Backward(r.m.stream, u, r.params(u), g))
	}
}

func (r *rig) free(t testing.TB) {
	t.Helper()
	must(t, r.m.stream.Sync(t.Context()))
	must(t, r.arena.Free())
}
