// Tiles of attention in shared memory and the products between them.
//
// A block is 256 threads, 16 x 16: thread (ty, tx) has rows ty*R ... of a product, R = TILE/16. A tile is TILE rows of ld floats,
// ld a multiple of 4 and no even one, so that rows one after the other begin in different banks. Where a head's width is not a
// multiple of 4, the columns up to the next one are 0. All sums are in f32, over ascending indices.
#pragma once

#include "host.cuh"

#define ZF_ATTENTION_THREADS 256

// Below every score but -inf, and finite, so that what nobody has seen yet scales by exp(0) and not by exp(inf - inf).
#define ZF_LOWEST (-0x1.fffffep+127f)

struct zf_attention_shape {
	const int32_t *doc_start;
	const int *fault;
	int t, heads, kv_heads, dim, dim4, ld, window; // dim4: dim rounded up to fours
	int aligned;                                   // rows may be read and written sixteen bytes at a time
	float scale;
	__device__ __forceinline__ int64_t stride() const { return (int64_t)(heads + 2 * kv_heads) * dim; }
	// first is the lowest token that token i of sequence b sees.
	__device__ __forceinline__ int first(int b, int i) const {
		int f = doc_start[(int64_t)b * t + i];
		return window > 0 && f < i - window + 1 ? i - window + 1 : f;
	}
};

// zf_load_tile copies n of TILE rows of width dim, stride apart; the others become 0.
template <int TILE, class T>
__device__ __forceinline__ void zf_load_tile(float *dst, const T *src, int64_t stride, int n,
                                             const zf_attention_shape &s) {
	constexpr int N = zf_group<T>::n;
	if (s.aligned) {
		const int groups = s.dim / N;
		for (int i = threadIdx.x; i < TILE * groups; i += ZF_ATTENTION_THREADS) {
			const int row = i / groups, col = i % groups * N;
			float v[N] = {};
			if (row < n)
				zf_load<N, true>(v, src + row * stride + col, N);
#pragma unroll
			for (int k = 0; k < N; k += 4)
				*reinterpret_cast<float4 *>(dst + row * s.ld + col + k) =
					make_float4(v[k], v[k + 1], v[k + 2], v[k + 3]);
		}
		return;
	}
	for (int i = threadIdx.x; i < TILE * s.dim4; i += ZF_ATTENTION_THREADS) {
		const int row = i / s.dim4, col = i % s.dim4;
		dst[row * s.ld + col] = row < n && col < s.dim ? zf_widen(src[row * stride + col]) : 0.0f;
	}
}

// zf_store4 writes columns [col, col+4) of a row of width dim.
template <class T>
__device__ __forceinline__ void zf_store4(T *row, int col, const float *v, const zf_attention_shape &s) {
	if (s.aligned)
		zf_store<4, true>(row + col, v, 4);
	else
		zf_store<4, false>(row + col, v, s.dim - col);
}

// zf_scores: c[i][j] = the product of row ty*R+i of a and row tx+16*j of b. 2*R loads of 16 bytes for 4*R*R fma.
template <int R>
__device__ __forceinline__ void zf_scores(float (&c)[R][R], const float *a, const float *b,
                                          const zf_attention_shape &s) {
	const int tx = threadIdx.x % 16, ty = threadIdx.x / 16;
	a += ty * R * s.ld;
	b += tx * s.ld;
#pragma unroll
	for (int i = 0; i < R; i++)
#pragma unroll
		for (int j = 0; j < R; j++)
			c[i][j] = 0;
	for (int d = 0; d < s.dim4; d += 4) {
		float4 x[R], y[R];
#pragma unroll
		for (int i = 0; i < R; i++)
			x[i] = zf_load4(a + i * s.ld + d);
#pragma unroll
		for (int j = 0; j < R; j++)
			y[j] = zf_load4(b + j * 16 * s.ld + d);
#pragma unroll
		for (int i = 0; i < R; i++)
#pragma unroll
			for (int j = 0; j < R; j++) {
				c[i][j] = fmaf(x[i].x, y[j].x, c[i][j]);
				c[i][j] = fmaf(x[i].y, y[j].y, c[i][j]);
				c[i][j] = fmaf(x[i].z, y[j].z, c[i][j]);
				c[i][j] = fmaf(x[i].w, y[j].w, c[i][j]);
			}
	}
}

// zf_weigh adds to c[i][k] the sum over j < TILE of p[ty*R+i][j] times columns tx*4 + 64*k ... of row j of x. p has rows of
// TILE+4. When MASKED, only the pairs that sees(ty*R+i, j) are added: a zero times what is not finite would be seen.
template <int TILE, int NC, bool MASKED, class F>
__device__ __forceinline__ void zf_weigh(float (&c)[TILE / 16][NC][4], const float *p, const float *x,
                                         const zf_attention_shape &s, F sees) {
	constexpr int R = TILE / 16, LDP = TILE + 4;
	const int tx = threadIdx.x % 16, ty = threadIdx.x / 16;
	p += ty * R * LDP;
	x += tx * 4;
	for (int j0 = 0; j0 < TILE; j0 += 4) {
		float w[R][4];
#pragma unroll
		for (int i = 0; i < R; i++) {
			float4 v = zf_load4(p + i * LDP + j0);
			w[i][0] = v.x, w[i][1] = v.y, w[i][2] = v.z, w[i][3] = v.w;
		}
#pragma unroll
		for (int j = 0; j < 4; j++)
#pragma unroll
			for (int k = 0; k < NC; k++) {
				if (tx * 4 + 64 * k >= s.dim4)
					continue;
				const float4 v = zf_load4(x + (j0 + j) * s.ld + 64 * k);
#pragma unroll
				for (int i = 0; i < R; i++) {
					if (MASKED && !sees(ty * R + i, j0 + j))
						continue;
					c[i][k][0] = fmaf(w[i][j], v.x, c[i][k][0]);
					c[i][k][1] = fmaf(w[i][j], v.y, c[i][k][1]);
					c[i][k][2] = fmaf(w[i][j], v.z, c[i][k][2]);
					c[i][k][3] = fmaf(w[i][j], v.w, c[i][k][3]);
				}
			}
	}
}

template <int R, int NC> __device__ __forceinline__ void zf_clear(float (&c)[R][NC][4]) {
#pragma unroll
	for (int i = 0; i < R; i++)
#pragma unroll
		for (int k = 0; k < NC; k++)
			c[i][k][0] = c[i][k][1] = c[i][k][2] = c[i][k][3] = 0;
}

// zf_load_firsts sets first[i] for the queries [q0, q0+TILE) of sequence b, of which n are there; the others see nothing. range are
// the lowest and the highest of those that are there. The block must synchronise before and after.
template <int TILE>
__device__ __forceinline__ void zf_load_firsts(int *first, int *range, int b, int q0, int n,
                                               const zf_attention_shape &s) {
	if (threadIdx.x >= 32)
		return;
	int lo = INT32_MAX, hi = -1;
	for (int i = threadIdx.x; i < TILE; i += 32) {
		const int f = i < n ? s.first(b, q0 + i) : INT32_MAX;
		first[i] = f;
		if (i < n) {
			lo = f < lo ? f : lo;
			hi = f > hi ? f : hi;
		}
	}
	lo = zf_warp_reduce(lo, [](int x, int y) { return x < y ? x : y; });
	hi = zf_warp_reduce(hi, [](int x, int y) { return x > y ? x : y; });
	if (threadIdx.x == 0)
		range[0] = lo, range[1] = hi;
}

// zf_attention_check makes a fault of a document that starts after its token or before its sequence, and fills in the shape.
int zf_attention_check(zf_stream *s, zf_attention_shape *a, const int32_t *doc_start, int64_t b, int64_t t,
                       int64_t heads, int64_t kv_heads, int64_t head_dim, int64_t window, float scale, bool aligned);
