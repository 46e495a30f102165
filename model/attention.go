package model

import (
	"fmt"

	"github.com/zerofleet/zerofleet/kernels"
)

// heads is the shape of attention.
type heads struct {
	q, kv, width int // H, G, K
	window       int // 0: none
	scale        float32
}

// qkv is the elements of a row of queries, keys and values; out those of what attention returns.
func (h heads) qkv() int { return (h.q + 2*h.kv) * h.width }
func (h heads) out() int { return h.q * h.width }

// attention fills b.att, and b.lse if it trains, from b.qkv, which it rotates first.
type attention interface {
	forward(p *program, h heads, b saved)
}

// rotary are the tables and the rows' positions.
type rotary struct {
	pos      kernels.Buffer // [R] i32
	cos, sin kernels.Buffer // [positions, K/2] f32
}

// upload fills the tables with the first n positions.
func (r rotary) upload(s kernels.Stream, d *Decoder, n int) error {
	cos, sin := d.rope(n)
	if err := s.Upload(r.cos, f32Bytes(cos)); err != nil {
		return fmt.Errorf("upload rotary tables: %w", err)
	}
	if err := s.Upload(r.sin, f32Bytes(sin)); err != nil {
		return fmt.Errorf("upload rotary tables: %w", err)
	}
	return nil
}

// rotate turns the queries and keys of x, [rows,(H+2G)K], by their positions, or back.
func (r rotary) rotate(p *program, h heads, x kernels.Buffer, rows int, inverse bool) {
	p.do(kernels.RoPE{X: x, Pos: r.pos, Cos: r.cos, Sin: r.sin, Rows: rows, Stride: h.qkv(), Heads: h.q + h.kv,
		HeadDim: h.width, Inverse: inverse})
}

// packed is attention over b sequences of t tokens that hold documents end to end.
type packed struct {
	rotary
	docStart kernels.Buffer // [R] i32
	b, t     int
}

func (a packed) forward(p *program, h heads, b saved) {
	a.rotate(p, h, b.qkv, a.b*a.t, false)
	p.do(kernels.Attention{Out: b.att, LSE: b.lse, QKV: b.qkv, DocStart: a.docStart, B: a.b, T: a.t,
		Heads: h.q, KVHeads: h.kv, HeadDim: h.width, Window: h.window, Scale: h.scale})
}

// backward is dqkv, the gradient of qkv before its rotation, from datt. rowsum: [B,H,T] f32.
func (a packed) backward(p *program, h heads, dqkv, datt, rowsum kernels.Buffer, b saved) {
	p.do(kernels.AttentionBackward{DQKV: dqkv, Delta: rowsum, DOut: datt, Out: b.att, LSE: b.lse, QKV: b.qkv,
		DocStart: a.docStart, B: a.b, T: a.t, Heads: h.q, KVHeads: h.kv, HeadDim: h.width, Window: h.window, Scale: h.scale})
	a.rotate(p, h, dqkv, a.b*a.t, true)
}

// cached is attention of n new tokens of one sequence over a cache that holds past tokens.
type cached struct {
	rotary
	keys, values kernels.Buffer // [max, GK] act
	n, past      int
}

func (a cached) forward(p *program, h heads, b saved) {
	a.rotate(p, h, b.qkv, a.n, false)
	p.do(kernels.CachedAttention{Out: b.att, QKV: b.qkv, Keys: a.keys, Values: a.values, N: a.n, Past: a.past,
		Heads: h.q, KVHeads: h.kv, HeadDim: h.width, Window: h.window, Scale: h.scale})
}
