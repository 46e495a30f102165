package model

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/zerofleet/zerofleet/kernels"
	"github.com/zerofleet/zerofleet/model/spec"
	"github.com/zerofleet/zerofleet/safetensors"
)

// shapes are the folders of testdata/golden, which tools/golden/model.py makes.
var shapes = []string{"llama", "llama3-rope", "mistral", "tied"}

// golden is what transformers says about one small decoder.
type golden struct {
	cfg     spec.Config
	weights *safetensors.File
	answers *safetensors.File
	record  goldenRecord
}

type goldenRecord struct {
	LossTokens      int                `json:"loss_tokens"`
	Losses          map[string]float64 `json:"losses"`
	DocumentLengths []int              `json:"document_lengths"`
	BF16Errors      struct {
		Logits    float64            `json:"logits"`
		Gradients map[string]float64 `json:"gradients"`
	} `json:"bf16_errors"`
	AdamW struct {
		LR          float64    `json:"lr"`
		Betas       [2]float64 `json:"betas"`
		Eps         float64    `json:"eps"`
		WeightDecay float64    `json:"weight_decay"`
		MaxGradNorm float64    `json:"max_grad_norm"`
		Losses      []float64  `json:"losses"`
		GradNorms   []float64  `json:"grad_norms"`
	} `json:"adamw"`
}

func openGolden(t *testing.T, shape string) *golden {
	t.Helper()
	dir := filepath.Join("testdata", "golden", shape)
	g := &golden{}
	config, err := os.ReadFile(filepath.Join(dir, "config.json"))
	must(t, err)
	g.cfg, err = spec.ParseConfig(config)
	must(t, err)
	record, err := os.ReadFile(filepath.Join(dir, "golden.json"))
	must(t, err)
	must(t, json.Unmarshal(record, &g.record))
	open := func(name string) *safetensors.File {
		f, err := safetensors.Open(filepath.Join(dir, name))
		must(t, err)
		t.Cleanup(func() { must(t, f.Close()) })
		return f
	}
	g.weights, g.answers = open("model.safetensors"), open("golden.safetensors")
	return g
}

// unitWeights are the f32 parameters of each unit.
func (g *golden) unitWeights(t *testing.T) [][]float32 {
	var all [][]float32
	for _, u := range g.cfg.Units() {
		w := make([]float32, u.Elems)
		for _, tensor := range u.Tensors {
			must(t, g.weights.ReadF32(tensor.Name, 0, tensor.Elems, w[tensor.Offset:tensor.End()]))
		}
		all = append(all, w)
	}
	return all
}

func (g *golden) f32(t *testing.T, name string) []float32 {
	t.Helper()
	tensor, ok := g.answers.Tensor(name)
	if !ok {
		t.Fatalf("golden has no %s", name)
	}
	n := 1
	for _, d := range tensor.Shape {
		n *= d
	}
	x := make([]float32, n)
	must(t, g.answers.ReadF32(name, 0, n, x))
	return x
}

// ids reads an i32 tensor and its shape.
func (g *golden) ids(t *testing.T, name string) ([]int32, []int) {
	t.Helper()
	tensor, ok := g.answers.Tensor(name)
	if !ok {
		t.Fatalf("golden has no %s", name)
	}
	raw := make([]byte, tensor.Bytes())
	must(t, g.answers.ReadBytes(name, 0, len(raw)/4, raw))
	x := make([]int32, len(raw)/4)
	for i := range x {
		x[i] = int32(uint32(raw[4*i]) | uint32(raw[4*i+1])<<8 | uint32(raw[4*i+2])<<16 | uint32(raw[4*i+3])<<24)
	}
	return x, tensor.Shape
}

// leaf is a micro-batch with its shape.
type leaf struct {
	b, t int
	in   Input
}

// leaves are the documents in one of the golden's forms: packed and padded are one leaf each, unpacked is one
// leaf a document.
func (g *golden) leaves(t *testing.T, form string) []leaf {
	in := Input{Scale: float32(1 / float64(g.record.LossTokens))}
	var shape []int
	in.Tokens, shape = g.ids(t, form+".tokens")
	in.Labels, _ = g.ids(t, form+".labels")
	in.Positions, _ = g.ids(t, form+".positions")
	in.DocStart, _ = g.ids(t, form+".doc_start")
	if form != "unpacked" {
		return []leaf{{shape[0], shape[1], in}}
	}
	var all []leaf
	at := 0
	for _, n := range g.record.DocumentLengths {
		all = append(all, leaf{1, n, Input{Tokens: in.Tokens[at : at+n], Labels: in.Labels[at : at+n],
			Positions: in.Positions[at : at+n], DocStart: in.DocStart[at : at+n], Scale: in.Scale}})
		at += n
	}
	return all
}

// computed is what a decoder says about leaves: the sum of the losses, the logits of the rows that count and the
// units' gradients, summed over the leaves.
type computed struct {
	loss   float64
	losses []float32
	logits []float32
	grads  [][]float32
}

func compute(t *testing.T, m *machine, d *Decoder, weights [][]float32, leaves []leaf, recompute bool) computed {
	t.Helper()
	var c computed
	for _, u := range d.Units() {
		c.grads = append(c.grads, make([]float32, u.Elems))
	}
	for _, l := range leaves {
		r := newRig(t, m, d, weights, PassOptions{B: l.b, T: l.t, Recompute: recompute, Train: true})
		must(t, r.pass.Load(t.Context(), m.stream, l.in))
		r.forward(t)
		var rows []int32
		for i, label := range l.in.Labels {
			if label >= 0 {
				rows = append(rows, int32(i))
			}
		}
		logits, err := r.pass.Logits(t.Context(), m.stream, r.params(len(d.Units())-1), rows)
		must(t, err)
		c.logits = append(c.logits, logits...)
		r.backward(t)
		losses, err := r.pass.Losses(t.Context(), m.stream)
		must(t, err)
		c.losses = append(c.losses, losses...)
		for _, v := range losses {
			c.loss += float64(v)
		}
		for u := range c.grads {
			for i, v := range m.read(t, r.grads[u]) {
				c.grads[u][i] += v
			}
		}
		r.free(t)
	}
	return c
}

// relative is the norm of a-b over that of b.
func relative(a, b []float32) float64 {
	var diff, ref float64
	if len(a) != len(b) {
		return math.Inf(1)
	}
	for i := range a {
		d := float64(a[i]) - float64(b[i])
		diff += d * d
		ref += float64(b[i]) * float64(b[i])
	}
	return math.Sqrt(diff / ref)
}

// within fails the test when what is farther than tolerance from want.
func within(t *testing.T, what string, got, want []float32, tolerance float64) {
	t.Helper()
	e := relative(got, want)
	t.Logf("%s: relative error %.3g", what, e)
	if !(e <= tolerance) {
		t.Errorf("%s: relative error %.3g, want at most %.3g", what, e, tolerance)
	}
}

// parity compares what was computed with transformers' answers.
func (g *golden) parity(t *testing.T, form string, c computed, tolerance float64) {
	t.Helper()
	want := g.record.Losses[form]
	if got := c.loss / float64(g.record.LossTokens); !(math.Abs(got-want) <= tolerance*want) {
		t.Errorf("loss %v, want %v", got, want)
	}
	within(t, "logits", c.logits, g.f32(t, form+".logits"), tolerance)
	g.gradients(t, c, func(string) float64 { return tolerance })
}

func (g *golden) gradients(t *testing.T, c computed, tolerance func(tensor string) float64) {
	t.Helper()
	for i, u := range g.cfg.Units() {
		for _, tensor := range u.Tensors {
			want := g.f32(t, "grad."+tensor.Name)
			within(t, "gradient of "+tensor.Name, c.grads[i][tensor.Offset:tensor.End()], want, tolerance(tensor.Name))
		}
	}
}

// f32Tolerance is what the parity of f32 is held to; measured errors are about 1e-6.
const f32Tolerance = 1e-4

// Packed, padded and unpacked forms of the same documents give transformers' loss, logits and gradients.
func TestParityWithTransformers(t *testing.T) {
	for _, shape := range shapes {
		g := openGolden(t, shape)
		d, err := New(g.cfg, kernels.F32)
		must(t, err)
		for _, form := range []string{"packed", "padded", "unpacked"} {
			t.Run(shape+"/"+form, func(t *testing.T) {
				m := newMachine(t, 2)
				g.parity(t, form, compute(t, m, d, g.unitWeights(t), g.leaves(t, form), false), f32Tolerance)
			})
		}
	}
}

// How much of an error rounding to bf16 makes depends on how the decoder amplifies it, so the measure is
// transformers itself: its own bf16 error against f32 is in the golden, tensor by tensor. Ours must
// be at most twice that: two samples of one size of error differ by less.
func TestParityInBF16(t *testing.T) {
	for _, shape := range shapes {
		t.Run(shape, func(t *testing.T) {
			g := openGolden(t, shape)
			d, err := New(g.cfg, kernels.BF16)
			must(t, err)
			c := compute(t, newMachine(t, 2), d, g.unitWeights(t), g.leaves(t, "packed"), false)
			errors := g.record.BF16Errors
			within(t, "logits", c.logits, g.f32(t, "packed.logits"), 2*errors.Logits)
			g.gradients(t, c, func(tensor string) float64 { return 2 * errors.Gradients[tensor] })
		})
	}
}

// What must not change a bit: recomputation, the number of threads, a device that does nothing before it must.
func TestSameBits(t *testing.T) {
	for _, shape := range shapes {
		for _, act := range []kernels.DType{kernels.F32, kernels.BF16} {
			t.Run(fmt.Sprintf("%s/%s", shape, act), func(t *testing.T) {
				g := openGolden(t, shape)
				d, err := New(g.cfg, act)
				must(t, err)
				weights, leaves := g.unitWeights(t), g.leaves(t, "packed")
				want := compute(t, newMachine(t, 1), d, weights, leaves, false)
				equalBits(t, "recompute", compute(t, newMachine(t, 1), d, weights, leaves, true), want)
				equalBits(t, "three threads", compute(t, newMachine(t, 3), d, weights, leaves, false), want)
				equalBits(t, "deferred", compute(t, newDeferred(t), d, weights, leaves, true), want)
			})
		}
	}
}

func equalBits(t *testing.T, what string, got, want computed) {
	t.Helper()
	equalFloats(t, what+": losses", got.losses, want.losses)
	equalFloats(t, what+": logits", got.logits, want.logits)
	for u := range want.grads {
		equalFloats(t, fmt.Sprintf("%s: gradient of unit %d", what, u), got.grads[u], want.grads[u])
	}
}

func equalFloats(t *testing.T, what string, got, want []float32) {
	t.Helper()
	if len(got) != len(want) {
		t.Errorf("%s: %d values, want %d", what, len(got), len(want))
		return
	}
	for i := range want {
		if math.Float32bits(got[i]) != math.Float32bits(want[i]) {
			t.Errorf("%s: element %d is %v, want %v", what, i, got[i], want[i])
			return
		}
	}
}

// The head cut into chunks agrees with the head in one piece.
func TestHeadInChunks(t *testing.T) {
	for _, shape := range []string{"llama", "tied"} {
		g := openGolden(t, shape)
		d, err := New(g.cfg, kernels.F32)
		must(t, err)
		d.head.most = rowGranule * g.cfg.Vocab
		form := "packed"
		if n := len(g.leaves(t, form)[0].in.Tokens); chunkRows(n, g.cfg.Vocab, d.head.most) >= g.record.LossTokens {
			t.Fatalf("%s: one chunk holds all %d counted rows", shape, g.record.LossTokens)
		}
		g.parity(t, form, compute(t, newMachine(t, 2), d, g.unitWeights(t), g.leaves(t, form), false), f32Tolerance)
	}
}
