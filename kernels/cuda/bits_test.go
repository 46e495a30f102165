package cuda_test

import (
	"testing"

	"github.com/zerofleet/zerofleet/kernels"
	"github.com/zerofleet/zerofleet/kernels/cpu"
)

// exactCases are the Ops whose bits are the same on every device, at lengths that end inside a group of every kernel.
func exactCases() []kernels.Case {
	const n = 300_007
	take := func(a *kernels.Arena, t kernels.DType, n int) kernels.Buffer {
		b, err := a.Take(kernels.Workspace, kernels.Device, t, n)
		if err != nil {
			panic(err) // the arena that counts takes everything
		}
		return b
	}
	of := func(name string, op func(take func(t kernels.DType) kernels.Buffer) kernels.Op) kernels.Case {
		return kernels.Case{Name: name, Make: func(a *kernels.Arena) (kernels.Op, error) {
			return op(func(t kernels.DType) kernels.Buffer { return take(a, t, n) }), nil
		}}
	}
	cases := []kernels.Case{{Name: "block sum squares", Make: func(a *kernels.Arena) (kernels.Op, error) {
		return kernels.BlockSumSquares{X: take(a, kernels.F32, n), Out: take(a, kernels.F64, (n+kernels.SumBlock-1)/kernels.SumBlock)}, nil
	}}}
	for _, t := range []kernels.DType{kernels.F32, kernels.BF16} {
		cases = append(cases,
			of("add "+t.String(), func(take func(kernels.DType) kernels.Buffer) kernels.Op {
				return kernels.Add{Out: take(t), A: take(t), B: take(t)}
			}),
			of("fill "+t.String(), func(take func(kernels.DType) kernels.Buffer) kernels.Op {
				return kernels.Fill{Dst: take(t), Value: 0.1}
			}),
			of("accumulate "+t.String(), func(take func(kernels.DType) kernels.Buffer) kernels.Op {
				return kernels.Accumulate{Acc: take(kernels.F32), Src: take(t)}
			}),
			of("adamw to "+t.String(), func(take func(kernels.DType) kernels.Buffer) kernels.Op {
				return kernels.AdamW{Param: take(kernels.F32), M: take(kernels.F32), V: take(kernels.F32), Grad: take(kernels.F32),
					Out: take(t), Scalars: kernels.AdamWScalars{GradScale: 0.73, LearningRate: 3e-4, Beta1: 0.9, Beta2: 0.999,
						OneMinusBeta1: 0.1, OneMinusBeta2: 0.001, StepSize: 3.1e-4, InvSqrtBias2: 1.7, Eps: 1e-8, Decay: 0.999997}}
			}))
		for _, from := range []kernels.DType{kernels.F32, kernels.BF16, kernels.F16} {
			cases = append(cases, of("convert "+from.String()+" to "+t.String(), func(take func(kernels.DType) kernels.Buffer) kernels.Op {
				return kernels.Convert{Dst: take(t), Src: take(from)}
			}))
		}
	}
	return cases
}

// TestBitsOfCPU holds the optimizer and reduction kernels to kernels/cpu, bit for bit.
func TestBitsOfCPU(t *testing.T) {
	sums := func(b kernels.Backend) []kernels.CaseSum {
		_, each, err := kernels.Fingerprint(t.Context(), b, exactCases())
		if err != nil {
			t.Fatal(err)
		}
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
		return each
	}
	c, err := cpu.Open(cpu.Options{Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	want := sums(c)
	for i, got := range sums(open(t, 1)) {
		if got != want[i] {
			t.Errorf("%s: bits %.12s, the CPU's are %.12s", got.Name, got.Sum, want[i].Sum)
		}
	}
}
