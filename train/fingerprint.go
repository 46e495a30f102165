package train

import (
	"github.com/zerofleet/zerofleet/kernels"
	"github.com/zerofleet/zerofleet/model"
	"github.com/zerofleet/zerofleet/shard"
)

// FingerprintCases are the kernels of a whole step at the job's shapes: the model's, and the optimizer's, the fold's and
// the sums', which do not depend on the shape.
func FingerprintCases(dec *model.Decoder, o Options) ([]kernels.Case, error) {
	cases, err := dec.FingerprintCases(o.MicroBatch, o.SequenceLen)
	if err != nil {
		return nil, err
	}
	const n = 4*shard.BlockElems + 3
	own := func(name string, op func(take func(kernels.DType, int) kernels.Buffer) kernels.Op) {
		cases = append(cases, kernels.Case{Name: name, Make: func(a *kernels.Arena) (kernels.Op, error) {
			g := grabber{a: a}
			made := op(func(t kernels.DType, n int) kernels.Buffer { return g.take(kernels.Workspace, kernels.Device, t, n) })
			return made, g.err
		}})
	}
	whole := func(t kernels.DType) int { return n / t.Block() * t.Block() }
	own("accumulate", func(take func(kernels.DType, int) kernels.Buffer) kernels.Op {
		n := whole(o.WireGradients)
		return kernels.Accumulate{Acc: take(kernels.F32, n), Src: take(o.WireGradients, n)}
	})
	own("block sums", func(take func(kernels.DType, int) kernels.Buffer) kernels.Op {
		return kernels.BlockSumSquares{Out: take(kernels.F64, (n+shard.BlockElems-1)/shard.BlockElems), X: take(kernels.F32, n)}
	})
	own("convert", func(take func(kernels.DType, int) kernels.Buffer) kernels.Op {
		return kernels.Convert{Dst: take(kernels.BF16, n), Src: take(kernels.F32, n)}
	})
	if o.WireParameters == kernels.Int8 || o.WireGradients == kernels.Int8 {
		n := whole(kernels.Int8)
		own("to int8", func(take func(kernels.DType, int) kernels.Buffer) kernels.Op {
			return kernels.Convert{Dst: take(kernels.Int8, n), Src: take(kernels.F32, n)}
		})
		own("from int8", func(take func(kernels.DType, int) kernels.Buffer) kernels.Op {
			return kernels.Convert{Dst: take(o.Compute, n), Src: take(kernels.Int8, n)}
		})
	}
	own("adamw", func(take func(kernels.DType, int) kernels.Buffer) kernels.Op {
		return kernels.AdamW{Param: take(kernels.F32, n), M: take(kernels.F32, n), V: take(kernels.F32, n), Grad: take(kernels.F32, n),
			Scalars: o.scalars(Commit{LossTokens: 1}, 1)}
	})
	return cases, nil
}
