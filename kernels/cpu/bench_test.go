package cpu_test

import (
	"encoding/binary"
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

// ids is an i32 buffer of numbers in [0,v), spread over all of them.
func (b *bench) ids(n, v int) kernels.Buffer {
	b.b.Helper()
	raw := make([]byte, 0, 4*n)
	for i := range n {
		raw = binary.LittleEndian.AppendUint32(raw, uint32(i*7919%v))
	}
	f := b.buffer(kernels.I32, n)
	if err := b.s.Upload(f, raw); err != nil {
		b.b.Fatal(err)
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

// The attention of SmolLM2-135M: one long sequence, and short ones.
var attentionShapes = []struct{ b, t, heads, kvHeads, width int }{{1, 512, 9, 3, 64}, {4, 128, 9, 3, 64}, {1, 2048, 9, 3, 64}}

// BenchmarkAttention reports GFLOP/s, of what the mask lets through: two products forward, five backward.
func BenchmarkAttention(b *testing.B) {
	for _, s := range attentionShapes {
		rows, qkv, out := s.b*s.t, (s.heads+2*s.kvHeads)*s.width, s.heads*s.width
		product := float64(s.b*s.heads*s.width) * float64(s.t) * float64(s.t+1) // 2 operations a pair, half of the pairs
		for _, k := range []struct {
			name string
			flop float64
			op   func(r *bench, dt kernels.DType) kernels.Op
		}{
			{"forward", 2 * product, func(r *bench, dt kernels.DType) kernels.Op {
				return kernels.Attention{Out: r.buffer(dt, rows*out), LSE: r.buffer(kernels.F32, rows*s.heads),
					QKV: r.buffer(dt, rows*qkv), DocStart: r.buffer(kernels.I32, rows),
					B: s.b, T: s.t, Heads: s.heads, KVHeads: s.kvHeads, HeadDim: s.width, Scale: 0.125}
			}},
			{"backward", 5 * product, func(r *bench, dt kernels.DType) kernels.Op {
				return kernels.AttentionBackward{DQKV: r.buffer(dt, rows*qkv), Delta: r.buffer(kernels.F32, rows*s.heads),
					DOut: r.buffer(dt, rows*out), Out: r.buffer(dt, rows*out), LSE: r.buffer(kernels.F32, rows*s.heads),
					QKV: r.buffer(dt, rows*qkv), DocStart: r.buffer(kernels.I32, rows),
					B: s.b, T: s.t, Heads: s.heads, KVHeads: s.kvHeads, HeadDim: s.width, Scale: 0.125}
			}},
		} {
			for _, dt := range []kernels.DType{kernels.F32, kernels.BF16} {
				for threads := 1; threads <= min(2, runtime.NumCPU()); threads++ {
					b.Run(fmt.Sprintf("%s/%dx%d/%s/threads=%d", k.name, s.b, s.t, dt, threads), func(b *testing.B) {
						benchOp(b, threads, k.flop, func(r *bench) kernels.Op { return k.op(r, dt) })
					})
				}
			}
		}
	}
}

// BenchmarkCachedAttention is one token after so many.
func BenchmarkCachedAttention(b *testing.B) {
	const heads, kvHeads, width = 9, 3, 64
	for _, past := range []int{128, 2047} {
		for _, dt := range []kernels.DType{kernels.F32, kernels.BF16} {
			for threads := 1; threads <= min(2, runtime.NumCPU()); threads++ {
				b.Run(fmt.Sprintf("past=%d/%s/threads=%d", past, dt, threads), func(b *testing.B) {
					benchOp(b, threads, float64(4*heads*width*(past+1)), func(r *bench) kernels.Op {
						return kernels.CachedAttention{Out: r.buffer(dt, heads*width), QKV: r.buffer(dt, (heads+2*kvHeads)*width),
							Keys: r.buffer(dt, (past+1)*kvHeads*width), Values: r.buffer(dt, (past+1)*kvHeads*width),
							N: 1, Past: past, Heads: heads, KVHeads: kvHeads, HeadDim: width, Scale: 0.125}
					})
				})
			}
		}
	}
}

// benchOp measures one Op that does so many floating-point operations.
func benchOp(b *testing.B, threads int, flop float64, build func(r *bench) kernels.Op) {
	r := newBench(b, cpu.Options{Threads: threads})
	defer r.close()
	op := build(r)
	r.launch(op)
	for b.Loop() {
		r.launch(op)
	}
	b.ReportMetric(flop*float64(b.N)/b.Elapsed().Seconds()/1e9, "GFLOP/s")
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

// BenchmarkFused reports bytes read and written per second, each counted once: of the kernels around SmolLM2-135M's
// products, over enough rows to leave the caches.
func BenchmarkFused(b *testing.B) {
	const rows, d, f, v, heads, headDim, stride = 8192, 576, 1536, 49152, 12, 64, 960
	for _, dt := range []kernels.DType{kernels.F32, kernels.BF16} {
		act := int64(dt.Bytes())
		for _, k := range []struct {
			name  string
			bytes int64
			op    func(r *bench) kernels.Op
		}{
			{"rmsnorm", 2 * act * rows * d, func(r *bench) kernels.Op {
				return kernels.RMSNorm{Y: r.buffer(dt, rows*d), X: r.buffer(dt, rows*d), W: r.buffer(dt, d),
					Rstd: r.buffer(kernels.F32, rows), Rows: rows, Cols: d, Eps: 1e-5}
			}},
			{"rmsnorm residual", 4 * act * rows * d, func(r *bench) kernels.Op {
				x := r.buffer(dt, rows*d)
				return kernels.RMSNorm{Y: r.buffer(dt, rows*d), X: x, W: r.buffer(dt, d), Residual: r.buffer(dt, rows*d),
					Sum: x, Rstd: r.buffer(kernels.F32, rows), Rows: rows, Cols: d, Eps: 1e-5}
			}},
			{"rmsnorm backward", 4 * act * rows * d, func(r *bench) kernels.Op {
				dx := r.buffer(dt, rows*d)
				return kernels.RMSNormBackward{DX: dx, DAdd: dx, DY: r.buffer(dt, rows*d), X: r.buffer(dt, rows*d),
					W: r.buffer(dt, d), DW: r.buffer(kernels.F32, d), Rstd: r.buffer(kernels.F32, rows), Rows: rows, Cols: d}
			}},
			{"rope", 2 * act * rows * heads * headDim, func(r *bench) kernels.Op {
				return kernels.RoPE{X: r.buffer(dt, rows*stride), Pos: r.ids(rows, 2048),
					Cos: r.buffer(kernels.F32, 2048*headDim/2), Sin: r.buffer(kernels.F32, 2048*headDim/2),
					Rows: rows, Stride: stride, Heads: heads, HeadDim: headDim}
			}},
			{"swiglu", 3 * act * rows * f, func(r *bench) kernels.Op {
				return kernels.SwiGLU{Y: r.buffer(dt, rows*f), GateUp: r.buffer(dt, rows*2*f), Rows: rows, F: f}
			}},
			{"swiglu backward", 5 * act * rows * f, func(r *bench) kernels.Op {
				return kernels.SwiGLUBackward{DGateUp: r.buffer(dt, rows*2*f), DY: r.buffer(dt, rows*f),
					GateUp: r.buffer(dt, rows*2*f), Rows: rows, F: f}
			}},
			{"embedding", 2 * act * rows * d, func(r *bench) kernels.Op {
				return kernels.Embedding{Y: r.buffer(dt, rows*d), Table: r.buffer(dt, v*d), IDs: r.ids(rows, v), Rows: rows, V: v, D: d}
			}},
			{"embedding backward", (8 + act) * rows * d, func(r *bench) kernels.Op {
				return kernels.EmbeddingBackward{DTable: r.buffer(kernels.F32, v*d), DY: r.buffer(dt, rows*d), IDs: r.ids(rows, v),
					Rows: rows, V: v, D: d}
			}},
			{"cross entropy", (4 + act) * 128 * v, func(r *bench) kernels.Op {
				return kernels.CrossEntropy{Loss: r.buffer(kernels.F32, 128), Logits: r.buffer(kernels.F32, 128*v),
					DLogits: r.buffer(dt, 128*v), Labels: r.ids(128, v), Rows: 128, V: v, Scale: 1}
			}},
		} {
			for _, threads := range []int{1, 2} {
				b.Run(fmt.Sprintf("%s/%s/threads=%d", k.name, dt, threads), func(b *testing.B) {
					r := newBench(b, cpu.Options{Threads: threads})
					defer r.close()
					op := k.op(r)
					r.launch(op)
					b.SetBytes(k.bytes)
					for b.Loop() {
						r.launch(op)
					}
				})
			}
		}
	}
}
