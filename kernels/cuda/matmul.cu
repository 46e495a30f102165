// Matrix products: the library's where there is one, else, and for operands that no vector access can take, our own.
#include "products.h"

#define TILE 64
#define DEPTH 16
#define LD (TILE + 4)

// A block makes TILE x TILE elements of out, DEPTH of k at a time in shared memory; a thread 4 x 4. Sums are over k in ascending order,
// then one addition onto out.
template <class T, class O>
__global__ void product(O *out, const T *a, const T *b, int64_t m, int64_t n, int64_t k, int trans_a, int trans_b,
                        int accumulate) {
	float *ta = zf_shared<float>(), *tb = ta + DEPTH * LD; // [DEPTH][LD]
	const int tx = threadIdx.x % 16, ty = threadIdx.x / 16;
	const int64_t row0 = (int64_t)blockIdx.x * TILE, col0 = (int64_t)blockIdx.y * TILE;
	float c[4][4] = {};
	for (int64_t k0 = 0; k0 < k; k0 += DEPTH) {
		// Neighbours read neighbours: along k, or along the other index when the operand is turned.
		for (int i = threadIdx.x; i < TILE * DEPTH; i += blockDim.x) {
			const int r = trans_a ? i % TILE : i / DEPTH, d = trans_a ? i / TILE : i % DEPTH;
			const int64_t row = row0 + r, at = k0 + d;
			ta[d * LD + r] = row < m && at < k ? zf_widen(a[trans_a ? at * m + row : row * k + at]) : 0.0f;
		}
		for (int i = threadIdx.x; i < TILE * DEPTH; i += blockDim.x) {
			const int r = trans_b ? i / DEPTH : i % TILE, d = trans_b ? i % DEPTH : i / TILE;
			const int64_t col = col0 + r, at = k0 + d;
			tb[d * LD + r] = col < n && at < k ? zf_widen(b[trans_b ? col * k + at : at * n + col]) : 0.0f;
		}
		__syncthreads();
#pragma unroll
		for (int d = 0; d < DEPTH; d++) {
			const float4 x = zf_load4(ta + d * LD + ty * 4), y = zf_load4(tb + d * LD + tx * 4);
			const float xs[4] = {x.x, x.y, x.z, x.w}, ys[4] = {y.x, y.y, y.z, y.w};
#pragma unroll
			for (int i = 0; i < 4; i++)
#pragma unroll
				for (int j = 0; j < 4; j++)
					c[i][j] = fmaf(xs[i], ys[j], c[i][j]);
		}
		__syncthreads();
	}
	for (int i = 0; i < 4; i++)
		for (int j = 0; j < 4; j++) {
			const int64_t row = row0 + ty * 4 + i, col = col0 + tx * 4 + j;
			if (row < m && col < n)
				out[row * n + col] = zf_narrow<O>::of(accumulate ? zf_widen(out[row * n + col]) + c[i][j] : c[i][j]);
		}
}

template <class T, class O> static int own(zf_stream *s, const zf_product *o) {
	return zf_launch(product<T, O>, dim3((unsigned)zf_ceil(o->m, TILE), (unsigned)zf_ceil(o->n, TILE)), 256,
	                 2 * DEPTH * LD * sizeof(float), s, (O *)o->out, (const T *)o->a, (const T *)o->b, o->m, o->n, o->k,
	                 o->trans_a, o->trans_b, o->accumulate);
}

ZF_EXPORT int zf_cuda_matmul(zf_stream *s, int in_dtype, int out_dtype, void *out, const void *a, const void *b,
                             int64_t m, int64_t n, int64_t k, int trans_a, int trans_b, int accumulate) {
	if ((in_dtype != ZF_F32 && in_dtype != ZF_BF16) || (out_dtype != ZF_F32 && out_dtype != in_dtype) ||
	    (accumulate && out_dtype != ZF_F32))
		return ZF_EINVAL;
	const zf_product o = {in_dtype, out_dtype, out, a, b, m, n, k, trans_a, trans_b, accumulate};
	if (s->device->products && zf_aligned(out, a, b))
		return zf_products_run(s, &o);
	if (in_dtype == ZF_F32)
		return own<float, float>(s, &o);
	return out_dtype == ZF_F32 ? own<zf_bf16, float>(s, &o) : own<zf_bf16, zf_bf16>(s, &o);
}
