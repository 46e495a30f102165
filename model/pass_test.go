package model

import (
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/zerofleet/zerofleet/kernels"
	"github.com/zerofleet/zerofleet/model/spec"
)

func tiny(t testing.TB, name string, act kernels.DType) *Decoder {
	t.Helper()
	cfg, err := spec.Preset(name)
	must(t, err)
	d, err := New(cfg, act)
	must(t, err)
	return d
}

// someInput is a batch whose second half counts.
func someInput(b, t int) Input {
	var in Input
	for i := range b * t {
		in.Tokens = append(in.Tokens, int32(i*7%257))
		in.Labels = append(in.Labels, -1)
		if i%t >= t/2 {
			in.Labels[i] = int32(i * 5 % 257)
		}
		in.Positions = append(in.Positions, int32(i%t))
		in.DocStart = append(in.DocStart, 0)
	}
	in.Scale = 1
	return in
}

// someWeights are small and the same on every call.
func someWeights(d *Decoder) [][]float32 {
	var all [][]float32
	x := uint64(1)
	for _, u := range d.Units() {
		w := make([]float32, u.Elems)
		for i := range w {
			x = x*6364136223846793005 + 1442695040888963407
			w[i] = (float32(x>>40)/(1<<24) - 0.5) / 4
		}
		all = append(all, w)
	}
	return all
}

// Every wrong input is refused with the row and the value, before anything is computed.
func TestLoadRefuses(t *testing.T) {
	d := tiny(t, "preset://tiny", kernels.F32)
	m := newMachine(t, 1)
	r := newRig(t, m, d, someWeights(d), PassOptions{B: 2, T: 4, Train: true})
	for _, c := range []struct {
		name   string
		change func(in *Input)
		want   string
	}{
		{"short tokens", func(in *Input) { in.Tokens = in.Tokens[1:] }, "7 tokens, want 8"},
		{"short starts", func(in *Input) { in.DocStart = nil }, "0 document starts, want 8"},
		{"token too large", func(in *Input) { in.Tokens[3] = 257 }, "token 257 at row 3: not in the vocabulary of 257"},
		{"token negative", func(in *Input) { in.Tokens[0] = -1 }, "token -1 at row 0"},
		{"label too small", func(in *Input) { in.Labels[1] = -2 }, "label -2 at row 1"},
		{"label too large", func(in *Input) { in.Labels[1] = 257 }, "label 257 at row 1"},
		{"position too large", func(in *Input) { in.Positions[7] = 4 }, "position 4 at row 7: want 0 to 3"},
		{"start after its token", func(in *Input) { in.DocStart[5] = 2 }, "document start 2 at row 5: want 0 to 1"},
	} {
		in := someInput(2, 4)
		c.change(&in)
		err := r.pass.Load(t.Context(), m.stream, in)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want %q", c.name, err, c.want)
		}
	}
	r.free(t)
}

// Calls out of order are errors, not wrong numbers.
func TestOrderOfCalls(t *testing.T) {
	d := tiny(t, "preset://tiny-untied", kernels.F32)
	m := newMachine(t, 1)
	r := newRig(t, m, d, someWeights(d), PassOptions{B: 1, T: 4, Train: true})
	head := len(d.Units()) - 1
	refused := func(what string, err error) {
		t.Helper()
		if err == nil {
			t.Errorf("%s: no error", what)
		}
	}
	refused("forward before load", r.pass.Forward(m.stream, 0, r.params(0)))
	must(t, r.pass.Load(t.Context(), m.stream, someInput(1, 4)))
	refused("block before embedding", r.pass.Forward(m.stream, 1, r.params(1)))
	refused("backward before forward", r.pass.Backward(m.stream, head, r.params(head), Grads{Unit: r.grads[head]}))
	_, err := r.pass.Losses(t.Context(), m.stream)
	refused("losses before the head", err)
	must(t, r.pass.Forward(m.stream, 0, r.params(0)))
	refused("another unit's parameters", r.pass.Forward(m.stream, 1, r.params(0)))
	must(t, r.pass.Load(t.Context(), m.stream, someInput(1, 4)))
	r.forward(t)
	refused("backward of a block before the head's", r.pass.Backward(m.stream, 1, r.params(1), Grads{Unit: r.grads[1]}))
	refused("a gradient of another size", r.pass.Backward(m.stream, head, r.params(head), Grads{Unit: r.grads[0]}))
	r.backward(t)
	refused("backward twice", r.pass.Backward(m.stream, head, r.params(head), Grads{Unit: r.grads[head]}))
	refused("forward after backward", r.pass.Forward(m.stream, 0, r.params(0)))
	r.free(t)

	e := newRig(t, m, d, someWeights(d), PassOptions{B: 1, T: 4})
	must(t, e.pass.Load(t.Context(), m.stream, someInput(1, 4)))
	e.forward(t)
	refused("backward without Train", e.pass.Backward(m.stream, head, e.params(head), Grads{Unit: e.grads[head]}))
	e.free(t)
}

// An evaluation gives the training's losses, bit for bit, from far less memory.
func TestEvaluationLosses(t *testing.T) {
	for _, name := range []string{"preset://tiny", "preset://tiny-untied"} {
		d := tiny(t, name, kernels.F32)
		m := newMachine(t, 2)
		in, weights := someInput(2, 40), someWeights(d)
		losses := func(o PassOptions, backward bool) []float32 {
			r := newRig(t, m, d, weights, o)
			defer r.free(t)
			must(t, r.pass.Load(t.Context(), m.stream, in))
			r.forward(t)
			if backward {
				r.backward(t)
			} else {
				must(t, r.pass.Forward(m.stream, len(d.Units())-1, r.params(len(d.Units())-1)))
			}
			l, err := r.pass.Losses(t.Context(), m.stream)
			must(t, err)
			return l
		}
		want := losses(PassOptions{B: 2, T: 40, Train: true}, true)
		equalFloats(t, name+": evaluation", losses(PassOptions{B: 2, T: 40}, false), want)
		equalFloats(t, name+": forward of a training pass", losses(PassOptions{B: 2, T: 40, Train: true, Recompute: true}, false), want)
		for i, l := range want {
			if counts := in.Labels[i] >= 0; counts != (l > 0) {
				t.Errorf("%s: row %d counts: %v, loss %v", name, i, counts, l)
			}
		}
	}
}

// A micro-batch without loss tokens has no loss and a gradient of zeros, everywhere.
func TestNoLossTokens(t *testing.T) {
	for _, name := range []string{"preset://tiny", "preset://tiny-untied"} {
		d := tiny(t, name, kernels.BF16)
		m := newMachine(t, 1)
		in := someInput(1, 8)
		for i := range in.Labels {
			in.Labels[i] = -1
		}
		c := compute(t, m, d, someWeights(d), []leaf{{1, 8, in}}, false)
		if c.loss != 0 {
			t.Errorf("%s: loss %v, want 0", name, c.loss)
		}
		for u, g := range c.grads {
			if i := slices.IndexFunc(g, func(v float32) bool { return v != 0 }); i >= 0 {
				t.Errorf("%s: unit %d: gradient %v at %d, want 0", name, u, g[i], i)
			}
		}
	}
}

// The order of labels in the batch must not matter to which row gets which loss: a row's loss is that of the same row
// computed with all other labels taken away.
func TestLossesStandInTheirRows(t *testing.T) {
	d := tiny(t, "preset://tiny", kernels.F32)
	m := newMachine(t, 1)
	weights := someWeights(d)
	in := someInput(1, 12)
	all := compute(t, m, d, weights, []leaf{{1, 12, in}}, false)
	for row, label := range in.Labels {
		if label < 0 {
			continue
		}
		one := in
		one.Labels = slices.Repeat([]int32{-1}, 12)
		one.Labels[row] = label
		got := compute(t, m, d, weights, []leaf{{1, 12, one}}, false)
		equalFloats(t, "loss of one row", got.losses[row:row+1], all.losses[row:row+1])
	}
}

// chunkRows covers all rows within its bound, in equal pieces.
func TestChunkRows(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rows, vocab := rapid.IntRange(1, 5000).Draw(t, "rows"), rapid.IntRange(1, 300000).Draw(t, "vocab")
		c := chunkRows(rows, vocab, mostLogits)
		if c%rowGranule != 0 || c < 1 {
			t.Fatalf("chunk of %d rows: want a multiple of %d", c, rowGranule)
		}
		if c > rowGranule && c*vocab > mostLogits {
			t.Fatalf("chunk of %d rows has %d logits, want at most %d", c, c*vocab, mostLogits)
		}
		chunks := (roundRows(rows) + c - 1) / c
		if c-rowGranule > 0 && (c-rowGranule)*chunks >= roundRows(rows) {
			t.Fatalf("%d chunks of %d for %d rows: smaller ones would do", chunks, c, rows)
		}
	})
}

// What a pass takes: recomputation keeps one input a block, evaluation one block.
func TestMemory(t *testing.T) {
	d := tiny(t, "preset://tiny", kernels.BF16)
	cfg := d.Config()
	activations := func(o PassOptions) int64 {
		a := &kernels.Arena{}
		_, err := d.NewPass(a, o)
		must(t, err)
		return a.Usage()[kernels.Activations]
	}
	const b, tokens = 2, 16
	rows := int64(b * tokens)
	input := rows * int64(cfg.Width) * 2
	ids := rows * 3 * 4
	rest := rows * (2*int64((cfg.Heads+2*cfg.KVHeads)*cfg.HeadWidth+cfg.Heads*cfg.HeadWidth+cfg.Width+2*cfg.FeedForward) + 4*int64(cfg.Heads))
	layers := int64(cfg.Layers)
	for _, c := range []struct {
		o    PassOptions
		want int64
	}{
		{PassOptions{B: b, T: tokens, Train: true}, ids + layers*(input+rest) + input},
		{PassOptions{B: b, T: tokens, Train: true, Recompute: true}, ids + layers*input + rest + input},
		{PassOptions{B: b, T: tokens}, ids + input + rest},
	} {
		if got := activations(c.o); got != c.want {
			t.Errorf("%+v: %d bytes of activations, want %d", c.o, got, c.want)
		}
	}
}

func TestNewRefuses(t *testing.T) {
	cfg, err := spec.Preset("preset://tiny")
	must(t, err)
	if _, err := New(cfg, kernels.F16); err == nil {
		t.Error("activations in f16: no error")
	}
	cfg.KVHeads = 3
	if _, err := New(cfg, kernels.F32); err == nil {
		t.Error("3 key heads for 4 query heads: no error")
	}
	d := tiny(t, "preset://tiny", kernels.F32)
	if _, err := d.NewPass(&kernels.Arena{}, PassOptions{B: 0, T: 4}); err == nil {
		t.Error("no sequences: no error")
	}
	if _, err := d.NewSession(&kernels.Arena{}, SessionOptions{MaxTokens: 0, Chunk: 4}); err == nil {
		t.Error("no room: no error")
	}
}
