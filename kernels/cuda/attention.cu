// Attention of packed documents with a running softmax: Dao 2023, arXiv:2307.08691, algorithm 1. No [T,T] matrix is stored.
#include "attention.cuh"

__global__ void check_documents(const int32_t *doc_start, int64_t n, int64_t t, int *fault) {
	int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
	if (i < n && (doc_start[i] < 0 || doc_start[i] > i % t))
		*fault = ZF_FAULT_ATTENTION;
}

int zf_attention_check(zf_stream *s, zf_attention_shape *a, const int32_t *doc_start, int64_t b, int64_t t,
                       int64_t heads, int64_t kv_heads, int64_t head_dim, int64_t window, float scale, bool aligned) {
	const int dim4 = (int)((head_dim + 3) / 4 * 4);
	*a = zf_attention_shape{doc_start,
	                        s->fault,
	                        (int)t,
	                        (int)heads,
	                        (int)kv_heads,
	                        (int)head_dim,
	                        dim4,
	                        (dim4 / 4 | 1) * 4,
	                        (int)(window < t ? window : 0),
	                        aligned && head_dim % 8 == 0,
	                        scale};
	return zf_launch(check_documents, dim3((unsigned)zf_ceil(b * t, 256)), 256, 0, s, doc_start, b * t, t, s->fault);
}

// A block takes TILE queries of one head, and the keys that they see, tile by tile. It reads the queries once and the keys and
// values of its head once per tile of queries: t/TILE/2 times in all, mostly from the cache. 4*dim operations for each pair of
// tokens: the arithmetic is the limit, in f32 on the ordinary units.
template <class T, int NC> __global__ void attend(T *out, float *lse, const T *qkv, zf_attention_shape s) {
	constexpr int TILE = 64, R = TILE / 16, LDP = TILE + 4;
	if (*s.fault)
		return;
	float *q = zf_shared<float>(), *kv = q + TILE * s.ld, *p = kv + TILE * s.ld;
	int *first = reinterpret_cast<int *>(p + TILE * LDP), *range = first + TILE;
	const int tx = threadIdx.x % 16, ty = threadIdx.x / 16;
	const int q0 = (int)(gridDim.x - 1 - blockIdx.x) * TILE; // those that see most begin first
	const int n = s.t - q0 < TILE ? s.t - q0 : TILE, h = blockIdx.y, b = blockIdx.z, g = h / (s.heads / s.kv_heads);
	const T *base = qkv + (int64_t)b * s.t * s.stride();
	const T *keys = base + (s.heads + g) * s.dim, *values = keys + s.kv_heads * s.dim;
	zf_load_firsts<TILE>(first, range, b, q0, n, s);
	zf_load_tile<TILE>(q, base + q0 * s.stride() + h * s.dim, s.stride(), n, s);
	__syncthreads();
	float o[R][NC][4], m[R], l[R];
	zf_clear(o);
#pragma unroll
	for (int i = 0; i < R; i++)
		m[i] = ZF_LOWEST, l[i] = 0;
	const int last = q0 + n - 1;
	for (int k0 = range[0] / TILE * TILE; k0 <= last; k0 += TILE) {
		const int keys_n = s.t - k0 < TILE ? s.t - k0 : TILE;
		const bool whole = range[1] <= k0 && k0 + TILE - 1 <= q0; // all queries see all keys
		__syncthreads();
		zf_load_tile<TILE>(kv, keys + k0 * s.stride(), s.stride(), keys_n, s);
		__syncthreads();
		float w[R][R];
		zf_scores<R>(w, q, kv, s);
#pragma unroll
		for (int i = 0; i < R; i++) {
			const int query = q0 + ty * R + i, from = first[ty * R + i];
			float top = m[i];
#pragma unroll
			for (int j = 0; j < R; j++) {
				const int key = k0 + tx + 16 * j;
				w[i][j] *= s.scale;
				if (whole || (from <= key && key <= query))
					top = fmaxf(top, w[i][j]); // passes over a NaN, which is then seen in its weight
			}
#pragma unroll
			for (int d = 8; d > 0; d /= 2)
				top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, d));
			float sum = 0;
#pragma unroll
			for (int j = 0; j < R; j++) {
				const int key = k0 + tx + 16 * j;
				const bool sees = whole || (from <= key && key <= query);
				const float e = sees ? zf_exp(w[i][j] - top) : 0.0f;
				sum += e;
				p[(ty * R + i) * LDP + tx + 16 * j] = e;
			}
#pragma unroll
			for (int d = 8; d > 0; d /= 2)
				sum += __shfl_xor_sync(0xffffffffu, sum, d);
			const float by = zf_exp(m[i] - top);
			l[i] = l[i] * by + sum;
			m[i] = top;
#pragma unroll
			for (int k = 0; k < NC; k++)
#pragma unroll
				for (int e = 0; e < 4; e++)
					o[i][k][e] *= by;
		}
		__syncthreads();
		zf_load_tile<TILE>(kv, values + k0 * s.stride(), s.stride(), keys_n, s);
		__syncthreads();
		if (whole)
			zf_weigh<TILE, NC, false>(o, p, kv, s, [](int, int) { return true; });
		else
			zf_weigh<TILE, NC, true>(o, p, kv, s, [&](int i, int j) { return first[i] <= k0 + j && k0 + j <= q0 + i; });
	}
#pragma unroll
	for (int i = 0; i < R; i++) {
		const int query = ty * R + i;
		if (query >= n)
			continue;
		const float by = 1.0f / l[i];
		T *to = out + (((int64_t)b * s.t + q0 + query) * s.heads + h) * s.dim;
#pragma unroll
		for (int k = 0; k < NC; k++) {
			if (tx * 4 + 64 * k >= s.dim4)
				continue;
#pragma unroll
			for (int e = 0; e < 4; e++)
				o[i][k][e] *= by;
			zf_store4(to, tx * 4 + 64 * k, o[i][k], s);
		}
		if (tx == 0)
			lse[((int64_t)b * s.heads + h) * s.t + q0 + query] = m[i] + zf_log(l[i]);
	}
}

template <class T, int NC>
static int launch_attend(zf_stream *s, T *out, float *lse, const T *qkv, int64_t b, const zf_attention_shape &a) {
	const int64_t shared = (2 * 64 * a.ld + 64 * 68) * (int64_t)sizeof(float) + 66 * (int64_t)sizeof(int);
	if (shared > s->device->shared_bytes)
		return ZF_EINVAL;
	return zf_launch(attend<T, NC>, dim3((unsigned)zf_ceil(a.t, 64), (unsigned)a.heads, (unsigned)b),
	                 ZF_ATTENTION_THREADS, shared, s, out, lse, qkv, a);
}

ZF_EXPORT int zf_cuda_attention(zf_stream *s, int dtype, void *out, float *lse, const void *qkv,
                                const int32_t *doc_start, int64_t b, int64_t t, int64_t heads, int64_t kv_heads,
                                int64_t head_dim, int64_t window, float scale) {
	zf_attention_shape a;
	ZF_TRY(zf_attention_check(s, &a, doc_start, b, t, heads, kv_heads, head_dim, window, scale, zf_aligned(out, qkv)));
	return zf_with_act(dtype, false, [&](auto type, auto) {
		using T = decltype(type);
		if (head_dim <= 64)
			return launch_attend<T, 1>(s, (T *)out, lse, (const T *)qkv, b, a);
		if (head_dim <= 128)
			return launch_attend<T, 2>(s, (T *)out, lse, (const T *)qkv, b, a);
		if (head_dim <= 256)
			return launch_attend<T, 4>(s, (T *)out, lse, (const T *)qkv, b, a);
		return (int)ZF_EINVAL;
	});
}
