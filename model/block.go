package model

import (
	"math"

	"github.com/zerofleet/zerofleet/kernels"
	"github.com/zerofleet/zerofleet/model/spec"
)

// block is what all blocks have in common: where their matrices lie and the shape of attention.
type block struct {
	attentionNorm, mlpNorm norm
	qkv, o, gateUp, down   linear
	heads                  heads
	f                      int // F
}

func newBlock(cfg spec.Config, u spec.Unit) block {
	return block{
		attentionNorm: newNorm(u, "input_layernorm.weight", cfg.NormEps),
		mlpNorm:       newNorm(u, "post_attention_layernorm.weight", cfg.NormEps),
		qkv:           newLinear(u, "q_proj.weight", "k_proj.weight", "v_proj.weight"),
		o:             newLinear(u, "o_proj.weight"),
		gateUp:        newLinear(u, "gate_proj.weight", "up_proj.weight"),
		down:          newLinear(u, "down_proj.weight"),
		heads: heads{q: cfg.Heads, kv: cfg.KVHeads, width: cfg.HeadWidth, window: cfg.SlidingWindow,
			scale: float32(1 / math.Sqrt(float64(cfg.HeadWidth)))},
		f: cfg.FeedForward,
	}
}

// saved is what a block's backward needs of its forward: (3D + (H+2G)K + HK + 2F) act and H f32 a
// row. The normed inputs and the product of gate and up are not kept: they are two elementwise passes
// from mid and gateUp, under 1 % of a block's time, and would be 2D + F more, a third of the
// whole at SmolLM2's shape.
type saved struct {
	x      kernels.Buffer // [R,D] act: the block's input
	qkv    kernels.Buffer // [R,(H+2G)K] act, rotated
	att    kernels.Buffer // [R,HK] act: what attention returned
	lse    kernels.Buffer // [B,H,T] f32
	mid    kernels.Buffer // [R,D] act: the residual stream after attention
	gateUp kernels.Buffer // [R,2F] act
}

// scratch is shared by all blocks. Each buffer serves values that are not alive together.
type scratch struct {
	normed kernels.Buffer // [R,D] act
	delta  kernels.Buffer // [R,D] act: what a branch adds to the stream; backward: the gradient of normed
	wide   kernels.Buffer // [R, max(F,(H+2G)K)] act: swiglu's output, then the gradient of qkv
	dwide  kernels.Buffer // [R, max(F,HK)] act: the gradient of swiglu's output, then of attention's. Training only
	rstd   kernels.Buffer // [R] f32
	rowsum kernels.Buffer // [B,H,T] f32: AttentionBackward's Delta. Training only
}

// takeSaved leaves lse to those who need it.
func takeSaved(g *grabber, use kernels.Use, b block, act kernels.DType, rows int, x kernels.Buffer) saved {
	return saved{
		x:      x,
		qkv:    g.take(use, act, rows*b.heads.qkv()),
		att:    g.take(use, act, rows*b.heads.out()),
		mid:    g.take(use, act, rows*b.qkv.in),
		gateUp: g.take(use, act, rows*b.gateUp.out),
	}
}

func takeScratch(g *grabber, b block, act kernels.DType, rows int, train bool) scratch {
	d := b.qkv.in
	s := scratch{
		normed: g.take(kernels.Workspace, act, rows*d),
		delta:  g.take(kernels.Workspace, act, rows*d),
		rstd:   g.take(kernels.Workspace, kernels.F32, rows),
	}
	if !train {
		s.wide = g.take(kernels.Workspace, act, rows*b.f)
		return s
	}
	s.wide = g.take(kernels.Workspace, act, rows*max(b.f, b.heads.qkv()))
	s.dwide = g.take(kernels.Workspace, act, rows*max(b.f, b.heads.out()))
	s.rowsum = g.take(kernels.Workspace, kernels.F32, rows*b.heads.q)
	return s
}

// forward computes everything of b from b.x, up to gateUp.
func (k block) forward(p *program, w kernels.Buffer, b saved, s scratch, rows int, a attention) {
	k.attentionNorm.forward(p, s.normed, s.rstd, b.x, w, rows)
	k.qkv.forward(p, b.qkv, s.normed, w, rows)
	a.forward(p, k.heads, b)
	k.o.forward(p, s.delta, b.att, w, rows)
	k.mlpNorm.forwardSum(p, s.normed, s.rstd, b.mid, s.delta, b.x, w, rows)
	k.gateUp.forward(p, b.gateUp, s.normed, w, rows)
}

// finish computes the block's output from mid and gateUp. out may be b.x.
func (k block) finish(p *program, out, w kernels.Buffer, b saved, s scratch, rows int) {
	act := s.wide.Slice(0, rows*k.f)
	p.do(kernels.SwiGLU{Y: act, GateUp: b.gateUp, Rows: rows, F: k.f})
	k.down.forward(p, s.delta, act, w, rows)
	p.do(kernels.Add{Out: out, A: b.mid, B: s.delta})
}

// backward turns dx, the gradient of the block's output, into that of its input, and overwrites
// the unit's gradient g. It destroys b.gateUp.
func (k block) backward(p *program, w, g, dx kernels.Buffer, b saved, s scratch, rows int, a packed) {
	act, dact := s.wide.Slice(0, rows*k.f), s.dwide.Slice(0, rows*k.f)
	p.do(kernels.SwiGLU{Y: act, GateUp: b.gateUp, Rows: rows, F: k.f})
	k.down.backwardWeight(p, g, dx, act, rows, false)
	k.down.backwardInput(p, dact, dx, w, rows)
	dgateUp := b.gateUp
	p.do(kernels.SwiGLUBackward{DGateUp: dgateUp, DY: dact, GateUp: b.gateUp, Rows: rows, F: k.f})
	k.mlpNorm.forward(p, s.normed, s.rstd, b.mid, w, rows)
	k.gateUp.backwardWeight(p, g, dgateUp, s.normed, rows, false)
	k.gateUp.backwardInput(p, s.delta, dgateUp, w, rows)
	k.mlpNorm.backwardOnto(p, dx, g, s.delta, b.mid, s.rstd, w, rows)

	dqkv, datt := s.wide.Slice(0, rows*k.heads.qkv()), s.dwide.Slice(0, rows*k.heads.out())
	k.o.backwardWeight(p, g, dx, b.att, rows, false)
	k.o.backwardInput(p, datt, dx, w, rows)
	a.backward(p, k.heads, dqkv, datt, s.rowsum, b)
	k.attentionNorm.forward(p, s.normed, s.rstd, b.x, w, rows)
	k.qkv.backwardWeight(p, g, dqkv, s.normed, rows, false)
	k.qkv.backwardInput(p, s.delta, dqkv, w, rows)
	k.attentionNorm.backwardOnto(p, dx, g, s.delta, b.x, s.rstd, w, rows)
}
