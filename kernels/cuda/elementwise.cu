// Add, convert, fill, accumulate and AdamW: one pass, each element once. They move what their comments say and compute next to
// nothing, so their floor is the memory's rate. Every operation is rounded to f32 on its own: the bits of kernels/cpu.
#include "host.cuh"

// each gives every group of Op::n elements to a thread of its own.
template <class Op, bool V> __global__ void each(Op op, int64_t n) {
	int64_t i = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) * Op::n;
	if (i + Op::n <= n)
		op.template group<V>(i, Op::n);
	else if (i < n)
		op.template group<false>(i, n - i);
}

template <class Op> static int run(zf_stream *s, bool v, Op op, int64_t n) {
	dim3 grid((unsigned)zf_ceil(n, 256 * Op::n));
	return v ? zf_launch(each<Op, true>, grid, 256, 0, s, op, n) : zf_launch(each<Op, false>, grid, 256, 0, s, op, n);
}

// Reads a and b, writes out: 3 elements' bytes.
template <class T> struct add_op {
	static constexpr int n = zf_group<T>::n;
	T *out;
	const T *a, *b;
	template <bool V> __device__ void group(int64_t i, int64_t k) const {
		float x[n], y[n];
		zf_load<n, V>(x, a + i, k);
		zf_load<n, V>(y, b + i, k);
#pragma unroll
		for (int j = 0; j < n; j++)
			x[j] = x[j] + y[j];
		zf_store<n, V>(out + i, x, k);
	}
};

ZF_EXPORT int zf_cuda_add(zf_stream *s, int dtype, void *out, const void *a, const void *b, int64_t n) {
	bool v = zf_aligned(out, a, b);
	if (dtype == ZF_F32)
		return run(s, v, add_op<float>{(float *)out, (const float *)a, (const float *)b}, n);
	if (dtype == ZF_BF16)
		return run(s, v, add_op<zf_bf16>{(zf_bf16 *)out, (const zf_bf16 *)a, (const zf_bf16 *)b}, n);
	return ZF_EINVAL;
}

// Reads src, writes dst. Between the two short formats the way is through f32, which holds both exactly.
template <class D, class S> struct convert_op {
	static constexpr int n = zf_group<D>::n < zf_group<S>::n ? zf_group<D>::n : zf_group<S>::n;
	D *dst;
	const S *src;
	template <bool V> __device__ void group(int64_t i, int64_t k) const {
		float x[n];
		zf_load<n, V>(x, src + i, k);
		zf_store<n, V>(dst + i, x, k);
	}
};

template <class D> static int convert_to(zf_stream *s, D *dst, int src_dtype, const void *src, int64_t n) {
	bool v = zf_aligned(dst, src);
	switch (src_dtype) {
	case ZF_F32:
		return run(s, v, convert_op<D, float>{dst, (const float *)src}, n);
	case ZF_BF16:
		return run(s, v, convert_op<D, zf_bf16>{dst, (const zf_bf16 *)src}, n);
	case ZF_F16:
		return run(s, v, convert_op<D, zf_f16>{dst, (const zf_f16 *)src}, n);
	}
	return ZF_EINVAL;
}

// A warp takes a block of ZF_INT8, eight elements a lane, lane and lane: kernels.Int8 says what it is. Blocks are aligned to their
// scale.
__device__ __forceinline__ void widen_block(float x[8], const char *block, int lane) {
	float scale = *(const float *)(block + ZF_INT8_BLOCK);
#pragma unroll
	for (int j = 0; j < 8; j++)
		x[j] = (float)(int)(signed char)block[lane + 32 * j] * scale;
}

// Reads src, writes dst: 260 bytes a block, and 2 or 4 an element.
template <class D> __global__ void widen_blocks(D *dst, const char *src, int64_t blocks) {
	int64_t b = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) / 32;
	int lane = threadIdx.x % 32;
	if (b >= blocks)
		return;
	float x[8];
	widen_block(x, src + b * ZF_INT8_BYTES, lane);
#pragma unroll
	for (int j = 0; j < 8; j++)
		dst[b * ZF_INT8_BLOCK + lane + 32 * j] = zf_narrow<D>::of(x[j]);
}

template <class S> __global__ void narrow_blocks(char *dst, const S *src, int64_t blocks) {
	int64_t b = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) / 32;
	int lane = threadIdx.x % 32;
	if (b >= blocks)
		return;
	float x[8];
	uint32_t top = 0; // magnitudes order like their bits; NaNs are above infinity
#pragma unroll
	for (int j = 0; j < 8; j++) {
		x[j] = zf_widen(src[b * ZF_INT8_BLOCK + lane + 32 * j]);
		uint32_t a = zf_float_bits(x[j]) & 0x7fffffffu;
		top = a > top ? a : top;
	}
#pragma unroll
	for (int w = 16; w > 0; w /= 2) {
		uint32_t a = __shfl_xor_sync(0xffffffffu, top, w);
		top = a > top ? a : top;
	}
	float magnitude = zf_bits_float(top), scale, inverse;
	if (top >= 0x7f800000u || magnitude < 0x1p-100f) {
		scale = top >= 0x7f800000u ? zf_bits_float(0x7fc00000u) : 0.0f;
		inverse = 0;
	} else {
		scale = magnitude / 127.0f;
		inverse = 127.0f / magnitude;
	}
	char *block = dst + b * ZF_INT8_BYTES;
#pragma unroll
	for (int j = 0; j < 8; j++) // adding 1.5 * 2^23 leaves the nearest integer, ties to even, in the low bits
		block[lane + 32 * j] = inverse == 0 ? 0 : (char)(zf_float_bits(x[j] * inverse + 0x1.8p+23f) & 0xffu);
	if (lane == 0)
		*(float *)(block + ZF_INT8_BLOCK) = scale;
}

template <class S> static int narrow_to_blocks(zf_stream *s, void *dst, const void *src, int64_t blocks) {
	return zf_launch(narrow_blocks<S>, dim3((unsigned)zf_ceil(blocks, 8)), 256, 0, s, (char *)dst, (const S *)src,
	                 blocks);
}

template <class D> static int widen_from_blocks(zf_stream *s, void *dst, const void *src, int64_t blocks) {
	return zf_launch(widen_blocks<D>, dim3((unsigned)zf_ceil(blocks, 8)), 256, 0, s, (D *)dst, (const char *)src,
	                 blocks);
}

static int convert_blocks(zf_stream *s, int dst_dtype, void *dst, int src_dtype, const void *src, int64_t n) {
	if (n % ZF_INT8_BLOCK != 0)
		return ZF_EINVAL;
	int64_t blocks = n / ZF_INT8_BLOCK;
	if (dst_dtype == ZF_INT8 && src_dtype == ZF_F32)
		return narrow_to_blocks<float>(s, dst, src, blocks);
	if (dst_dtype == ZF_INT8 && src_dtype == ZF_BF16)
		return narrow_to_blocks<zf_bf16>(s, dst, src, blocks);
	if (src_dtype == ZF_INT8 && dst_dtype == ZF_F32)
		return widen_from_blocks<float>(s, dst, src, blocks);
	if (src_dtype == ZF_INT8 && dst_dtype == ZF_BF16)
		return widen_from_blocks<zf_bf16>(s, dst, src, blocks);
	return ZF_EINVAL;
}

ZF_EXPORT int zf_cuda_convert(zf_stream *s, int dst_dtype, void *dst, int src_dtype, const void *src, int64_t n) {
	ZF_TRY(zf_enter(s));
	if (dst_dtype == src_dtype && (dst_dtype == ZF_F32 || dst_dtype == ZF_BF16 || dst_dtype == ZF_F16))
		return zf_cuda_status(cudaMemcpyAsync(dst, src, (size_t)(n * (dst_dtype == ZF_F32 ? 4 : 2)), cudaMemcpyDefault,
		                                      s->on)); // every bit as it is
	if (dst_dtype == ZF_INT8 || src_dtype == ZF_INT8)
		return convert_blocks(s, dst_dtype, dst, src_dtype, src, n);
	switch (dst_dtype) {
	case ZF_F32:
		return convert_to(s, (float *)dst, src_dtype, src, n);
	case ZF_BF16:
		return convert_to(s, (zf_bf16 *)dst, src_dtype, src, n);
	case ZF_F16:
		return convert_to(s, (zf_f16 *)dst, src_dtype, src, n);
	}
	return ZF_EINVAL;
}

// Writes dst.
template <class T> struct fill_op {
	static constexpr int n = zf_group<T>::n;
	T *dst;
	float value;
	template <bool V> __device__ void group(int64_t i, int64_t k) const {
		float x[n];
#pragma unroll
		for (int j = 0; j < n; j++)
			x[j] = value;
		zf_store<n, V>(dst + i, x, k);
	}
};

ZF_EXPORT int zf_cuda_fill(zf_stream *s, int dtype, void *dst, float value, int64_t n) {
	if (dtype == ZF_F32)
		return run(s, zf_aligned(dst), fill_op<float>{(float *)dst, value}, n);
	if (dtype == ZF_BF16)
		return run(s, zf_aligned(dst), fill_op<zf_bf16>{(zf_bf16 *)dst, value}, n);
	return ZF_EINVAL;
}

// Reads acc and src, writes acc: 8 bytes an element and src's.
template <class S> struct accumulate_op {
	static constexpr int n = 4;
	float *acc;
	const S *src;
	template <bool V> __device__ void group(int64_t i, int64_t k) const {
		float x[n], y[n];
		zf_load<n, V>(x, acc + i, k);
		zf_load<n, V>(y, src + i, k);
#pragma unroll
		for (int j = 0; j < n; j++)
			x[j] = x[j] + y[j];
		zf_store<n, V>(acc + i, x, k);
	}
};

// The same of blocks: 8 bytes an element and 260 a block.
__global__ void accumulate_blocks(float *acc, const char *src, int64_t blocks) {
	int64_t b = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) / 32;
	int lane = threadIdx.x % 32;
	if (b >= blocks)
		return;
	float x[8];
	widen_block(x, src + b * ZF_INT8_BYTES, lane);
#pragma unroll
	for (int j = 0; j < 8; j++)
		acc[b * ZF_INT8_BLOCK + lane + 32 * j] += x[j];
}

ZF_EXPORT int zf_cuda_accumulate(zf_stream *s, int src_dtype, void *acc, const void *src, int64_t n) {
	bool v = zf_aligned(acc, src);
	if (src_dtype == ZF_F32)
		return run(s, v, accumulate_op<float>{(float *)acc, (const float *)src}, n);
	if (src_dtype == ZF_BF16)
		return run(s, v, accumulate_op<zf_bf16>{(float *)acc, (const zf_bf16 *)src}, n);
	if (src_dtype == ZF_INT8 && n % ZF_INT8_BLOCK == 0)
		return zf_launch(accumulate_blocks, dim3((unsigned)zf_ceil(n / ZF_INT8_BLOCK, 8)), 256, 0, s, (float *)acc,
		                 (const char *)src, n / ZF_INT8_BLOCK);
	return ZF_EINVAL;
}

// AdamW, Loshchilov and Hutter 2019, arXiv:1711.05101, algorithm 2, in the order of kernels.AdamW. Reads param, m, v and grad, writes
// param, m, v and out: 28 bytes an element and out's 4 or 2. T is out's type; out may be NULL.
template <class T> struct adamw_op {
	static constexpr int n = 4;
	T *out;
	float *param, *m, *v;
	const float *grad;
	zf_adamw_scalars s;
	template <bool V> __device__ void group(int64_t i, int64_t k) const {
		float p[n], a[n], b[n], g[n];
		zf_load<n, V>(p, param + i, k);
		zf_load<n, V>(a, m + i, k);
		zf_load<n, V>(b, v + i, k);
		zf_load<n, V>(g, grad + i, k);
#pragma unroll
		for (int j = 0; j < n; j++) {
			float x = g[j] * s.grad_scale;
			a[j] = a[j] * s.beta1 + x * s.one_minus_beta1;
			b[j] = b[j] * s.beta2 + (x * x) * s.one_minus_beta2;
			float d = sqrtf(b[j]) * s.inv_sqrt_bias2 + s.eps;
			p[j] = p[j] * s.decay - s.step_size * (a[j] / d);
		}
		zf_store<n, V>(m + i, a, k);
		zf_store<n, V>(v + i, b, k);
		zf_store<n, V>(param + i, p, k);
		if (out)
			zf_store<n, V>(out + i, p, k);
	}
};

ZF_EXPORT int zf_cuda_adamw(zf_stream *s, int out_dtype, void *out, float *param, float *m, float *v, const float *grad,
                            int64_t n, const zf_adamw_scalars *scalars) {
	bool aligned = zf_aligned(out, param, m, v, grad);
	if (out && out_dtype == ZF_BF16)
		return run(s, aligned, adamw_op<zf_bf16>{(zf_bf16 *)out, param, m, v, grad, *scalars}, n);
	if (out && out_dtype != ZF_F32)
		return ZF_EINVAL;
	return run(s, aligned, adamw_op<float>{(float *)out, param, m, v, grad, *scalars}, n);
}
