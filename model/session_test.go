package model

import (
	"math"
	"strings"
	"testing"

	"github.com/zerofleet/zerofleet/kernels"
)

// sessionRig is a session with its weights.
type sessionRig struct {
	m       *machine
	arena   *kernels.Arena
	session *Session
	weights []kernels.Buffer
}

func newSessionRig(t testing.TB, m *machine, d *Decoder, weights [][]float32, o SessionOptions) *sessionRig {
	t.Helper()
	build := func(a *kernels.Arena) (*sessionRig, []kernels.Buffer) {
		r := &sessionRig{m: m, arena: a}
		var err error
		r.weights, err = d.Weights(a)
		must(t, err)
		r.session, err = d.NewSession(a, o)
		must(t, err)
		g := grabber{a: a}
		var staging []kernels.Buffer
		for _, w := range r.weights {
			staging = append(staging, g.take(kernels.Staging, kernels.F32, w.Len()))
		}
		must(t, g.err)
		return r, staging
	}
	measured, _ := build(&kernels.Arena{})
	arena, err := measured.arena.Allocate(m.backend)
	must(t, err)
	r, staging := build(arena)
	for i, w := range weights {
		must(t, m.stream.Upload(staging[i], f32Bytes(w)))
		must(t, m.stream.Launch(kernels.Convert{Dst: r.weights[i], Src: staging[i]}))
	}
	must(t, r.session.Init(m.stream))
	return r
}

// A session's logits are a pass's, however the tokens are cut into calls and chunks.
func TestSessionLikePass(t *testing.T) {
	for _, shape := range shapes {
		t.Run(shape, func(t *testing.T) {
			g := openGolden(t, shape)
			d, err := New(g.cfg, kernels.F32)
			must(t, err)
			m := newMachine(t, 2)
			weights := g.unitWeights(t)
			doc := g.leaves(t, "unpacked")[2]
			vocab := g.cfg.Vocab

			p := newRig(t, m, d, weights, PassOptions{B: 1, T: doc.t})
			must(t, p.pass.Load(t.Context(), m.stream, doc.in))
			p.forward(t)
			rows := make([]int32, doc.t)
			for i := range rows {
				rows[i] = int32(i)
			}
			want, err := p.pass.Logits(t.Context(), m.stream, p.params(len(d.Units())-1), rows)
			must(t, err)
			p.free(t)

			for _, c := range []struct {
				m     *machine
				calls []int
			}{{m, []int{doc.t}}, {m, []int{1, doc.t - 1}}, {m, []int{9, 1, 1, 1, doc.t - 12}}, {newDeferred(t), []int{doc.t - 1, 1}}} {
				m := c.m
				s := newSessionRig(t, m, d, weights, SessionOptions{MaxTokens: doc.t, Chunk: 8})
				at := 0
				for _, n := range c.calls {
					logits, err := s.session.Extend(t.Context(), m.stream, s.weights, doc.in.Tokens[at:at+n])
					must(t, err)
					at += n
					within(t, "logits", logits, want[(at-1)*vocab:at*vocab], 1e-5)
				}
				must(t, s.arena.Free())
			}
		})
	}
}

// Truncate goes back to an earlier length, and what follows is computed as the first time.
func TestSessionTruncate(t *testing.T) {
	d := tiny(t, "preset://tiny", kernels.F32)
	m := newMachine(t, 1)
	s := newSessionRig(t, m, d, someWeights(d), SessionOptions{MaxTokens: 16, Chunk: 4})
	extend := func(tokens ...int32) []float32 {
		l, err := s.session.Extend(t.Context(), m.stream, s.weights, tokens)
		must(t, err)
		return l
	}
	extend(1, 2, 3)
	want := extend(4, 5)
	extend(6)
	must(t, s.session.Truncate(3))
	equalFloats(t, "logits after truncation", extend(4, 5), want)
	if err := s.session.Truncate(6); err == nil {
		t.Error("truncate 5 tokens to 6: no error")
	}
	for _, c := range []struct {
		tokens []int32
		want   string
	}{
		{nil, "no token"},
		{make([]int32, 12), "12 tokens do not fit the room of 16"},
		{[]int32{1, 257}, "token 257 at 1"},
	} {
		if _, err := s.session.Extend(t.Context(), m.stream, s.weights, c.tokens); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("extend by %d: error %v, want %q", len(c.tokens), err, c.want)
		}
	}
	if s.session.Tokens() != 5 {
		t.Errorf("%d tokens after refused calls, want 5", s.session.Tokens())
	}
	must(t, s.arena.Free())
}

// The tables hold cos and sin of position times frequency.
func TestRopeTables(t *testing.T) {
	d := tiny(t, "preset://tiny", kernels.F32)
	cos, sin := d.rope(5)
	freq := d.Config().InvFreq()
	for pos := range 5 {
		for i, f := range freq {
			c, s := float64(cos[pos*len(freq)+i]), float64(sin[pos*len(freq)+i])
			angle := float64(pos) * float64(f)
			if math.Abs(c-math.Cos(angle)) > 1e-6 || math.Abs(s-math.Sin(angle)) > 1e-6 {
				t.Errorf("position %d, pair %d: (%v, %v), want those of %v", pos, i, c, s, angle)
			}
		}
	}
}
