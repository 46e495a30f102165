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
	// most is the most logits at a time: mostLogits.
	most int
}

func newHead(cfg spec.Config, u spec.Unit) head {
	h := head{norm: newNorm(u, spec.NormName, cfg.NormEps), tied: cfg.Tied, most: mostLogits}
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
	// mostLogits is the most logits at a time. Each chunk after the first reads and writes the whole
	// gradient of the output matrix once more, so small chunks are slow: 8 Mi, 32 MiB of f32, are 160 rows
	// of a vocabulary of 49,152, where that traffic is a seventh of the chunk's products.
	mostLogits = 8 << 20
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

// headRun is one computation of the head.
type headRun struct {
	head
	*program
	buf     headBuffers
	tmp     scratch
	x       kernels.Buffer // [rows,D] act: the last block's output
	w       Params
	rows, n int // n of the rows count, the granule's padding included
}

// gather makes buf.hidden: the normed rows that count.
func (r headRun) gather() {
	d := r.out.in
	r.norm.forward(r.program, r.tmp.normed, r.tmp.rstd, r.x, r.w.Unit, r.rows)
	r.do(kernels.Embedding{Y: r.buf.hidden.Slice(0, r.n*d), Table: r.tmp.normed, IDs: r.buf.rows.Slice(0, r.n), Rows: r.n, V: r.rows, D: d})
}

// chunkLogits are the logits of the gathered rows [lo,hi), a chunk at most.
func (r headRun) chunkLogits(lo, hi int) kernels.Buffer {
	logits := r.buf.logits.Slice(0, (hi-lo)*r.out.out)
	r.out.forward(r.program, logits, r.buf.hidden.Slice(lo*r.out.in, hi*r.out.in), r.weights(r.w), hi-lo)
	return logits
}

// forward leaves the losses of the rows that count in buf.loss.
func (r headRun) forward() {
	if r.n == 0 {
		return
	}
	r.gather()
	for lo := 0; lo < r.n; lo += r.buf.chunk {
		hi := min(lo+r.buf.chunk, r.n)
		r.do(kernels.CrossEntropy{Loss: r.buf.loss.Slice(lo, hi), Logits: r.chunkLogits(lo, hi), Labels: r.buf.labels.Slice(lo, hi),
			Rows: hi - lo, V: r.out.out})
	}
}

// backward leaves the losses in buf.loss, scale times the gradient of x in dx, and that of the weights in g.
func (r headRun) backward(g Grads, dx kernels.Buffer, scale float32) {
	if r.n == 0 {
		r.do(kernels.Fill{Dst: r.norm.of(g.Unit)})
		r.do(kernels.Fill{Dst: r.out.of(r.grads(g))})
		r.do(kernels.Fill{Dst: dx})
		return
	}
	r.gather()
	d, v := r.out.in, r.out.out
	for lo := 0; lo < r.n; lo += r.buf.chunk {
		hi := min(lo+r.buf.chunk, r.n)
		dlogits := r.buf.dlogits.Slice(0, (hi-lo)*v)
		r.do(kernels.CrossEntropy{Loss: r.buf.loss.Slice(lo, hi), DLogits: dlogits, Logits: r.chunkLogits(lo, hi),
			Labels: r.buf.labels.Slice(lo, hi), Rows: hi - lo, V: v, Scale: scale})
		r.out.backwardWeight(r.program, r.grads(g), dlogits, r.buf.hidden.Slice(lo*d, hi*d), hi-lo, lo > 0)
		r.out.backwardInput(r.program, r.buf.dhidden.Slice(lo*d, hi*d), dlogits, r.weights(r.w), hi-lo)
	}
	r.do(kernels.Fill{Dst: r.buf.dhidden.Slice(r.n*d, (r.n+1)*d)})
	r.do(kernels.Embedding{Y: r.tmp.delta, Table: r.buf.dhidden.Slice(0, (r.n+1)*d), IDs: r.buf.back, Rows: r.rows, V: r.n + 1, D: d})
	r.norm.backward(r.program, dx, g.Unit, r.tmp.delta, r.x, r.tmp.rstd, r.w.Unit, r.rows)
}
