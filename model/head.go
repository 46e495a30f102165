package model

import (
	"github.com/zerofleet/zerofleet/kernels"
	"github.com/zerofleet/zerofleet/model/spec"
)

// head is the last norm, the output matrix and the cross-entropy.
//
// The logits are never whole in memory: they are made for a chunk of rows, turned into losses
// and, in training, into their gradient, which two products use up before the next chunk. Only rows whose
// label counts take part: they are gathered first, so that a chat's prompt costs nothing here.
type head struct {
	norm norm
	out  linear // in the embedding's unit when tied, else in the head's
	tied bool
	// most is the most logits at a time: chunkLogits.
	most int
}

func newHead(cfg spec.Config, u spec.Unit) head {
	h := head{norm: newNorm(u, spec.NormName, cfg.NormEps), tied: cfg.Tied, most: chunkLogits}
	if h.tied {
		h.out = linear{out: cfg.Vocab, in: cfg.Width}
	} else {
		h.out = newLinear(u, spec.LMHeadName)
	}
	return h
}

// weights is the flat buffer that holds the output matrix.
func (h head) weights(w Params) kernels.Buffer {
	if h.tied {
		return w.Embedding
	}
	return w.Unit
}

func (h head) grads(g Grads) kernels.Buffer {
	if h.tied {
		return g.Embedding
	}
	return g.Unit
}

const (
	// rowGranule is what the number of counted rows is rounded up to, so that the products have few
	// shapes whatever the labels are. The rows that are added have label -1.
	rowGranule = 32
	// chunkLogits is the most logits at a time. Each chunk after the first reads and writes the whole
	// gradient of the output matrix once more, so small chunks are slow: 8 Mi, 32 MiB of f32, are 160 rows
	// of a vocabulary of 49,152, where that traffic is a seventh of the chunk's products.
	chunkLogits = 8 << 20
)

// roundRows is rows, rounded up to the granule.
func roundRows(rows int) int { return (rows + rowGranule - 1) / rowGranule * rowGranule }

// chunkRows is the rows of a chunk when up to rows have vocab logits each: a multiple of the granule,
// with at most most logits, and such that the chunks are as equal as can be. It depends on the job's
// shapes alone, since the order of the output matrix's gradient sums depends on it.
func chunkRows(rows, vocab, most int) int {
	mostRows := max(most/vocab/rowGranule*rowGranule, rowGranule)
	chunks := (roundRows(rows) + mostRows - 1) / mostRows
	return roundRows((rows + chunks - 1) / chunks)
}

// headBuffers are the head's own memory. N is R rounded up to the granule, C the rows of a chunk.
type headBuffers struct {
	hidden  kernels.Buffer // [N,D] act: the normed rows that count
	dhidden kernels.Buffer // [N+1,D] act: their gradient, then a row of zeros. Training only
	logits  kernels.Buffer // [C,V] f32
	dlogits kernels.Buffer // [C,V] act: logits itself in f32. Training only
	rows    kernels.Buffer // [N] i32: which rows count
	back    kernels.Buffer // [R] i32: where a row stands in rows, or the row of zeros. Training only
	labels  kernels.Buffer // [N] i32
	loss    kernels.Buffer // [N] f32
	chunk   int            // C
}

func takeHead(g *grabber, h head, act kernels.DType, rows int, train bool) headBuffers {
	d, v, n := h.out.in, h.out.out, roundRows(rows)
	b := headBuffers{chunk: chunkRows(rows, v, h.most)}
	b.hidden = g.take(kernels.Workspace, act, n*d)
	b.logits = g.take(kernels.Workspace, kernels.F32, b.chunk*v)
	b.rows = g.take(kernels.Workspace, kernels.I32, n)
	b.labels = g.take(kernels.Workspace, kernels.I32, n)
	b.loss = g.take(kernels.Workspace, kernels.F32, n)
	if !train {
		return b
	}
	b.back = g.take(kernels.Workspace, kernels.I32, rows)
	b.dhidden = g.take(kernels.Workspace, act, (n+1)*d)
	b.dlogits = b.logits
	if act != kernels.F32 {
		b.dlogits = g.take(kernels.Workspace, act, b.chunk*v)
	}
	return b
}

// gather is the normed rows, n of them, of x: [rows,D].
func (h head) gather(p *program, x kernels.Buffer, w Params, b headBuffers, s scratch, rows, n int) {
	d := h.out.in
	h.norm.forward(p, s.normed, s.rstd, x, w.Unit, rows)
	p.do(kernels.Embedding{Y: b.hidden.Slice(0, n*d), Table: s.normed, IDs: b.rows.Slice(0, n), Rows: n, V: rows, D: d})
}

// eachChunk calls f with the ranges [lo,hi) of n rows.
func (b headBuffers) eachChunk(n int, f func(lo, hi int)) {
	for lo := 0; lo < n; lo += b.chunk {
		f(lo, min(lo+b.chunk, n))
	}
}

// forward leaves the losses of the n rows that count in b.loss.
func (h head) forward(p *program, x kernels.Buffer, w Params, b headBuffers, s scratch, rows, n int) {
	if n == 0 {
		return
	}
	h.gather(p, x, w, b, s, rows, n)
	b.eachChunk(n, func(lo, hi int) {
		logits := h.logits(p, w, b, lo, hi)
		p.do(kernels.CrossEntropy{Loss: b.loss.Slice(lo, hi), Logits: logits, Labels: b.labels.Slice(lo, hi), Rows: hi - lo, V: h.out.out})
	})
}

// logits are those of the gathered rows [lo,hi), a chunk at most.
func (h head) logits(p *program, w Params, b headBuffers, lo, hi int) kernels.Buffer {
	logits := b.logits.Slice(0, (hi-lo)*h.out.out)
	h.out.forward(p, logits, b.hidden.Slice(lo*h.out.in, hi*h.out.in), h.weights(w), hi-lo)
	return logits
}

// backward leaves the losses in b.loss, scale times the gradient of x in dx, and that of the weights in g.
func (h head) backward(p *program, x kernels.Buffer, w Params, g Grads, dx kernels.Buffer, b headBuffers, s scratch, rows, n int, scale float32) {
	d, v := h.out.in, h.out.out
	if n == 0 {
		p.do(kernels.Fill{Dst: h.norm.of(g.Unit)})
		p.do(kernels.Fill{Dst: h.out.of(h.grads(g))})
		p.do(kernels.Fill{Dst: dx})
		return
	}
	h.gather(p, x, w, b, s, rows, n)
	b.eachChunk(n, func(lo, hi int) {
		logits := h.logits(p, w, b, lo, hi)
		dlogits := b.dlogits.Slice(0, (hi-lo)*v)
		p.do(kernels.CrossEntropy{Loss: b.loss.Slice(lo, hi), DLogits: dlogits, Logits: logits, Labels: b.labels.Slice(lo, hi),
			Rows: hi - lo, V: v, Scale: scale})
		h.out.backwardWeight(p, h.grads(g), dlogits, b.hidden.Slice(lo*d, hi*d), hi-lo, lo > 0)
		h.out.backwardInput(p, b.dhidden.Slice(lo*d, hi*d), dlogits, h.weights(w), hi-lo)
	})
	p.do(kernels.Fill{Dst: b.dhidden.Slice(n*d, (n+1)*d)})
	p.do(kernels.Embedding{Y: s.delta, Table: b.dhidden.Slice(0, (n+1)*d), IDs: b.back, Rows: rows, V: n + 1, D: d})
	h.norm.backward(p, dx, g.Unit, s.delta, x, s.rstd, w.Unit, rows)
}
