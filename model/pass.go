package model

import (
	"context"
	"fmt"

	"github.com/zerofleet/zerofleet/kernels"
	"github.com/zerofleet/zerofleet/model/spec"
)

// PassOptions is the shape of a micro-batch and what is done with it.
type PassOptions struct {
	// B sequences of T tokens.
	B, T int
	// Recompute keeps only the blocks' inputs of a forward; Backward computes the rest
	// again. The bits are the same. It changes nothing without Train.
	Recompute bool
	// Train takes the memory that Backward needs.
	Train bool
}

// Pass is the activations of one micro-batch. One goroutine uses it, with one stream.
type Pass struct {
	d *Decoder
	o PassOptions

	tokens kernels.Buffer // [R] i32
	att    packed
	blocks []saved        // by block; with Recompute or without Train they share all but x, and without Train x too
	last   kernels.Buffer // [R,D] act: the last block's output
	dx     kernels.Buffer // [R,D] act: the gradient of the stream. Training only
	tmp    scratch
	head   headBuffers

	scale    float32
	counted  []int32 // the rows that count, in order; then the granule's padding
	nCounted int
	// holds is the block whose forward the shared buffers hold, -1 for none: with Recompute the
	// last block is not computed twice.
	holds int
	// next is the unit that Forward takes next, back the one that Backward takes next.
	next, back int
	losses     bool // Losses has something to read
}

// NewPass takes a pass's memory from a. On a measuring arena the pass knows its sizes and nothing else.
func (d *Decoder) NewPass(a *kernels.Arena, o PassOptions) (*Pass, error) {
	if o.B < 1 || o.T < 1 {
		return nil, fmt.Errorf("pass: %d sequences of %d tokens, want at least 1 of 1", o.B, o.T)
	}
	rows, width := o.B*o.T, d.cfg.Width
	g := &grabber{a: a}
	p := &Pass{d: d, o: o, holds: -1, next: len(d.units), back: -1}
	p.tokens = g.take(kernels.Activations, kernels.I32, rows)
	half := d.cfg.HeadWidth / 2
	p.att = packed{b: o.B, t: o.T,
		docStart: g.take(kernels.Activations, kernels.I32, rows),
		rotary: rotary{
			pos: g.take(kernels.Activations, kernels.I32, rows),
			cos: g.take(kernels.Workspace, kernels.F32, o.T*half),
			sin: g.take(kernels.Workspace, kernels.F32, o.T*half),
		}}
	p.blocks = make([]saved, d.cfg.Layers)
	for i := range p.blocks {
		switch {
		case i == 0 || o.Train && !o.Recompute:
			x := g.take(kernels.Activations, d.act, rows*width)
			p.blocks[i] = takeSaved(g, kernels.Activations, d.block, d.act, rows, x)
			p.blocks[i].lse = g.take(kernels.Activations, kernels.F32, rows*d.cfg.Heads)
		default:
			p.blocks[i] = p.blocks[0]
			if o.Train {
				p.blocks[i].x = g.take(kernels.Activations, d.act, rows*width)
			}
		}
	}
	p.last = p.blocks[0].x
	if o.Train {
		p.last = g.take(kernels.Activations, d.act, rows*width)
		p.dx = g.take(kernels.Workspace, d.act, rows*width)
	}
	p.tmp = takeScratch(g, d.block, d.act, rows, o.Train)
	p.head = takeHead(g, d.head, d.act, rows, o.Train)
	if g.err != nil {
		return nil, fmt.Errorf("pass of %d sequences of %d tokens: %w", o.B, o.T, g.err)
	}
	return p, nil
}

// grabber takes buffers of Device memory until the first error.
type grabber struct {
	a   *kernels.Arena
	err error
}

func (g *grabber) take(use kernels.Use, t kernels.DType, n int) kernels.Buffer {
	if g.err != nil {
		return kernels.Buffer{}
	}
	var b kernels.Buffer
	b, g.err = g.a.Take(use, kernels.Device, t, n)
	return b
}

// Rows is B*T.
func (p *Pass) Rows() int { return p.o.B * p.o.T }

// Init uploads the tables of rotary positions. It is called once, before the first Load.
func (p *Pass) Init(s kernels.Stream) error { return p.att.upload(s, p.d, p.o.T) }

// output is what unit writes of the residual stream: the input of the unit after it.
func (p *Pass) output(unit int) kernels.Buffer {
	if unit < len(p.blocks) {
		return p.blocks[unit].x
	}
	return p.last
}

// Forward computes unit, the one after the last Forward's, or 0 after a Load. The head's leaves the
// losses and no gradient: in training its Backward is called instead.
func (p *Pass) Forward(s kernels.Stream, unit int, w Params) error {
	if unit != p.next || unit >= len(p.d.units) {
		return fmt.Errorf("forward of unit %d: want unit %d of %d", unit, p.next, len(p.d.units))
	}
	u := p.d.units[unit]
	if err := p.d.checkParams(unit, w); err != nil {
		return fmt.Errorf("forward of %s: %w", u.Name, err)
	}
	prog, rows := &program{s: s}, p.Rows()
	switch u.Kind {
	case spec.Embedding:
		prog.do(kernels.Embedding{Y: p.output(0), Table: w.Unit.Slice(0, u.Elems), IDs: p.tokens, Rows: rows,
			V: p.d.cfg.Vocab, D: p.d.cfg.Width})
	case spec.Block:
		b := p.blocks[unit-1]
		p.d.block.forward(prog, w.Unit, b, p.tmp, rows, p.att)
		p.d.block.finish(prog, p.output(unit), w.Unit, b, p.tmp, rows)
		p.holds = unit - 1
	case spec.Head:
		p.headRun(prog, w, len(p.counted)).forward()
		p.losses = true
	}
	if prog.err != nil {
		return fmt.Errorf("forward of %s: %w", u.Name, prog.err)
	}
	p.next++
	p.back = len(p.d.units) - 1
	return nil
}

// Backward computes the gradient of unit: the head first, then down to the embedding. The head's also
// computes the losses. w is not read for the embedding.
func (p *Pass) Backward(s kernels.Stream, unit int, w Params, g Grads) error {
	if !p.o.Train {
		return fmt.Errorf("backward of unit %d: the pass was made without Train", unit)
	}
	if unit != p.back || p.next < len(p.d.units)-1 {
		return fmt.Errorf("backward of unit %d: want unit %d, after all forwards", unit, p.back)
	}
	u := p.d.units[unit]
	if err := p.d.checkGrads(unit, g); err != nil {
		return fmt.Errorf("backward of %s: %w", u.Name, err)
	}
	if u.Kind != spec.Embedding {
		if err := p.d.checkParams(unit, w); err != nil {
			return fmt.Errorf("backward of %s: %w", u.Name, err)
		}
	}
	prog, rows := &program{s: s}, p.Rows()
	switch u.Kind {
	case spec.Head:
		p.headRun(prog, w, len(p.counted)).backward(g, p.dx, p.scale)
		p.losses = true
	case spec.Block:
		b := p.blocks[unit-1]
		if p.o.Recompute && p.holds != unit-1 {
			p.d.block.forward(prog, w.Unit, b, p.tmp, rows, p.att)
		}
		p.d.block.backward(prog, w.Unit, g.Unit, p.dx, b, p.tmp, rows, p.att)
		p.holds = -1
	case spec.Embedding:
		table := g.Unit.Slice(0, u.Elems)
		if !p.d.cfg.Tied {
			prog.do(kernels.Fill{Dst: table})
		}
		prog.do(kernels.EmbeddingBackward{DTable: table, DY: p.dx, IDs: p.tokens, Rows: rows, V: p.d.cfg.Vocab, D: p.d.cfg.Width})
	}
	if prog.err != nil {
		return fmt.Errorf("backward of %s: %w", u.Name, prog.err)
	}
	p.back--
	p.next = len(p.d.units)
	return nil
}

func (p *Pass) headRun(prog *program, w Params, n int) headRun {
	return headRun{head: p.d.head, program: prog, buf: p.head, tmp: p.tmp, x: p.last, w: w, rows: p.Rows(), n: n}
}

// Losses returns each row's loss, [B*T], not scaled, 0 where the label is -1. It waits for the
// stream. It is valid after the head's Forward or Backward, until the next Load.
func (p *Pass) Losses(ctx context.Context, s kernels.Stream) ([]float32, error) {
	if !p.losses {
		return nil, fmt.Errorf("losses: the head was not computed since the last load")
	}
	out := make([]float32, p.Rows())
	if p.nCounted == 0 {
		return out, s.Sync(ctx)
	}
	counted, err := downloadF32(ctx, s, p.head.loss.Slice(0, p.nCounted))
	if err != nil {
		return nil, fmt.Errorf("losses: %w", err)
	}
	for i, l := range counted {
		out[p.counted[i]] = l
	}
	return out, nil
}

// Logits returns the logits of the given rows, [len(rows),V]. It is valid between the last block's
// Forward and the head's Backward. w are the head's parameters. It waits for the stream.
func (p *Pass) Logits(ctx context.Context, s kernels.Stream, w Params, rows []int32) ([]float32, error) {
	if head := len(p.d.units) - 1; p.next < head || p.back != head {
		return nil, fmt.Errorf("logits: want them after the blocks' forward and before a backward")
	}
	if err := p.d.checkParams(len(p.d.units)-1, w); err != nil {
		return nil, fmt.Errorf("logits: %w", err)
	}
	for _, r := range rows {
		if r < 0 || int(r) >= p.Rows() {
			return nil, fmt.Errorf("logits of row %d: want 0 to %d", r, p.Rows()-1)
		}
	}
	var out []float32
	for len(rows) > 0 {
		n := min(len(rows), p.head.chunk)
		if err := upload(s, p.head.rows.Slice(0, n), rows[:n]); err != nil {
			return nil, fmt.Errorf("logits: %w", err)
		}
		prog := &program{s: s}
		run := p.headRun(prog, w, n)
		run.gather()
		logits := run.chunkLogits(0, n)
		if prog.err != nil {
			return nil, fmt.Errorf("logits: %w", prog.err)
		}
		got, err := downloadF32(ctx, s, logits)
		if err != nil {
			return nil, fmt.Errorf("logits: %w", err)
		}
		out, rows = append(out, got...), rows[n:]
	}
	if err := upload(s, p.head.rows.Slice(0, len(p.counted)), p.counted); err != nil {
		return nil, fmt.Errorf("logits: %w", err)
	}
	return out, nil
}
