package cpu

// The only file that speaks to C. Everything it passes lies in memory from mmap or, for
// Accumulate, is used during the call only.

// #cgo CFLAGS: -O3 -std=c11 -Wall -Wextra
// #cgo LDFLAGS: -ldl -lpthread -lm
// #include "../zf_kernels.h"
import "C"

import (
	"errors"
	"fmt"
	"unsafe"

	"github.com/zerofleet/zerofleet/kernels"
)

var isaNames = map[C.int]string{C.ZF_ISA_PORTABLE: "portable", C.ZF_ISA_AVX2: "avx2", C.ZF_ISA_AVX512: "avx512"}

func isaName() string     { return isaNames[C.zf_isa()] }
func bestISAName() string { return isaNames[C.zf_isa_best()] }

func forceISA(name string) error {
	for isa, n := range isaNames {
		if n != name {
			continue
		}
		if C.zf_isa_force(isa) != C.ZF_OK {
			return fmt.Errorf("instruction set %s: this machine has %s", name, bestISAName())
		}
		return nil
	}
	return fmt.Errorf("instruction set %q: want portable, avx2 or avx512", name)
}

func forceOwnProducts(own bool) {
	which := C.int(C.ZF_PRODUCTS_AUTO)
	if own {
		which = C.ZF_PRODUCTS_OWN
	}
	C.zf_products_force(which)
}

// libraryVersion is oneDNN's, "" when products are our own.
func libraryVersion() string {
	v := int(C.zf_products_library())
	if v == 0 {
		return ""
	}
	return fmt.Sprintf("%d.%d.%d", v/10000, v/100%100, v%100)
}

// A pool is the threads of one Backend. One call at a time uses it.
type pool struct{ c *C.zf_pool }

func newPool(threads int) (pool, error) {
	c := C.zf_pool_new(C.int(threads))
	if c == nil {
		return pool{}, fmt.Errorf("start %d kernel threads: the system has not the threads or the memory", threads)
	}
	return pool{c}, nil
}

func (p pool) free() { C.zf_pool_free(p.c) }

// status turns a status code into an error.
func status(s C.zf_status) error {
	switch s {
	case C.ZF_OK:
		return nil
	case C.ZF_ENOMEM:
		return fmt.Errorf("scratch memory: %w", kernels.ErrMemory)
	case C.ZF_EID:
		return errors.New("an id, label, position or document start is out of range")
	case C.ZF_EPRODUCT:
		return errors.New("oneDNN refused the product")
	}
	return fmt.Errorf("the kernel refused its arguments (status %d)", int(s))
}

// at is where a buffer begins, nil for the zero Buffer. The caller holds the Backend's lock and has checked the buffer.
func at(b kernels.Buffer) unsafe.Pointer {
	if b.IsZero() {
		return nil
	}
	return unsafe.Add(unsafe.Pointer(unsafe.SliceData(b.Mem().(*memory).data)), b.Offset())
}

func f32(b kernels.Buffer) *C.float       { return (*C.float)(at(b)) }
func i32(b kernels.Buffer) *C.int32_t     { return (*C.int32_t)(at(b)) }
func dtype(b kernels.Buffer) C.int        { return C.int(b.Type()) }
func size(n int) C.int64_t                { return C.int64_t(n) }
func ids(b kernels.Buffer) *C.int32_t     { return (*C.int32_t)(at(b)) }
func elements(b kernels.Buffer) C.int64_t { return C.int64_t(b.Len()) }

func flag(b bool) C.int {
	if b {
		return 1
	}
	return 0
}

// run does one validated Op, and returns when it is done.
func (p pool) run(op kernels.Op) error {
	switch o := op.(type) {
	case kernels.MatMul:
		return status(C.zf_matmul(p.c, dtype(o.A), dtype(o.Out), at(o.Out), at(o.A), at(o.B), size(o.M), size(o.N),
			size(o.K), flag(o.TransA), flag(o.TransB), flag(o.Accumulate)))
	case kernels.RMSNorm:
		return status(C.zf_rmsnorm(p.c, dtype(o.X), at(o.Y), f32(o.Rstd), at(o.X), at(o.W), at(o.Residual), at(o.Sum),
			size(o.Rows), size(o.Cols), C.float(o.Eps)))
	case kernels.RMSNormBackward:
		return status(C.zf_rmsnorm_backward(p.c, dtype(o.X), at(o.DX), f32(o.DW), at(o.DY), at(o.X), at(o.W),
			f32(o.Rstd), at(o.DAdd), size(o.Rows), size(o.Cols)))
	case kernels.RoPE:
		return status(C.zf_rope(p.c, dtype(o.X), at(o.X), ids(o.Pos), f32(o.Cos), f32(o.Sin), size(o.Positions()),
			size(o.Rows), size(o.Stride), size(o.Heads), size(o.HeadDim), flag(o.Inverse)))
	case kernels.Attention:
		return status(C.zf_attention(p.c, dtype(o.QKV), at(o.Out), f32(o.LSE), at(o.QKV), ids(o.DocStart), size(o.B),
			size(o.T), size(o.Heads), size(o.KVHeads), size(o.HeadDim), size(o.Window), C.float(o.Scale)))
	case kernels.AttentionBackward:
		return status(C.zf_attention_backward(p.c, dtype(o.QKV), at(o.DQKV), f32(o.Delta), at(o.DOut), at(o.Out),
			f32(o.LSE), at(o.QKV), ids(o.DocStart), size(o.B), size(o.T), size(o.Heads), size(o.KVHeads),
			size(o.HeadDim), size(o.Window), C.float(o.Scale)))
	case kernels.CachedAttention:
		return status(C.zf_cached_attention(p.c, dtype(o.QKV), at(o.Out), at(o.QKV), at(o.Keys), at(o.Values), size(o.N),
			size(o.Past), size(o.Heads), size(o.KVHeads), size(o.HeadDim), size(o.Window), C.float(o.Scale)))
	case kernels.SwiGLU:
		return status(C.zf_swiglu(p.c, dtype(o.Y), at(o.Y), at(o.GateUp), size(o.Rows), size(o.F)))
	case kernels.SwiGLUBackward:
		return status(C.zf_swiglu_backward(p.c, dtype(o.DY), at(o.DGateUp), at(o.DY), at(o.GateUp), size(o.Rows),
			size(o.F)))
	case kernels.Embedding:
		return status(C.zf_embedding(p.c, dtype(o.Y), at(o.Y), at(o.Table), ids(o.IDs), size(o.Rows), size(o.V),
			size(o.D)))
	case kernels.EmbeddingBackward:
		return status(C.zf_embedding_backward(p.c, dtype(o.DY), f32(o.DTable), at(o.DY), ids(o.IDs), size(o.Rows),
			size(o.V), size(o.D)))
	case kernels.CrossEntropy:
		return status(C.zf_cross_entropy(p.c, dtype(o.DLogits), f32(o.Loss), at(o.DLogits), f32(o.Logits), ids(o.Labels),
			size(o.Rows), size(o.V), C.float(o.Scale)))
	}
	return p.runElementwise(op)
}

// runElementwise does the Ops that may have no elements: then there is nothing to do.
func (p pool) runElementwise(op kernels.Op) error {
	switch o := op.(type) {
	case kernels.Add:
		if o.Out.Len() > 0 {
			return status(C.zf_add(p.c, dtype(o.Out), at(o.Out), at(o.A), at(o.B), elements(o.Out)))
		}
	case kernels.Convert:
		if o.Dst.Len() > 0 {
			return status(C.zf_convert(p.c, dtype(o.Dst), at(o.Dst), dtype(o.Src), at(o.Src), elements(o.Dst)))
		}
	case kernels.Fill:
		if o.Dst.Len() > 0 {
			return status(C.zf_fill(p.c, dtype(o.Dst), at(o.Dst), C.float(o.Value), elements(o.Dst)))
		}
	case kernels.Accumulate:
		if o.Acc.Len() > 0 {
			return status(C.zf_accumulate(p.c, dtype(o.Src), at(o.Acc), at(o.Src), elements(o.Acc)))
		}
	case kernels.BlockSumSquares:
		if o.X.Len() > 0 {
			return status(C.zf_block_sum_squares(p.c, (*C.double)(at(o.Out)), f32(o.X), elements(o.X)))
		}
	case kernels.AdamW:
		if o.Param.Len() > 0 {
			s := adamwScalars(o.Scalars)
			return status(C.zf_adamw(p.c, dtype(o.Out), at(o.Out), f32(o.Param), f32(o.M), f32(o.V), f32(o.Grad),
				elements(o.Param), &s))
		}
	default:
		return fmt.Errorf("no kernel for %T", op)
	}
	return nil
}

func adamwScalars(s kernels.AdamWScalars) C.zf_adamw_scalars {
	return C.zf_adamw_scalars{
		grad_scale: C.float(s.GradScale), beta1: C.float(s.Beta1), beta2: C.float(s.Beta2),
		one_minus_beta1: C.float(s.OneMinusBeta1), one_minus_beta2: C.float(s.OneMinusBeta2),
		step_size: C.float(s.StepSize), inv_sqrt_bias2: C.float(s.InvSqrtBias2), eps: C.float(s.Eps),
		decay: C.float(s.Decay),
	}
}

// Accumulate adds src to acc, element by element: acc[i] += src[i], in f32. src holds
// little-endian elements of type t, f32, bf16 or whole blocks of Int8, as many as acc, at any alignment: bytes as
// they came off the wire. The bits are those of the kernels.Accumulate Op on any Backend. It needs no
// Backend, runs on the caller's thread and may be called concurrently.
func Accumulate(acc []float32, src []byte, t kernels.DType) error {
	if t != kernels.F32 && t != kernels.BF16 && t != kernels.Int8 {
		return fmt.Errorf("accumulate: elements of %s, want f32, bf16 or int8", t)
	}
	if len(acc)%t.Block() != 0 || len(src) != t.Size(len(acc)) {
		return fmt.Errorf("accumulate: %d bytes of %s onto %d elements, want %d bytes and whole blocks", len(src), t, len(acc), t.Size(len(acc)))
	}
	if len(acc) == 0 {
		return nil
	}
	return status(C.zf_accumulate(nil, C.int(t), unsafe.Pointer(unsafe.SliceData(acc)),
		unsafe.Pointer(unsafe.SliceData(src)), C.int64_t(len(acc))))
}
