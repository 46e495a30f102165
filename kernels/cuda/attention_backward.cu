// The gradient of attention: Dao 2023, arXiv:2307.08691, algorithm 2, as two kernels that each compute the weights again, one for the
// keys' and values' gradients and one for the queries'. With one kernel, the queries' would be added to by many blocks,
// in an order that nobody knows. 14*dim operations for each pair of tokens, instead of 10*dim.
//
// With p the weight of a query q and a key k, x = scale*(q.k):
//
//     p = exp(x - lse)    ds = p*(do.v - delta)*scale    delta = do.out
//     dv = sum of p do    dk = sum of ds q               dq = sum of ds k
#include "attention.cuh"

// A warp takes a row: delta = the sum of dout*out.
template <class T>
__global__ void row_dots(float *delta, const T *dout, const T *out, int64_t rows, zf_attention_shape s) {
	if (*s.fault)
		return;
	const int64_t r = (int64_t)blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32; // (b*t + i)*heads + h
	float sum = 0;
	if (r < rows)
		for (int d = threadIdx.x % 32; d < s.dim; d += 32)
			sum = fmaf(zf_widen(dout[r * s.dim + d]), zf_widen(out[r * s.dim + d]), sum);
	sum = zf_warp_reduce(sum, zf_plus{});
	if (threadIdx.x % 32 == 0 && r < rows) {
		const int64_t h = r % s.heads, i = r / s.heads;
		delta[(i / s.t * s.heads + h) * s.t + i % s.t] = sum;
	}
}

// A block takes TILE queries of one head and goes over the keys that they see.
template <class T, int TILE, int NC>
__global__ void query_gradient(T *dqkv, const float *delta, const T *dout, const float *lse, const T *qkv,
                               zf_attention_shape s) {
	constexpr int R = TILE / 16, LDP = TILE + 4;
	if (*s.fault)
		return;
	float *q = zf_shared<float>(), *dO = q + TILE * s.ld, *k = dO + TILE * s.ld, *v = k + TILE * s.ld;
	float *ds = v + TILE * s.ld;
	int *first = reinterpret_cast<int *>(ds + TILE * LDP), *range = first + TILE;
	const int tx = threadIdx.x % 16, ty = threadIdx.x / 16;
	const int q0 = (int)(gridDim.x - 1 - blockIdx.x) * TILE, h = blockIdx.y, b = blockIdx.z;
	const int n = s.t - q0 < TILE ? s.t - q0 : TILE, g = h / (s.heads / s.kv_heads);
	const T *base = qkv + (int64_t)b * s.t * s.stride();
	const T *keys = base + (s.heads + g) * s.dim, *values = keys + s.kv_heads * s.dim;
	const int64_t out_stride = (int64_t)s.heads * s.dim;
	zf_load_firsts<TILE>(first, range, b, q0, n, s);
	zf_load_tile<TILE>(q, base + q0 * s.stride() + h * s.dim, s.stride(), n, s);
	zf_load_tile<TILE>(dO, dout + ((int64_t)b * s.t + q0) * out_stride + h * s.dim, out_stride, n, s);
	float dq[R][NC][4], top[R], del[R];
	zf_clear(dq);
#pragma unroll
	for (int i = 0; i < R; i++) {
		const int64_t at = ((int64_t)b * s.heads + h) * s.t + q0 + ty * R + i;
		const bool there = ty * R + i < n;
		top[i] = there ? lse[at] : 0;
		del[i] = there ? delta[at] : 0;
	}
	__syncthreads();
	for (int k0 = range[0] / TILE * TILE; k0 <= q0 + n - 1; k0 += TILE) {
		const int keys_n = s.t - k0 < TILE ? s.t - k0 : TILE;
		const bool whole = range[1] <= k0 && k0 + TILE - 1 <= q0;
		__syncthreads();
		zf_load_tile<TILE>(k, keys + k0 * s.stride(), s.stride(), keys_n, s);
		zf_load_tile<TILE>(v, values + k0 * s.stride(), s.stride(), keys_n, s);
		__syncthreads();
		float w[R][R], dp[R][R];
		zf_scores<R>(w, q, k, s);
		zf_scores<R>(dp, dO, v, s);
#pragma unroll
		for (int i = 0; i < R; i++) {
			const int query = q0 + ty * R + i, from = first[ty * R + i];
#pragma unroll
			for (int j = 0; j < R; j++) {
				const int key = k0 + tx + 16 * j;
				const bool sees = whole || (from <= key && key <= query);
				const float p = zf_exp(w[i][j] * s.scale - top[i]);
				ds[(ty * R + i) * LDP + tx + 16 * j] = sees ? p * (dp[i][j] - del[i]) * s.scale : 0.0f;
			}
		}
		__syncthreads();
		if (whole)
			zf_weigh<TILE, NC, false>(dq, ds, k, s, [](int, int) { return true; });
		else
			zf_weigh<TILE, NC, true>(dq, ds, k, s,
			                         [&](int i, int j) { return first[i] <= k0 + j && k0 + j <= q0 + i; });
	}
#pragma unroll
	for (int i = 0; i < R; i++)
#pragma unroll
		for (int c = 0; c < NC; c++)
			if (ty * R + i < n && tx * 4 + 64 * c < s.dim4)
				zf_store4(dqkv + ((int64_t)b * s.t + q0 + ty * R + i) * s.stride() + h * s.dim, tx * 4 + 64 * c,
				          dq[i][c], s);
}

// A block takes TILE keys and values and goes over the heads that share them, and over the queries that see them.
template <class T, int TILE, int NC>
__global__ void key_gradient(T *dqkv, const float *delta, const T *dout, const float *lse, const T *qkv,
                             zf_attention_shape s) {
	constexpr int R = TILE / 16, LDP = TILE + 4;
	if (*s.fault)
		return;
	float *k = zf_shared<float>(), *v = k + TILE * s.ld, *q = v + TILE * s.ld, *dO = q + TILE * s.ld;
	float *w = dO + TILE * s.ld; // weights, then their gradients, turned: [keys][queries]
	float *top = w + TILE * LDP, *del = top + TILE;
	int *first = reinterpret_cast<int *>(del + TILE), *range = first + TILE;
	const int tx = threadIdx.x % 16, ty = threadIdx.x / 16;
	const int k0 = (int)blockIdx.x * TILE, g = blockIdx.y, b = blockIdx.z, group = s.heads / s.kv_heads;
	const int n = s.t - k0 < TILE ? s.t - k0 : TILE;
	const T *base = qkv + (int64_t)b * s.t * s.stride();
	const int64_t k_at = (int64_t)(s.heads + g) * s.dim, v_at = k_at + (int64_t)s.kv_heads * s.dim;
	const int64_t out_stride = (int64_t)s.heads * s.dim;
	zf_load_tile<TILE>(k, base + k0 * s.stride() + k_at, s.stride(), n, s);
	zf_load_tile<TILE>(v, base + k0 * s.stride() + v_at, s.stride(), n, s);
	float dk[R][NC][4], dv[R][NC][4];
	zf_clear(dk);
	zf_clear(dv);
	for (int h = g * group; h < (g + 1) * group; h++) {
		for (int q0 = k0; q0 < s.t; q0 += TILE) {
			const int queries = s.t - q0 < TILE ? s.t - q0 : TILE;
			__syncthreads(); // all are done with the tiles before
			zf_load_firsts<TILE>(first, range, b, q0, queries, s);
			__syncthreads();
			if (range[0] > k0 + n - 1)
				continue; // none sees these keys
			const bool whole = range[1] <= k0 && k0 + TILE - 1 <= q0 && queries == TILE;
			for (int i = threadIdx.x; i < TILE; i += ZF_ATTENTION_THREADS) {
				const int64_t at = ((int64_t)b * s.heads + h) * s.t + q0 + i;
				top[i] = i < queries ? lse[at] : 0;
				del[i] = i < queries ? delta[at] : 0;
			}
			zf_load_tile<TILE>(q, base + q0 * s.stride() + h * s.dim, s.stride(), queries, s);
			zf_load_tile<TILE>(dO, dout + ((int64_t)b * s.t + q0) * out_stride + h * s.dim, out_stride, queries, s);
			__syncthreads();
			float x[R][R], dp[R][R];
			zf_scores<R>(x, k, q, s);
			zf_scores<R>(dp, v, dO, s);
#pragma unroll
			for (int i = 0; i < R; i++) {
				const int key = k0 + ty * R + i;
#pragma unroll
				for (int j = 0; j < R; j++) {
					const int c = tx + 16 * j;
					const bool sees = whole || (first[c] <= key && key <= q0 + c);
					const float p = zf_exp(x[i][j] * s.scale - top[c]);
					x[i][j] = sees ? p * (dp[i][j] - del[c]) * s.scale : 0.0f;
					w[(ty * R + i) * LDP + c] = sees ? p : 0.0f;
				}
			}
			auto sees = [&](int i, int j) { return first[j] <= k0 + i && k0 + i <= q0 + j; };
			__syncthreads();
			if (whole)
				zf_weigh<TILE, NC, false>(dv, w, dO, s, sees);
			else
				zf_weigh<TILE, NC, true>(dv, w, dO, s, sees);
			__syncthreads();
#pragma unroll
			for (int i = 0; i < R; i++)
#pragma unroll
				for (int j = 0; j < R; j++)
					w[(ty * R + i) * LDP + tx + 16 * j] = x[i][j];
			__syncthreads();
			if (whole)
				zf_weigh<TILE, NC, false>(dk, w, q, s, sees);
			else
				zf_weigh<TILE, NC, true>(dk, w, q, s, sees);
		}
	}
#pragma unroll
	for (int i = 0; i < R; i++)
#pragma unroll
		for (int c = 0; c < NC; c++)
			if (ty * R + i < n && tx * 4 + 64 * c < s.dim4) {
				T *row = dqkv + ((int64_t)b * s.t + k0 + ty * R + i) * s.stride();
				zf_store4(row + k_at, tx * 4 + 64 * c, dk[i][c], s);
				zf_store4(row + v_at, tx * 4 + 64 * c, dv[i][c], s);
			}
}

struct backward {
	void *dqkv;
	float *delta;
	const void *dout, *out;
	const float *lse;
	const void *qkv;
	int64_t b;
};

static int64_t shared_bytes(int tile, int ld) {
	return (4 * tile * ld + tile * (tile + 4) + 3 * tile + 2) * (int64_t)sizeof(float);
}

template <class T, int TILE, int NC>
static int launch_backward(zf_stream *s, const backward &o, const zf_attention_shape &a) {
	const unsigned tiles = (unsigned)zf_ceil(a.t, TILE), b = (unsigned)o.b;
	const int64_t shared = shared_bytes(TILE, a.ld), rows = o.b * a.t * a.heads;
	if (shared > s->device->shared_bytes)
		return ZF_EINVAL;
	ZF_TRY(zf_launch(row_dots<T>, dim3((unsigned)zf_ceil(rows, 8)), 256, 0, s, o.delta, (const T *)o.dout,
	                 (const T *)o.out, rows, a));
	ZF_TRY(zf_launch(query_gradient<T, TILE, NC>, dim3(tiles, (unsigned)a.heads, b), ZF_ATTENTION_THREADS, shared, s,
	                 (T *)o.dqkv, (const float *)o.delta, (const T *)o.dout, o.lse, (const T *)o.qkv, a));
	return zf_launch(key_gradient<T, TILE, NC>, dim3(tiles, (unsigned)a.kv_heads, b), ZF_ATTENTION_THREADS, shared, s,
	                 (T *)o.dqkv, (const float *)o.delta, (const T *)o.dout, o.lse, (const T *)o.qkv, a);
}

ZF_EXPORT int zf_cuda_attention_backward(zf_stream *s, int dtype, void *dqkv, float *delta, const void *dout,
                                         const void *out, const float *lse, const void *qkv, const int32_t *doc_start,
                                         int64_t b, int64_t t, int64_t heads, int64_t kv_heads, int64_t head_dim,
                                         int64_t window, float scale) {
	zf_attention_shape a;
	ZF_TRY(zf_attention_check(s, &a, doc_start, b, t, heads, kv_heads, head_dim, window, scale,
	                          zf_aligned(dqkv, dout, qkv)));
	const backward o = {dqkv, delta, dout, out, lse, qkv, b};
	// Four tiles of 64 rows are 70 KiB at a width of 64, 153 at 128; 32 rows fit up to 256.
	return zf_with_act(dtype, false, [&](auto type, auto) {
		using T = decltype(type);
		if (head_dim <= 64)
			return launch_backward<T, 64, 1>(s, o, a);
		if (head_dim <= 128 && shared_bytes(64, a.ld) <= s->device->shared_bytes)
			return launch_backward<T, 64, 2>(s, o, a);
		if (head_dim <= 256)
			return launch_backward<T, 32, 4>(s, o, a);
		return (int)ZF_EINVAL;
	});
}
