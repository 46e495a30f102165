// Attention of n new tokens over a cache, for generation: kernels/ops.go.
#include "host.cuh"

// A block copies a token's keys and values to the cache.
template <class T>
__global__ void extend(T *keys, T *values, const T *qkv, int64_t past, int64_t stride, int64_t at, int64_t row) {
	const T *from = qkv + blockIdx.x * stride + at;
	const int64_t to = (past + blockIdx.x) * row;
	for (int64_t i = threadIdx.x; i < row; i += blockDim.x) {
		keys[to + i] = from[i];
		values[to + i] = from[row + i];
	}
}

#define WARPS 8
#define LANE_DIMS 8 // a head's width is at most 32 times this

// A block takes one query: each of its warps every eighth key, with a softmax of its own; then the warps' are added in order: m =
// max(m_w), out = sum(exp(m_w - m) o_w) / sum(exp(m_w - m) l_w). Reads the keys and values of its head once: the memory's
// rate is the limit, and the queries that share a head share its lines in the cache.
template <class T>
__global__ void attend_cached(T *out, const T *qkv, const T *keys, const T *values, int past, int heads, int kv_heads,
                              int dim, int window, float scale) {
	float *o = zf_shared<float>(), *m = o + WARPS * dim, *l = m + WARPS;
	const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, h = blockIdx.y, g = h / (heads / kv_heads);
	const int last = past + (int)blockIdx.x, first = window > 0 && last >= window ? last - window + 1 : 0;
	const T *q = qkv + blockIdx.x * (int64_t)(heads + 2 * kv_heads) * dim + h * dim;
	float query[LANE_DIMS], sum[LANE_DIMS], top = -0x1.fffffep+127f, weight = 0;
#pragma unroll
	for (int d = 0; d < LANE_DIMS; d++) {
		query[d] = lane + 32 * d < dim ? zf_widen(q[lane + 32 * d]) : 0;
		sum[d] = 0;
	}
	for (int j = first + warp; j <= last; j += WARPS) {
		const int64_t at = ((int64_t)j * kv_heads + g) * dim + lane;
		float x = 0;
#pragma unroll
		for (int d = 0; d < LANE_DIMS; d++)
			if (lane + 32 * d < dim)
				x = fmaf(query[d], zf_widen(keys[at + 32 * d]), x);
		x = zf_warp_reduce(x, zf_plus{}) * scale;
		const float most = fmaxf(top, x), by = zf_exp(top - most), p = zf_exp(x - most);
		top = most;
		weight = weight * by + p;
#pragma unroll
		for (int d = 0; d < LANE_DIMS; d++)
			if (lane + 32 * d < dim)
				sum[d] = fmaf(p, zf_widen(values[at + 32 * d]), sum[d] * by);
	}
#pragma unroll
	for (int d = 0; d < LANE_DIMS; d++)
		if (lane + 32 * d < dim)
			o[warp * dim + lane + 32 * d] = sum[d];
	if (lane == 0)
		m[warp] = top, l[warp] = weight;
	__syncthreads();
	float most = m[0], total = 0;
	for (int w = 1; w < WARPS; w++)
		most = fmaxf(most, m[w]);
	for (int w = 0; w < WARPS; w++)
		total += zf_exp(m[w] - most) * l[w];
	for (int d = threadIdx.x; d < dim; d += blockDim.x) {
		float v = 0;
		for (int w = 0; w < WARPS; w++)
			v = fmaf(zf_exp(m[w] - most), o[w * dim + d], v);
		out[(blockIdx.x * (int64_t)heads + h) * dim + d] = zf_narrow<T>::of(v / total);
	}
}

ZF_EXPORT int zf_cuda_cached_attention(zf_stream *s, int dtype, void *out, const void *qkv, void *keys, void *values,
                                       int64_t n, int64_t past, int64_t heads, int64_t kv_heads, int64_t head_dim,
                                       int64_t window, float scale) {
	if (head_dim > 32 * LANE_DIMS)
		return ZF_EINVAL;
	const int64_t row = kv_heads * head_dim;
	return zf_with_act(dtype, false, [&](auto type, auto) {
		using T = decltype(type);
		ZF_TRY(zf_launch(extend<T>, dim3((unsigned)n), zf_row_threads(row, 256), 0, s, (T *)keys, (T *)values,
		                 (const T *)qkv, past, (heads + 2 * kv_heads) * head_dim, heads * head_dim, row));
		return zf_launch(attend_cached<T>, dim3((unsigned)n, (unsigned)heads), 32 * WARPS,
		                 WARPS * (head_dim + 2) * (int64_t)sizeof(float), s, (T *)out, (const T *)qkv, (const T *)keys,
		                 (const T *)values, (int)past, (int)heads, (int)kv_heads, (int)head_dim, (int)window, scale);
	});
}
