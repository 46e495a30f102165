package cuda_test

import (
	"fmt"
	"os"
	"testing"

	"github.com/zerofleet/zerofleet/kernels"
	"github.com/zerofleet/zerofleet/kernels/cuda"
)

// launches of one Op between two synchronisations, so that these cost nothing.
const launches = 20

// A rate is one Op at a size that fills a GPU, with the bytes that it must move and the operations that it must do.
type rate struct {
	name  string
	bytes float64
	flops float64
	op    func(take func(t kernels.DType, n int) kernels.Buffer) kernels.Op
}

func rates() []rate {
	const (
		n    = 64 << 20
		rows = 16384
		cols = 4096
		f    = 8192
		v    = 32768
		f32  = kernels.F32
		bf16 = kernels.BF16
	)
	type take = func(kernels.DType, int) kernels.Buffer
	all := []rate{
		{"add bf16", 6 * n, n, func(t take) kernels.Op { return kernels.Add{Out: t(bf16, n), A: t(bf16, n), B: t(bf16, n)} }},
		{"convert f32 to bf16", 6 * n, 0, func(t take) kernels.Op { return kernels.Convert{Dst: t(bf16, n), Src: t(f32, n)} }},
		{"accumulate bf16", 10 * n, n, func(t take) kernels.Op { return kernels.Accumulate{Acc: t(f32, n), Src: t(bf16, n)} }},
		{"block sum squares", 4 * n, 2 * n, func(t take) kernels.Op {
			return kernels.BlockSumSquares{X: t(f32, n), Out: t(kernels.F64, n/kernels.SumBlock)}
		}},
		{"adamw to bf16", 30 * n, 14 * n, func(t take) kernels.Op {
			return kernels.AdamW{Param: t(f32, n), M: t(f32, n), V: t(f32, n), Grad: t(f32, n), Out: t(bf16, n)}
		}},
		{"rmsnorm bf16", 4 * rows * cols, 0, func(t take) kernels.Op {
			return kernels.RMSNorm{X: t(bf16, rows*cols), Y: t(bf16, rows*cols), W: t(bf16, cols), Rstd: t(f32, rows), Rows: rows, Cols: cols}
		}},
		{"rmsnorm with sum bf16", 8 * rows * cols, 0, func(t take) kernels.Op {
			return kernels.RMSNorm{X: t(bf16, rows*cols), Y: t(bf16, rows*cols), W: t(bf16, cols), Rstd: t(f32, rows),
				Residual: t(bf16, rows*cols), Sum: t(bf16, rows*cols), Rows: rows, Cols: cols}
		}},
		{"rmsnorm backward bf16", 8 * rows * cols, 0, func(t take) kernels.Op {
			return kernels.RMSNormBackward{X: t(bf16, rows*cols), DY: t(bf16, rows*cols), DX: t(bf16, rows*cols), DAdd: t(bf16, rows*cols),
				W: t(bf16, cols), DW: t(f32, cols), Rstd: t(f32, rows), Rows: rows, Cols: cols}
		}},
		{"rope bf16", 4 * rows * cols, 0, func(t take) kernels.Op {
			return kernels.RoPE{X: t(bf16, rows*cols), Pos: t(kernels.I32, rows), Cos: t(f32, 2048*64), Sin: t(f32, 2048*64), Rows: rows,
				Stride: cols, Heads: cols / 128, HeadDim: 128}
		}},
		{"swiglu bf16", 6 * rows * f, 0, func(t take) kernels.Op {
			return kernels.SwiGLU{Y: t(bf16, rows*f), GateUp: t(bf16, rows*2*f), Rows: rows, F: f}
		}},
		{"swiglu backward bf16", 10 * rows * f, 0, func(t take) kernels.Op {
			return kernels.SwiGLUBackward{DY: t(bf16, rows*f), GateUp: t(bf16, rows*2*f), DGateUp: t(bf16, rows*2*f), Rows: rows, F: f}
		}},
		{"embedding bf16", 4 * rows * cols, 0, func(t take) kernels.Op {
			return kernels.Embedding{Y: t(bf16, rows*cols), Table: t(bf16, v*cols), IDs: t(kernels.I32, rows), Rows: rows, V: v, D: cols}
		}},
		{"embedding backward bf16", 10 * rows * cols, 0, func(t take) kernels.Op {
			return kernels.EmbeddingBackward{DY: t(bf16, rows*cols), DTable: t(f32, v*cols), IDs: t(kernels.I32, rows), Rows: rows, V: v, D: cols}
		}},
		{"cross entropy to bf16", 10 * 4096 * v, 0, func(t take) kernels.Op {
			return kernels.CrossEntropy{Loss: t(f32, 4096), Logits: t(f32, 4096*v), DLogits: t(bf16, 4096*v), Labels: t(kernels.I32, 4096),
				Rows: 4096, V: v, Scale: 1}
		}},
	}
	for _, s := range []struct {
		t       kernels.DType
		m, n, k int
	}{{bf16, 8192, 8192, 8192}, {bf16, 16384, 3072, 576}, {f32, 4096, 4096, 4096}} {
		all = append(all, rate{fmt.Sprintf("matmul %s %dx%dx%d", s.t, s.m, s.n, s.k), 0, 2 * float64(s.m) * float64(s.n) * float64(s.k),
			func(t take) kernels.Op {
				return kernels.MatMul{Out: t(s.t, s.m*s.n), A: t(s.t, s.m*s.k), B: t(s.t, s.n*s.k), M: s.m, N: s.n, K: s.k, TransB: true}
			}})
	}
	for _, s := range []struct{ b, t, heads, kv, dim int }{{8, 2048, 32, 8, 128}, {8, 2048, 9, 3, 64}} {
		rows, row, out := s.b*s.t, (s.heads+2*s.kv)*s.dim, s.heads*s.dim
		pairs := float64(s.b*s.heads) * float64(s.t) * float64(s.t+1) / 2
		name := fmt.Sprintf("bf16 %dx%d, %d heads of %d", s.b, s.t, s.heads, s.dim)
		all = append(all,
			rate{"attention " + name, 0, 4 * float64(s.dim) * pairs, func(t take) kernels.Op {
				return kernels.Attention{QKV: t(bf16, rows*row), Out: t(bf16, rows*out), LSE: t(f32, rows*s.heads), DocStart: t(kernels.I32, rows),
					B: s.b, T: s.t, Heads: s.heads, KVHeads: s.kv, HeadDim: s.dim, Scale: 0.1}
			}},
			rate{"attention backward " + name, 0, 10 * float64(s.dim) * pairs, func(t take) kernels.Op {
				return kernels.AttentionBackward{QKV: t(bf16, rows*row), DQKV: t(bf16, rows*row), Out: t(bf16, rows*out), DOut: t(bf16, rows*out),
					LSE: t(f32, rows*s.heads), Delta: t(f32, rows*s.heads), DocStart: t(kernels.I32, rows),
					B: s.b, T: s.t, Heads: s.heads, KVHeads: s.kv, HeadDim: s.dim, Scale: 0.1}
			}})
	}
	return all
}

// BenchmarkOps gives each Op's rate, and of the memory's the share: a copy within the card is measured first. It needs a GPU. Attention counts a
// causal forward as 4 and a backward as 10 operations per pair and element, however often the kernels compute a product.
func BenchmarkOps(b *testing.B) {
	if os.Getenv(cuda.LibraryVariable) == "" {
		b.Skip("needs a GPU: " + cuda.LibraryVariable + " names no library")
	}
	dev := open(b, 1)
	s, err := dev.NewStream("bench")
	if err != nil {
		b.Fatal(err)
	}
	copies := rate{name: "copy", bytes: 8 * (256 << 20)}
	memory := measure(b, dev, s, copies, 0)
	for _, r := range rates() {
		measure(b, dev, s, r, memory)
	}
	if err := s.Close(); err != nil {
		b.Fatal(err)
	}
	if err := dev.Close(); err != nil {
		b.Fatal(err)
	}
}

// measure reports bytes and operations a second, and returns the bytes.
func measure(b *testing.B, dev kernels.Backend, s kernels.Stream, r rate, memory float64) (bytes float64) {
	b.Run(r.name, func(b *testing.B) {
		var live []kernels.Memory
		take := func(t kernels.DType, n int) kernels.Buffer {
			m, err := dev.Alloc(kernels.Device, int64(n)*int64(t.Bytes()))
			if err != nil {
				b.Fatal(err)
			}
			live = append(live, m)
			buf, err := kernels.NewBuffer(m, 0, n, t)
			if err != nil {
				b.Fatal(err)
			}
			return buf
		}
		launch := func() error { return nil }
		if r.op == nil {
			dst, src := take(kernels.F32, 256<<20), take(kernels.F32, 256<<20)
			launch = func() error { return s.Copy(dst, src) }
		} else {
			op := r.op(take)
			if err := kernels.UploadSample(s, op); err != nil {
				b.Fatal(err)
			}
			launch = func() error { return s.Launch(op) }
		}
		round := func() {
			for range launches {
				if err := launch(); err != nil {
					b.Fatal(err)
				}
			}
			if err := s.Sync(b.Context()); err != nil {
				b.Fatal(err)
			}
		}
		round() // the library's first call looks for an algorithm
		for b.Loop() {
			round()
		}
		each := b.Elapsed().Seconds() / float64(b.N) / launches
		b.ReportMetric(each*1e6, "us")
		b.ReportMetric(0, "ns/op")
		if r.bytes > 0 {
			bytes = r.bytes / each
			b.ReportMetric(bytes/1e9, "GB/s")
			if memory > 0 {
				b.ReportMetric(bytes/memory, "of-copy")
			}
		}
		if r.bytes == 0 {
			b.ReportMetric(r.flops/each/1e12, "TFLOP/s")
		}
		for _, m := range live {
			if err := m.Free(); err != nil {
				b.Fatal(err)
			}
		}
	})
	return bytes
}
