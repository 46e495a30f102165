// Rotary positions, in place; kernels/ops.go has the form. Reads and writes the heads' elements of x once.
#include "host.cuh"

template <class T>
__global__ void rotate(T *x, const int32_t *pos, const float *cos, const float *sin, const int *fault, int64_t stride,
                       int pairs, int half, int inverse) {
	if (*fault)
		return;
	T *row = x + blockIdx.x * stride;
	const int64_t table = (int64_t)pos[blockIdx.x] * half;
	for (int i = threadIdx.x; i < pairs; i += blockDim.x) {
		const int head = i / half, k = i % half;
		T *a = row + head * 2 * half + k, *b = a + half;
		const float c = cos[table + k], s = inverse ? -sin[table + k] : sin[table + k];
		const float u = zf_widen(*a), v = zf_widen(*b);
		*a = zf_narrow<T>::of(u * c - v * s);
		*b = zf_narrow<T>::of(v * c + u * s);
	}
}

ZF_EXPORT int zf_cuda_rope(zf_stream *s, int dtype, void *x, const int32_t *pos, const float *cos, const float *sin,
                           int64_t positions, int64_t rows, int64_t stride, int64_t heads, int64_t head_dim,
                           int inverse) {
	ZF_TRY(zf_check_ids(s, pos, rows, 0, positions, ZF_FAULT_ROPE));
	const int half = (int)(head_dim / 2), pairs = (int)heads * half;
	return zf_with_act(dtype, false, [&](auto t, auto) {
		using T = decltype(t);
		return zf_launch(rotate<T>, dim3((unsigned)rows), zf_row_threads(pairs, 256), 0, s, (T *)x, pos, cos, sin,
		                 (const int *)s->fault, stride, pairs, half, inverse);
	});
}
