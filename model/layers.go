package model

import (
	"github.com/zerofleet/zerofleet/kernels"
	"github.com/zerofleet/zerofleet/model/spec"
)

// program launches Ops on a stream until the first error, which it keeps.
type program struct {
	s   kernels.Stream
	err error
}

func (p *program) do(op kernels.Op) {
	if p.err == nil {
		p.err = p.s.Launch(op)
	}
}

// linear is a matrix of a unit's flat buffer, or several that are neighbours there and read the
// same input: [out, in], y = x W'.
type linear struct{ offset, out, in int }

// newLinear joins the named tensors of u, which lie end to end.
func newLinear(u spec.Unit, names ...string) linear {
	var l linear
	for i, name := range names {
		t := tensor(u, name)
		if i == 0 {
			l.offset, l.in = t.Offset, t.Shape[1]
		}
		l.out += t.Shape[0]
	}
	return l
}

// tensor finds a tensor that every unit of its kind has: spec and model agree on the names.
func tensor(u spec.Unit, name string) spec.Tensor {
	t, ok := u.Tensor(name)
	if !ok {
		panic("model: unit " + u.Name + " has no " + name)
	}
	return t
}

// of is the matrix in a unit's flat buffer of parameters or of gradients.
func (l linear) of(unit kernels.Buffer) kernels.Buffer {
	return unit.Slice(l.offset, l.offset+l.out*l.in)
}

// forward is y[rows,out] = x[rows,in] W'.
func (l linear) forward(p *program, y, x, unit kernels.Buffer, rows int) {
	p.do(kernels.MatMul{Out: y, A: x, B: l.of(unit), M: rows, N: l.out, K: l.in, TransB: true})
}

// backwardInput is dx[rows,in] = dy[rows,out] W.
func (l linear) backwardInput(p *program, dx, dy, unit kernels.Buffer, rows int) {
	p.do(kernels.MatMul{Out: dx, A: dy, B: l.of(unit), M: rows, N: l.in, K: l.out})
}

// backwardWeight is dW[out,in] = dy[rows,out]' x[rows,in], added to what is there when more.
func (l linear) backwardWeight(p *program, grads, dy, x kernels.Buffer, rows int, more bool) {
	p.do(kernels.MatMul{Out: l.of(grads), A: dy, B: x, M: l.out, N: l.in, K: rows, TransA: true, Accumulate: more})
}

// norm is an RMSNorm with its weight, [cols].
type norm struct {
	offset, cols int
	eps          float32
}

func newNorm(u spec.Unit, name string, eps float64) norm {
	t := tensor(u, name)
	return norm{offset: t.Offset, cols: t.Elems, eps: float32(eps)}
}

func (n norm) of(unit kernels.Buffer) kernels.Buffer {
	return unit.Slice(n.offset, n.offset+n.cols)
}

// forward is y = norm(x); rstd, [rows] f32, is what backward needs.
func (n norm) forward(p *program, y, rstd, x, unit kernels.Buffer, rows int) {
	p.do(kernels.RMSNorm{Y: y, Rstd: rstd, X: x, W: n.of(unit), Rows: rows, Cols: n.cols, Eps: n.eps})
}

// forwardSum is sum = x + residual; y = norm(sum).
func (n norm) forwardSum(p *program, y, rstd, sum, x, residual, unit kernels.Buffer, rows int) {
	p.do(kernels.RMSNorm{Y: y, Rstd: rstd, X: x, Residual: residual, Sum: sum, W: n.of(unit), Rows: rows, Cols: n.cols, Eps: n.eps})
}

// backwardOnto adds the gradient through the norm to dx and overwrites the weight's. x is what was
// normalised.
func (n norm) backwardOnto(p *program, dx, grads, dy, x, rstd, unit kernels.Buffer, rows int) {
	p.do(kernels.RMSNormBackward{DX: dx, DAdd: dx, DW: n.of(grads), DY: dy, X: x, W: n.of(unit), Rstd: rstd, Rows: rows, Cols: n.cols})
}

// backward is backwardOnto for a dx that holds nothing yet.
func (n norm) backward(p *program, dx, grads, dy, x, rstd, unit kernels.Buffer, rows int) {
	p.do(kernels.RMSNormBackward{DX: dx, DW: n.of(grads), DY: dy, X: x, W: n.of(unit), Rstd: rstd, Rows: rows, Cols: n.cols})
}
