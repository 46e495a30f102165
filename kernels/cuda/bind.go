package cuda

// #include "zf_library.h"
import "C"

import (
	"errors"
	"fmt"
	"unsafe"

	"github.com/zerofleet/zerofleet/kernels"
)

const (
	stagingBytes = int(C.ZF_STAGING_BYTES)
	eventCount   = int(C.ZF_EVENTS)
)

// status turns a status into an error.
func status(s C.int) error {
	switch {
	case s == C.ZF_OK:
		return nil
	case s == C.ZF_ENOMEM:
		return kernels.ErrMemory
	case s == C.ZF_EPRODUCT:
		return errors.New("cuBLASLt refused the product")
	case s > 0:
		return fmt.Errorf("the kernel refused its arguments (status %d): a head wider than 256, or our bug", int(s))
	}
	var text [512]C.char
	C.zf_call_error_text(s, &text[0], C.int64_t(len(text)))
	return errors.New(C.GoString(&text[0]))
}

// faults are what the device found, by ZF_FAULT_*.
var faults = map[C.int]error{
	C.ZF_FAULT_ROPE:          errors.New("rope: a position is out of range"),
	C.ZF_FAULT_ATTENTION:     errors.New("attention: a document start is out of range"),
	C.ZF_FAULT_EMBEDDING:     errors.New("embedding: an id is out of range"),
	C.ZF_FAULT_CROSS_ENTROPY: errors.New("cross entropy: a label is out of range"),
}

func deviceCount() (int, error) {
	var n C.int
	err := status(C.zf_call_device_count(&n))
	return int(n), err
}

// A device is the library's.
type device struct{ c *C.zf_device }

// info is what a device says of itself.
type info struct {
	name, isa, products   string
	totalBytes, freeBytes int64
}

func openDevice(ordinal int) (device, info, error) {
	var d device
	var i C.zf_device_info
	if err := status(C.zf_call_device_open(C.int(ordinal), &d.c, &i)); err != nil {
		return device{}, info{}, err
	}
	return d, info{C.GoString(&i.name[0]), C.GoString(&i.isa[0]), C.GoString(&i.products[0]), int64(i.total_bytes),
		int64(i.free_bytes)}, nil
}

func (d device) close() error { return status(C.zf_call_device_close(d.c)) }

func (d device) alloc(kind kernels.Kind, bytes int64) (unsafe.Pointer, error) {
	var p unsafe.Pointer
	err := status(C.zf_call_alloc(d.c, C.int(kind), C.int64_t(bytes), &p))
	return p, err
}

func (d device) release(kind kernels.Kind, p unsafe.Pointer) error {
	return status(C.zf_call_release(d.c, C.int(kind), p))
}

// A queue is the library's stream.
type queue struct{ c *C.zf_stream }

func (d device) openQueue() (queue, error) {
	var q queue
	err := status(C.zf_call_stream_open(d.c, &q.c))
	return q, err
}

func (q queue) close() error { return status(C.zf_call_stream_close(q.c)) }

func (q queue) upload(dst unsafe.Pointer, src []byte) error {
	return status(C.zf_call_upload(q.c, dst, unsafe.Pointer(unsafe.SliceData(src)), C.int64_t(len(src))))
}

// download returns pinned memory that holds the bytes after the next sync, until the call after it; nil when a sync must come first.
func (q queue) download(src unsafe.Pointer, bytes int) ([]byte, error) {
	var staged unsafe.Pointer
	s := C.zf_call_download(q.c, src, C.int64_t(bytes), &staged)
	if s == C.ZF_ENOMEM {
		return nil, nil
	}
	if err := status(s); err != nil {
		return nil, err
	}
	return unsafe.Slice((*byte)(staged), bytes), nil
}

func (q queue) copy(dst, src unsafe.Pointer, bytes int64) error {
	return status(C.zf_call_copy(q.c, dst, src, C.int64_t(bytes)))
}

func (q queue) record(event int) error { return status(C.zf_call_record(q.c, C.int(event))) }

func (q queue) wait(of queue, event int) error {
	return status(C.zf_call_wait(q.c, of.c, C.int(event)))
}

func (q queue) sync() error {
	var fault C.int
	if err := status(C.zf_call_sync(q.c, &fault)); err != nil {
		return err
	}
	if fault != 0 {
		return faults[fault]
	}
	return nil
}

// at is where a buffer begins, nil for the zero Buffer. The caller has checked the buffer.
func at(b kernels.Buffer) unsafe.Pointer {
	if b.IsZero() {
		return nil
	}
	return unsafe.Add(b.Mem().(*memory).p, b.Offset())
}

func f32(b kernels.Buffer) *C.float       { return (*C.float)(at(b)) }
func ids(b kernels.Buffer) *C.int32_t     { return (*C.int32_t)(at(b)) }
func dtype(b kernels.Buffer) C.int        { return C.int(b.Type()) }
func size(n int) C.int64_t                { return C.int64_t(n) }
func elements(b kernels.Buffer) C.int64_t { return C.int64_t(b.Len()) }

func flag(b bool) C.int {
	if b {
		return 1
	}
	return 0
}

// launch enqueues one validated Op.
func (q queue) launch(op kernels.Op) error {
	switch o := op.(type) {
	case kernels.MatMul:
		return status(C.zf_call_matmul(q.c, dtype(o.A), dtype(o.Out), at(o.Out), at(o.A), at(o.B), size(o.M), size(o.N),
			size(o.K), flag(o.TransA), flag(o.TransB), flag(o.Accumulate)))
	case kernels.RMSNorm:
		return status(C.zf_call_rmsnorm(q.c, dtype(o.X), at(o.Y), f32(o.Rstd), at(o.X), at(o.W), at(o.Residual), at(o.Sum),
			size(o.Rows), size(o.Cols), C.float(o.Eps)))
	case kernels.RMSNormBackward:
		return status(C.zf_call_rmsnorm_backward(q.c, dtype(o.X), at(o.DX), f32(o.DW), at(o.DY), at(o.X), at(o.W),
			f32(o.Rstd), at(o.DAdd), size(o.Rows), size(o.Cols)))
	case kernels.RoPE:
		return status(C.zf_call_rope(q.c, dtype(o.X), at(o.X), ids(o.Pos), f32(o.Cos), f32(o.Sin), size(o.Positions()),
			size(o.Rows), size(o.Stride), size(o.Heads), size(o.HeadDim), flag(o.Inverse)))
	case kernels.Attention:
		return status(C.zf_call_attention(q.c, dtype(o.QKV), at(o.Out), f32(o.LSE), at(o.QKV), ids(o.DocStart), size(o.B),
			size(o.T), size(o.Heads), size(o.KVHeads), size(o.HeadDim), size(o.Window), C.float(o.Scale)))
	case kernels.AttentionBackward:
		return status(C.zf_call_attention_backward(q.c, dtype(o.QKV), at(o.DQKV), f32(o.Delta), at(o.DOut), at(o.Out),
			f32(o.LSE), at(o.QKV), ids(o.DocStart), size(o.B), size(o.T), size(o.Heads), size(o.KVHeads),
			size(o.HeadDim), size(o.Window), C.float(o.Scale)))
	case kernels.CachedAttention:
		return status(C.zf_call_cached_attention(q.c, dtype(o.QKV), at(o.Out), at(o.QKV), at(o.Keys), at(o.Values),
			size(o.N), size(o.Past), size(o.Heads), size(o.KVHeads), size(o.HeadDim), size(o.Window), C.float(o.Scale)))
	case kernels.SwiGLU:
		return status(C.zf_call_swiglu(q.c, dtype(o.Y), at(o.Y), at(o.GateUp), size(o.Rows), size(o.F)))
	case kernels.SwiGLUBackward:
		return status(C.zf_call_swiglu_backward(q.c, dtype(o.DY), at(o.DGateUp), at(o.DY), at(o.GateUp), size(o.Rows),
			size(o.F)))
	case kernels.Embedding:
		return status(C.zf_call_embedding(q.c, dtype(o.Y), at(o.Y), at(o.Table), ids(o.IDs), size(o.Rows), size(o.V),
			size(o.D)))
	case kernels.EmbeddingBackward:
		return status(C.zf_call_embedding_backward(q.c, dtype(o.DY), f32(o.DTable), at(o.DY), ids(o.IDs), size(o.Rows),
			size(o.V), size(o.D)))
	case kernels.CrossEntropy:
		return status(C.zf_call_cross_entropy(q.c, dtype(o.DLogits), f32(o.Loss), at(o.DLogits), f32(o.Logits),
			ids(o.Labels), size(o.Rows), size(o.V), C.float(o.Scale)))
	}
	return q.launchElementwise(op)
}

// launchElementwise does the Ops that may have no elements: then there is nothing to do.
func (q queue) launchElementwise(op kernels.Op) error {
	switch o := op.(type) {
	case kernels.Add:
		if o.Out.Len() > 0 {
			return status(C.zf_call_add(q.c, dtype(o.Out), at(o.Out), at(o.A), at(o.B), elements(o.Out)))
		}
	case kernels.Convert:
		if o.Dst.Len() > 0 {
			return status(C.zf_call_convert(q.c, dtype(o.Dst), at(o.Dst), dtype(o.Src), at(o.Src), elements(o.Dst)))
		}
	case kernels.Fill:
		if o.Dst.Len() > 0 {
			return status(C.zf_call_fill(q.c, dtype(o.Dst), at(o.Dst), C.float(o.Value), elements(o.Dst)))
		}
	case kernels.Accumulate:
		if o.Acc.Len() > 0 {
			return status(C.zf_call_accumulate(q.c, dtype(o.Src), at(o.Acc), at(o.Src), elements(o.Acc)))
		}
	case kernels.BlockSumSquares:
		if o.X.Len() > 0 {
			return status(C.zf_call_block_sum_squares(q.c, (*C.double)(at(o.Out)), f32(o.X), elements(o.X)))
		}
	case kernels.AdamW:
		if o.Param.Len() > 0 {
			s := adamwScalars(o.Scalars)
			return status(C.zf_call_adamw(q.c, dtype(o.Out), at(o.Out), f32(o.Param), f32(o.M), f32(o.V), f32(o.Grad),
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
