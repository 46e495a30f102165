// Rotary positions, in place; kernels/ops.go has the form. Reads and writes the heads' elements of x once.
#include "host.cuh"

// A block takes a row, a thread the same n elements of both halves of a head.
template <class T, bool V>
__global__ void rotate(T *x, const int32_t *pos, const float *cos, const float *sin, const int *fault, int64_t stride,
                       int heads, int half, int inverse) {
	constexpr int n = zf_group<T>::n;
	if (*fault)
		return;
	const int64_t table = (int64_t)pos[blockIdx.x] * half;
	const int groups = (half + n - 1) / n; // of a head
	for (int i = threadIdx.x; i < heads * groups; i += blockDim.x) {
		const int k = i % groups * n;
		T *a = x + blockIdx.x * stride + (int64_t)(i / groups) * 2 * half + k, *b = a + half;
		float u[n], v[n], c[n], s[n];
		zf_load<n, V>(u, a, half - k);
		zf_load<n, V>(v, b, half - k);
		zf_load<n, V>(c, cos + table + k, half - k);
		zf_load<n, V>(s, sin + table + k, half - k);
#pragma unroll
		for (int j = 0; j < n; j++) {
			const float w = inverse ? -s[j] : s[j], first = u[j];
			u[j] = first * c[j] - v[j] * w;
			v[j] = v[j] * c[j] + first * w;
		}
		zf_store<n, V>(a, u, half - k);
		zf_store<n, V>(b, v, half - k);
	}
}

ZF_EXPORT int zf_cuda_rope(zf_stream *s, int dtype, void *x, const int32_t *pos, const float *cos, const float *sin,
                           int64_t positions, int64_t rows, int64_t stride, int64_t heads, int64_t head_dim,
                           int inverse) {
	ZF_TRY(zf_check_ids(s, pos, rows, 0, positions, ZF_FAULT_ROPE));
	const int64_t half = head_dim / 2;
	const bool vector = half % 8 == 0 && stride % 8 == 0 && zf_aligned(x, cos, sin);
	return zf_with_act(dtype, vector, [&](auto t, auto v) {
		using T = decltype(t);
		return zf_launch(rotate<T, decltype(v)::value>, dim3((unsigned)rows),
		                 zf_row_threads(heads * zf_ceil(half, zf_group<T>::n), 256), 0, s, (T *)x, pos, cos, sin,
		                 (const int *)s->fault, stride, (int)heads, (int)half, inverse);
	});
}
