#include "zf_simd.h"

/* RoPE in place, in the half-split form: with half = head_dim/2, element i of a head pairs with i + half, and
 *
 *     (u, v) -> (u*cos - v*sin, v*cos + u*sin)
 *
 * at the row's position; the inverse has -sin. Source: Su et al. 2021, arXiv:2104.09864, section 3.4.2.
 * x: [rows,stride] act, of which the first heads*head_dim of each row turn; pos: [rows]; cos, sin: [positions,half] f32.
 * The same bits on every path. */

struct rotation {
	int dtype;
	void *x;
	const int32_t *pos;
	const float *cos, *sin;
	int64_t rows, stride, heads, half;
	float sign; /* of sin */
};

ZF_BODY void rotate_rows_of(int dtype, const struct rotation *c, int64_t lo, int64_t hi) {
	const int64_t half = c->half;
	const float sign = c->sign;
	void *x = c->x;
	for (int64_t r = lo; r < hi; r++) {
		const float *cos = c->cos + c->pos[r] * half, *sin = c->sin + c->pos[r] * half;
		for (int64_t h = 0; h < c->heads; h++) {
			const int64_t a = r * c->stride + h * 2 * half, b = a + half;
			ZF_INDEPENDENT
			for (int64_t i = 0; i < half; i++) {
				float u = zf_load_act(dtype, x, a + i), v = zf_load_act(dtype, x, b + i), s = sin[i] * sign;
				zf_store_act(dtype, x, a + i, u * cos[i] - v * s);
				zf_store_act(dtype, x, b + i, v * cos[i] + u * s);
			}
		}
	}
}

ZF_BODY void rotate_rows(const struct rotation *c, int64_t lo, int64_t hi) {
	if (c->dtype == ZF_F32)
		rotate_rows_of(ZF_F32, c, lo, hi);
	else
		rotate_rows_of(ZF_BF16, c, lo, hi);
}
ZF_EVERY_ISA(rotate_rows, (const struct rotation *c, int64_t lo, int64_t hi), (c, lo, hi))

static void rotate_tile(void *arg, int64_t tile, int thread) {
	(void)thread;
	const struct rotation *c = arg;
	int64_t size = zf_rows_per_tile(c->heads * c->half * 2);
	rotate_rows_best(c, tile * size, zf_min(tile * size + size, c->rows));
}

zf_status zf_rope(zf_pool *p, int dtype, void *x, const int32_t *pos, const float *cos, const float *sin,
                  int64_t positions, int64_t rows, int64_t stride, int64_t heads, int64_t head_dim, int inverse) {
	if (dtype != ZF_F32 && dtype != ZF_BF16)
		return ZF_EINVAL;
	for (int64_t r = 0; r < rows; r++)
		if (pos[r] < 0 || pos[r] >= positions)
			return ZF_EID;
	struct rotation c = {dtype, x, pos, cos, sin, rows, stride, heads, head_dim / 2, inverse ? -1.0f : 1.0f};
	zf_parallel(p, zf_tiles(rows, zf_rows_per_tile(heads * head_dim)), rotate_tile, &c);
	return ZF_OK;
}
