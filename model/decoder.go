// Package model is the decoder: forward and hand-written backward, unit by unit, as Ops on a
// kernels.Stream. It holds no parameters. The caller keeps each unit's flat buffer, hands it
// over for the one call that needs it, and may gather it just before and free it just after:
// that is what ZeRO-3 does.
//
// Call New with a Config, then Decoder.NewPass for training and evaluation, or
// Decoder.NewSession for generation. A training step of one micro-batch is
//
//	Load; Forward 0 .. n-2; Backward n-1 .. 0; Losses
//
// where unit 0 is the embedding, n-1 the head and the blocks lie between. The head's
// Backward computes losses and gradient in one go. An evaluation is
//
//	Load; Forward 0 .. n-1; Losses
//
// A block is, with x the residual stream,
//
//	mid = x + attention(rope(norm(x) Wqkv')) Wo'
//	out = mid + swiglu(norm(mid) Wgu') Wd'
//
// What later decoders add has its place: QK norm and learned positions stand beside rope
// (attention.go), biases in linear, another norm in norm (layers.go).
//
// Legend: R rows, B sequences of T tokens end to end; D width; H query heads, G key and
// value heads, K head width; F feed-forward width; V vocabulary; act the activation type.
package model

import (
	"fmt"
	"math"

	"github.com/zerofleet/zerofleet/kernels"
	"github.com/zerofleet/zerofleet/model/spec"
)

// Decoder is a model's computation: where its matrices lie and what is done with them. It is
// a value that never changes, so any number of passes and sessions share it.
type Decoder struct {
	cfg   spec.Config
	act   kernels.DType
	units []spec.Unit
	block block
	head  head
}

// New plans the computation of cfg with activations and parameters in act, f32 or bf16.
func New(cfg spec.Config, act kernels.DType) (*Decoder, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("decoder: %w", err)
	}
	if act != kernels.F32 && act != kernels.BF16 {
		return nil, fmt.Errorf("decoder: activations in %s, want f32 or bf16", act)
	}
	d := &Decoder{cfg: cfg, act: act, units: cfg.Units()}
	d.block = newBlock(cfg, d.units[1])
	d.head = newHead(cfg, d.units[len(d.units)-1])
	return d, nil
}

// Config is what the decoder was made from.
func (d *Decoder) Config() spec.Config { return d.cfg }

// Act is the type of activations and of the parameters that products read.
func (d *Decoder) Act() kernels.DType { return d.act }

// Units lists the units in the order of a forward: the embedding, the blocks, the head.
// The caller does not change the slice.
func (d *Decoder) Units() []spec.Unit { return d.units }

// Tied reports whether the head computes with the embedding's matrix.
func (d *Decoder) Tied() bool { return d.cfg.Tied }

// Params are the parameters that one unit computes with, in the decoder's act type.
type Params struct {
	// Unit is the unit's flat buffer in canonical order. It may be longer, by padding.
	Unit kernels.Buffer
	// Embedding is the embedding unit's flat buffer: read by the head of a tied model, else zero.
	Embedding kernels.Buffer
}

// Grads receive one unit's gradient, f32.
type Grads struct {
	// Unit: every element of the unit is overwritten, padding is not touched. Of a tied model's
	// embedding it must be what the head's Backward wrote as Embedding: it is added to.
	Unit kernels.Buffer
	// Embedding is overwritten by the head of a tied model with its share, else zero.
	Embedding kernels.Buffer
}

// checkParams makes what would be our caller's bug an error that names the unit.
func (d *Decoder) checkParams(unit int, w Params) error {
	u := d.units[unit]
	if w.Unit.Type() != d.act || w.Unit.Len() < u.Elems {
		return fmt.Errorf("parameters: %d %s, want %d %s", w.Unit.Len(), w.Unit.Type(), u.Elems, d.act)
	}
	if u.Kind == spec.Head && d.cfg.Tied && (w.Embedding.Type() != d.act || w.Embedding.Len() < d.units[0].Elems) {
		return fmt.Errorf("embedding of the tied head: %d %s, want %d %s", w.Embedding.Len(), w.Embedding.Type(), d.units[0].Elems, d.act)
	}
	return nil
}

func (d *Decoder) checkGrads(unit int, g Grads) error {
	u := d.units[unit]
	if g.Unit.Type() != kernels.F32 || g.Unit.Len() < u.Elems {
		return fmt.Errorf("gradient: %d %s, want %d f32", g.Unit.Len(), g.Unit.Type(), u.Elems)
	}
	if u.Kind == spec.Head && d.cfg.Tied && (g.Embedding.Type() != kernels.F32 || g.Embedding.Len() < d.units[0].Elems) {
		return fmt.Errorf("gradient of the tied embedding: %d %s, want %d f32", g.Embedding.Len(), g.Embedding.Type(), d.units[0].Elems)
	}
	return nil
}

// rope is the first n positions' cosines and sines, [n, K/2] each. An angle is the f32 product of
// position and frequency, as in transformers; its cosine and sine are taken in float64 and rounded once.
func (d *Decoder) rope(n int) (cos, sin []float32) {
	freq := d.cfg.InvFreq()
	cos, sin = make([]float32, 0, n*len(freq)), make([]float32, 0, n*len(freq))
	for pos := range n {
		for _, f := range freq {
			angle := float64(float32(float32(pos) * f))
			cos = append(cos, float32(math.Cos(angle)))
			sin = append(sin, float32(math.Sin(angle)))
		}
	}
	return cos, sin
}
