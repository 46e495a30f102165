package cpu_test

import (
	"fmt"
	"runtime"
	"testing"

	"github.com/zerofleet/zerofleet/kernels"
	"github.com/zerofleet/zerofleet/kernels/cpu"
)

// A bench is a Backend, a stream and the buffers of one benchmark, with small numbers in them.
type bench struct {
	b *testing.B
	d kernels.Backend
	s kernels.Stream
	m []kernels.Memory
}

func newBench(b *testing.B, o cpu.Options) *bench {
	b.Helper()
	d, err := cpu.Open(o)
	if err != nil {
		b.Skip(err)
	}
	s, err := d.NewStream("bench")
	if err != nil {
		b.Fatal(err)
	}
	return &bench{b: b, d: d, s: s}
}

func (b *bench) buffer(dt kernels.DType, n int) kernels.Buffer {
	b.b.Helper()
	m, err := b.d.Alloc(kernels.Device, int64(n*dt.Bytes()))
	if err != nil {
		b.b.Fatal(err)
	}
	b.m = append(b.m, m)
	f, err := kernels.NewBuffer(m, 0, n, dt)
	if err != nil {
		b.b.Fatal(err)
	}
	if dt == kernels.F32 || dt == kernels.BF16 {
		b.launch(kernels.Fill{Dst: f, Value: 0.01})
	}
	return f
}

func (b *bench) launch(op kernels.Op) {
	if err := b.s.Launch(op); err != nil {
		b.b.Fatal(err)
	}
}

func (b *bench) close() {
	for _, m := range b.m {
		if err := m.Free(); err != nil {
			b.b.Error(err)
		}
	}
	if err := b.s.Close(); err != nil {
		b.b.Error(err)
	}
	if err := b.d.Close(); err != nil {
		b.b.Error(err)
	}
}

// The products of SmolLM2-135M: width 576, 9 query and 3 key and value heads of 64, feed-forward 1536, vocabulary 49152.
var smol = []struct {
	name string
	op   kernels.MatMul
}{
	{"qkv", kernels.MatMul{M: 512, N: 960, K: 576, TransB: true}},
	{"gate_up", kernels.MatMul{M: 512, N: 3072, K: 576, TransB: true}},
	{"down", kernels.MatMul{M: 512, N: 576, K: 1536, TransB: true}},
	{"qkv/256", kernels.MatMul{M: 256, N: 960, K: 576, TransB: true}},
	{"gate_up/256", kernels.MatMul{M: 256, N: 3072, K: 576, TransB: true}},
	{"down/256", kernels.MatMul{M: 256, N: 576, K: 1536, TransB: true}},
	{"head/128", kernels.MatMul{M: 128, N: 49152, K: 576, TransB: true}},
	{"qkv_dx", kernels.MatMul{M: 512, N: 576, K: 960}},
	{"gate_up_dx", kernels.MatMul{M: 512, N: 576, K: 3072}},
	{"head_dx/128", kernels.MatMul{M: 128, N: 576, K: 49152}},
	{"qkv_dw", kernels.MatMul{M: 960, N: 576, K: 512, TransA: true}},
	{"gate_up_dw", kernels.MatMul{M: 3072, N: 576, K: 512, TransA: true}},
	{"down_dw", kernels.MatMul{M: 576, N: 1536, K: 512, TransA: true}},
	{"qkv_dw/256", kernels.MatMul{M: 960, N: 576, K: 256, TransA: true}},
	{"head_dw/128", kernels.MatMul{M: 49152, N: 576, K: 128, TransA: true, Accumulate: true}},
	{"token", kernels.MatMul{M: 1, N: 3072, K: 576, TransB: true}},
}

// BenchmarkMatMul reports GFLOP/s. Compare makers within one run: machines swing from minute to minute.
func BenchmarkMatMul(b *testing.B) {
	for _, p := range smol {
		for _, dt := range []kernels.DType{kernels.F32, kernels.BF16} {
			for threads := 1; threads <= min(2, runtime.NumCPU()); threads++ {
				for _, own := range []bool{false, true} {
					b.Run(fmt.Sprintf("%s/%s/threads=%d/own=%v", p.name, dt, threads, own), func(b *testing.B) {
						r := newBench(b, cpu.Options{Threads: threads, OwnProducts: own})
						defer r.close()
						o := p.op
						o.A, o.B = r.buffer(dt, o.M*o.K), r.buffer(dt, o.K*o.N)
						o.Out = r.buffer(kernels.F32, o.M*o.N)
						r.launch(o)
						for b.Loop() {
							r.launch(o)
						}
						flop := 2 * float64(o.M) * float64(o.N) * float64(o.K) * float64(b.N)
						b.ReportMetric(flop/b.Elapsed().Seconds()/1e9, "GFLOP/s")
					})
				}
			}
		}
	}
}

// BenchmarkMemoryBound reports bytes read and written per second, over parts far larger than the caches.
func BenchmarkMemoryBound(b *testing.B) {
	const n = 16 << 20
	for _, threads := range []int{1, 2} {
		for _, k := range []struct {
			name  string
			bytes int64 // per element
			op    func(r *bench) kernels.Op
		}{
			{"add/f32", 12, func(r *bench) kernels.Op {
				return kernels.Add{Out: r.buffer(kernels.F32, n), A: r.buffer(kernels.F32, n), B: r.buffer(kernels.F32, n)}
			}},
			{"add/bf16", 6, func(r *bench) kernels.Op {
				return kernels.Add{Out: r.buffer(kernels.BF16, n), A: r.buffer(kernels.BF16, n), B: r.buffer(kernels.BF16, n)}
			}},
			{"convert/f32-bf16", 6, func(r *bench) kernels.Op {
				return kernels.Convert{Dst: r.buffer(kernels.BF16, n), Src: r.buffer(kernels.F32, n)}
			}},
			{"convert/f16-f32", 6, func(r *bench) kernels.Op {
				return kernels.Convert{Dst: r.buffer(kernels.F32, n), Src: r.buffer(kernels.F16, n)}
			}},
			{"fill/f32", 4, func(r *bench) kernels.Op { return kernels.Fill{Dst: r.buffer(kernels.F32, n)} }},
			{"accumulate/f32", 12, func(r *bench) kernels.Op {
				return kernels.Accumulate{Acc: r.buffer(kernels.F32, n), Src: r.buffer(kernels.F32, n)}
			}},
			{"accumulate/bf16", 10, func(r *bench) kernels.Op {
				return kernels.Accumulate{Acc: r.buffer(kernels.F32, n), Src: r.buffer(kernels.BF16, n)}
			}},
			{"block sums", 4, func(r *bench) kernels.Op {
				return kernels.BlockSumSquares{Out: r.buffer(kernels.F64, n/kernels.SumBlock), X: r.buffer(kernels.F32, n)}
			}},
			{"adamw/bf16", 30, func(r *bench) kernels.Op {
				return kernels.AdamW{
					Param: r.buffer(kernels.F32, n), M: r.buffer(kernels.F32, n), V: r.buffer(kernels.F32, n),
					Grad: r.buffer(kernels.F32, n), Out: r.buffer(kernels.BF16, n),
					Scalars: kernels.AdamWScalars{GradScale: 1, Beta1: 0.9, Beta2: 0.999, OneMinusBeta1: 0.1,
						OneMinusBeta2: 0.001, StepSize: 1e-4, InvSqrtBias2: 1, Eps: 1e-8, Decay: 1},
				}
			}},
		} {
			b.Run(fmt.Sprintf("%s/threads=%d", k.name, threads), func(b *testing.B) {
				r := newBench(b, cpu.Options{Threads: threads})
				defer r.close()
				op := k.op(r)
				r.launch(op)
				b.SetBytes(k.bytes * n)
				for b.Loop() {
					r.launch(op)
				}
			})
		}
	}
}
