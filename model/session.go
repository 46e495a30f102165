package model

import (
	"context"
	"fmt"

	"github.com/zerofleet/zerofleet/kernels"
)

// SessionOptions is the room of a Session.
type SessionOptions struct {
	// MaxTokens is the most tokens that the cache holds.
	MaxTokens int
	// Chunk is the most tokens that are computed at a time: a longer Extend takes several rounds.
	Chunk int
}

// Session is one growing sequence with its key and value cache: generation's forward. One
// goroutine uses it, with one stream.
//
// The cache takes 2*GK act per token and block. A token's logits do not depend on how the tokens
// before it were cut into calls beyond rounding: products of other heights may sum in another order.
type Session struct {
	d *Decoder
	o SessionOptions

	tokens kernels.Buffer // [Chunk] i32
	rotary rotary
	caches []cached // by block: keys and values
	buf    saved    // [Chunk rows]
	tmp    scratch
	logits kernels.Buffer // [1,V] f32

	past int
}

// NewSession takes a session's memory from a.
func (d *Decoder) NewSession(a *kernels.Arena, o SessionOptions) (*Session, error) {
	if o.MaxTokens < 1 || o.Chunk < 1 {
		return nil, fmt.Errorf("session: room for %d tokens, %d at a time: want at least 1", o.MaxTokens, o.Chunk)
	}
	o.Chunk = min(o.Chunk, o.MaxTokens)
	half, row := d.cfg.HeadWidth/2, d.cfg.KVHeads*d.cfg.HeadWidth
	g := &grabber{a: a}
	s := &Session{d: d, o: o, caches: make([]cached, d.cfg.Layers)}
	s.tokens = g.take(kernels.Activations, kernels.I32, o.Chunk)
	s.rotary = rotary{
		pos: g.take(kernels.Activations, kernels.I32, o.Chunk),
		cos: g.take(kernels.Workspace, kernels.F32, o.MaxTokens*half),
		sin: g.take(kernels.Workspace, kernels.F32, o.MaxTokens*half),
	}
	for i := range s.caches {
		s.caches[i].keys = g.take(kernels.Activations, d.act, o.MaxTokens*row)
		s.caches[i].values = g.take(kernels.Activations, d.act, o.MaxTokens*row)
	}
	s.buf = takeSaved(g, kernels.Activations, d.block, d.act, o.Chunk, g.take(kernels.Activations, d.act, o.Chunk*d.cfg.Width))
	s.tmp = takeScratch(g, d.block, d.act, o.Chunk, false)
	s.logits = g.take(kernels.Workspace, kernels.F32, d.cfg.Vocab)
	if g.err != nil {
		return nil, fmt.Errorf("session of %d tokens: %w", o.MaxTokens, g.err)
	}
	return s, nil
}

// Init uploads the tables of rotary positions. It is called once, before the first Extend.
func (s *Session) Init(st kernels.Stream) error {
	return s.rotary.upload(st, s.d, s.o.MaxTokens)
}

// Tokens is how many tokens the cache holds.
func (s *Session) Tokens() int { return s.past }

// Truncate forgets all but the first n tokens.
func (s *Session) Truncate(n int) error {
	if n < 0 || n > s.past {
		return fmt.Errorf("truncate a session of %d tokens to %d", s.past, n)
	}
	s.past = n
	return nil
}

// Extend appends tokens, at least one, and returns the logits that follow the last of them, [V]. weights are the
// units' flat buffers in the order of Decoder.Units. After an error the session is as before.
func (s *Session) Extend(ctx context.Context, st kernels.Stream, weights []kernels.Buffer, tokens []int32) ([]float32, error) {
	if err := s.checkExtend(weights, tokens); err != nil {
		return nil, fmt.Errorf("extend a session of %d tokens: %w", s.past, err)
	}
	past := s.past
	var rows int
	for at := 0; at < len(tokens); at += rows {
		if err := ctx.Err(); err != nil {
			s.past = past
			return nil, err
		}
		rows = min(s.o.Chunk, len(tokens)-at)
		if err := s.chunk(st, weights, tokens[at:at+rows]); err != nil {
			s.past = past
			return nil, fmt.Errorf("extend a session of %d tokens: %w", past, err)
		}
		s.past += rows
	}
	logits, err := s.last(ctx, st, weights, rows)
	if err != nil {
		s.past = past
		return nil, fmt.Errorf("logits after token %d: %w", past+len(tokens), err)
	}
	return logits, nil
}

func (s *Session) checkExtend(weights []kernels.Buffer, tokens []int32) error {
	switch {
	case len(weights) != len(s.d.units):
		return fmt.Errorf("%d units of weights, want %d", len(weights), len(s.d.units))
	case len(tokens) == 0:
		return fmt.Errorf("no token")
	case len(tokens) > s.o.MaxTokens-s.past:
		return fmt.Errorf("%d tokens do not fit the room of %d", len(tokens), s.o.MaxTokens)
	}
	for i, w := range weights {
		if err := s.d.checkParams(i, Params{Unit: w, Embedding: weights[0]}); err != nil {
			return fmt.Errorf("%s: %w", s.d.units[i].Name, err)
		}
	}
	for i, t := range tokens {
		if t < 0 || int(t) >= s.d.cfg.Vocab {
			return fmt.Errorf("token %d at %d: not in the vocabulary of %d", t, i, s.d.cfg.Vocab)
		}
	}
	return nil
}

// chunk computes the blocks for tokens, Chunk at most: the last hidden states stay in buf.x.
func (s *Session) chunk(st kernels.Stream, weights []kernels.Buffer, tokens []int32) error {
	rows := len(tokens)
	positions := make([]int32, rows)
	for i := range positions {
		positions[i] = int32(s.past + i)
	}
	if err := upload(st, s.tokens.Slice(0, rows), tokens); err != nil {
		return err
	}
	if err := upload(st, s.rotary.pos.Slice(0, rows), positions); err != nil {
		return err
	}
	p := &program{s: st}
	b := s.rows(rows)
	d := s.d
	p.do(kernels.Embedding{Y: b.x, Table: weights[0].Slice(0, d.units[0].Elems), IDs: s.tokens.Slice(0, rows), Rows: rows,
		V: d.cfg.Vocab, D: d.cfg.Width})
	tmp := s.tmp.rows(d.block, rows)
	for i, a := range s.caches {
		a.rotary, a.n, a.past = s.rotary, rows, s.past
		a.pos = s.rotary.pos.Slice(0, rows)
		d.block.forward(p, weights[i+1], b, tmp, rows, a)
		d.block.finish(p, b.x, weights[i+1], b, tmp, rows)
	}
	return p.err
}

// last is the logits of the last of rows hidden states.
func (s *Session) last(ctx context.Context, st kernels.Stream, weights []kernels.Buffer, rows int) ([]float32, error) {
	d, h := s.d.cfg.Width, s.d.head
	p := &program{s: st}
	w := Params{Unit: weights[len(weights)-1], Embedding: weights[0]}
	normed := s.tmp.normed.Slice(0, d)
	h.norm.forward(p, normed, s.tmp.rstd.Slice(0, 1), s.buf.x.Slice((rows-1)*d, rows*d), w.Unit, 1)
	h.out.forward(p, s.logits, normed, h.weights(w), 1)
	if p.err != nil {
		return nil, p.err
	}
	return downloadF32(ctx, st, s.logits)
}

// rows is the part of the buffers that n rows use.
func (s *Session) rows(n int) saved {
	part := func(b kernels.Buffer) kernels.Buffer { return b.Slice(0, b.Len()/s.o.Chunk*n) }
	return saved{x: part(s.buf.x), qkv: part(s.buf.qkv), att: part(s.buf.att), mid: part(s.buf.mid), gateUp: part(s.buf.gateUp)}
}

// rows is the part of the buffers that n rows of a forward use.
func (s scratch) rows(k block, n int) scratch {
	return scratch{normed: s.normed.Slice(0, n*k.qkv.in), delta: s.delta.Slice(0, n*k.qkv.in), wide: s.wide.Slice(0, n*k.f),
		rstd: s.rstd.Slice(0, n)}
}

// Weights takes the memory of all units' parameters from a, for a Session.
func (d *Decoder) Weights(a *kernels.Arena) ([]kernels.Buffer, error) {
	g := &grabber{a: a}
	w := make([]kernels.Buffer, len(d.units))
	for i, u := range d.units {
		w[i] = g.take(kernels.Parameters, d.act, u.Elems)
	}
	if g.err != nil {
		return nil, fmt.Errorf("weights: %w", g.err)
	}
	return w, nil
}
