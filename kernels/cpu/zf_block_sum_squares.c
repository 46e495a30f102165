#include "zf_simd.h"

#define BLOCK 256
#define CHAINS 8
#define BLOCKS_PER_TILE 64

/* One whole block. A square of an f32 is exact in f64 (24 + 24 bits of 53), so that only
 * the additions round, and their order is fixed. */
ZF_BODY double block_sum(const float *x) {
	double s[CHAINS] = {0};
	for (int i = 0; i < BLOCK; i += CHAINS)
		for (int j = 0; j < CHAINS; j++) {
			double v = x[i + j];
			s[j] += v * v;
		}
	return ((s[0] + s[1]) + (s[2] + s[3])) + ((s[4] + s[5]) + (s[6] + s[7]));
}

/* A short last block is padded with +0: its square changes no sum, since none is -0. */
ZF_BODY void block_sums(double *out, const float *x, int64_t n) {
	int64_t b = 0;
	for (; (b + 1) * BLOCK <= n; b++)
		out[b] = block_sum(x + b * BLOCK);
	if (b * BLOCK < n) {
		float last[BLOCK] = {0};
		memcpy(last, x + b * BLOCK, (size_t)(n - b * BLOCK) * sizeof *x);
		out[b] = block_sum(last);
	}
}
ZF_EVERY_ISA(block_sums, (double *out, const float *x, int64_t n), (out, x, n))

struct sums {
	double *out;
	const float *x;
	int64_t n;
};

static void sums_tile(void *arg, int64_t tile, int thread) {
	(void)thread;
	const struct sums *o = arg;
	int64_t lo = tile * BLOCKS_PER_TILE * BLOCK;
	block_sums_best(o->out + tile * BLOCKS_PER_TILE, o->x + lo, zf_min(BLOCKS_PER_TILE * BLOCK, o->n - lo));
}

zf_status zf_block_sum_squares(zf_pool *p, double *out, const float *x, int64_t n) {
	struct sums o = {out, x, n};
	zf_parallel(p, zf_tiles(n, BLOCKS_PER_TILE * BLOCK), sums_tile, &o);
	return ZF_OK;
}
