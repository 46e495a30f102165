package kerneltest

import (
	"math"

	"github.com/zerofleet/zerofleet/kernels"
)

var sumCases = []Case{{"block sum squares", runBlockSumSquares}}

// The order of the additions is part of the Op, so the comparison is exact.
func runBlockSumSquares(r *Rig) {
	for _, n := range append(lengths, 256*130+3) {
		for _, odd := range []float64{1, math.Inf(1), math.NaN()} {
			r.Begin("%d with %v", n, odd)
			values := r.Normal(n, 1)
			for i := range values {
				values[i] *= math.Exp2(float64(r.IntN(200) - 100))
			}
			values[n/2] = odd
			var o kernels.BlockSumSquares
			var x []float64
			o.X, x = r.In(kernels.F32, values)
			o.Out = r.Out(kernels.F64, (n+kernels.SumBlock-1)/kernels.SumBlock)
			r.Launch(o)
			r.Exactly("Out", o.Out, blockSums(x))
		}
	}
}

func blockSums(x []float64) []float64 {
	out := make([]float64, (len(x)+kernels.SumBlock-1)/kernels.SumBlock)
	for b := range out {
		var s [8]float64
		for i, v := range x[b*kernels.SumBlock : min((b+1)*kernels.SumBlock, len(x))] {
			s[i%8] += float64(v * v)
		}
		out[b] = ((s[0] + s[1]) + (s[2] + s[3])) + ((s[4] + s[5]) + (s[6] + s[7]))
	}
	return out
}
