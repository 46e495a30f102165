#include "zf_simd.h"

/* RMSNorm by rows: y = x * rstd * w, rstd = 1/sqrt(mean(x^2) + eps), of x or of x + residual. Source: Zhang and Sennrich
 * 2019, arXiv:1910.07467. With h = x * rstd and g = dy, the gradients are
 *
 *     dx = rstd * (g*w - h * mean(g*w*h)) (+ dadd)
 *     dw = sum over rows of g*h
 *
 * A row's sums are taken in ZF_CHAINS chains, which the compiler keeps in registers: the bits are the same on every path.
 * x, y, dx, dy, residual, sum, dadd: [rows,cols] act; w: [cols] act; dw: [cols] f32; rstd: [rows] f32. */

struct norm {
	int dtype;
	void *y;
	float *rstd;
	const void *x, *w, *residual;
	void *sum;
	int64_t rows, cols;
	float eps;
};

ZF_BODY float sum_squares(int dtype, const void *x, int64_t o, int64_t n) {
	float s[ZF_CHAINS] = {0};
	int64_t i = 0;
	for (; i + ZF_CHAINS <= n; i += ZF_CHAINS)
		for (int j = 0; j < ZF_CHAINS; j++) {
			float v = zf_load_act(dtype, x, o + i + j);
			s[j] += v * v;
		}
	for (int j = 0; i + j < n; j++) {
		float v = zf_load_act(dtype, x, o + i + j);
		s[j] += v * v;
	}
	return zf_chains_add(s);
}

ZF_BODY void norm_rows_of(int dtype, const struct norm *c, int64_t lo, int64_t hi) {
	const int64_t n = c->cols;
	void *y = c->y, *sum = c->sum;
	const void *w = c->w, *src = c->residual ? c->sum : c->x;
	for (int64_t r = lo; r < hi; r++) {
		const int64_t o = r * n;
		if (c->residual) {
			const void *x = c->x, *residual = c->residual;
			ZF_INDEPENDENT
			for (int64_t i = 0; i < n; i++)
				zf_store_act(dtype, sum, o + i, zf_load_act(dtype, x, o + i) + zf_load_act(dtype, residual, o + i));
		}
		float rstd = 1.0f / zf_sqrt(sum_squares(dtype, src, o, n) / (float)n + c->eps);
		c->rstd[r] = rstd;
		ZF_INDEPENDENT
		for (int64_t i = 0; i < n; i++)
			zf_store_act(dtype, y, o + i, zf_load_act(dtype, src, o + i) * rstd * zf_load_act(dtype, w, i));
	}
}

ZF_BODY void norm_rows(const struct norm *c, int64_t lo, int64_t hi) {
	if (c->dtype == ZF_F32)
		norm_rows_of(ZF_F32, c, lo, hi);
	else
		norm_rows_of(ZF_BF16, c, lo, hi);
}
ZF_EVERY_ISA(norm_rows, (const struct norm *c, int64_t lo, int64_t hi), (c, lo, hi))

static void norm_tile(void *arg, int64_t tile, int thread) {
	(void)thread;
	const struct norm *c = arg;
	int64_t size = zf_rows_per_tile(c->cols);
	norm_rows_best(c, tile * size, zf_min(tile * size + size, c->rows));
}

zf_status zf_rmsnorm(zf_pool *p, int dtype, void *y, float *rstd, const void *x, const void *w, const void *residual,
                     void *sum, int64_t rows, int64_t cols, float eps) {
	if (dtype != ZF_F32 && dtype != ZF_BF16)
		return ZF_EINVAL;
	struct norm c = {dtype, y, rstd, x, w, residual, sum, rows, cols, eps};
	zf_parallel(p, zf_tiles(rows, zf_rows_per_tile(cols)), norm_tile, &c);
	return ZF_OK;
}

/* dw is a sum over rows: each tile of rows makes its own, and these are added in the tiles' order. More tiles would
 * cost more memory traffic than they save: a tile has at least MIN_ROWS rows, and there are at most MAX_TILES. */
#define MIN_ROWS 16
#define MAX_TILES 64
#define COLS_PER_TILE 256

struct norm_backward {
	int dtype;
	void *dx;
	float *dw;
	const void *dy, *x, *w;
	const float *rstd;
	const void *dadd;
	int64_t rows, cols;
	float *parts; /* [tiles,cols]: each tile's dw */
	int64_t tile_rows, tiles;
};

/* The sum of dy*w*x over a row. */
ZF_BODY float sum_products(int dtype, const void *dy, const void *w, const void *x, int64_t o, int64_t n) {
	float s[ZF_CHAINS] = {0};
	int64_t i = 0;
	for (; i + ZF_CHAINS <= n; i += ZF_CHAINS)
		for (int j = 0; j < ZF_CHAINS; j++)
			s[j] += zf_load_act(dtype, dy, o + i + j) * zf_load_act(dtype, w, i + j) * zf_load_act(dtype, x, o + i + j);
	for (int j = 0; i + j < n; j++)
		s[j] += zf_load_act(dtype, dy, o + i + j) * zf_load_act(dtype, w, i + j) * zf_load_act(dtype, x, o + i + j);
	return zf_chains_add(s);
}

ZF_BODY void backward_rows_of(int dtype, const struct norm_backward *c, float *part, int64_t lo, int64_t hi) {
	const int64_t n = c->cols;
	void *dx = c->dx;
	const void *dy = c->dy, *x = c->x, *w = c->w, *dadd = c->dadd;
	memset(part, 0, (size_t)n * sizeof *part);
	for (int64_t r = lo; r < hi; r++) {
		const int64_t o = r * n;
		const float rstd = c->rstd[r], mean = sum_products(dtype, dy, w, x, o, n) * rstd / (float)n;
		ZF_INDEPENDENT
		for (int64_t i = 0; i < n; i++) {
			float g = zf_load_act(dtype, dy, o + i), h = zf_load_act(dtype, x, o + i) * rstd;
			float d = rstd * (g * zf_load_act(dtype, w, i) - h * mean);
			part[i] += g * h;
			zf_store_act(dtype, dx, o + i, dadd ? d + zf_load_act(dtype, dadd, o + i) : d);
		}
	}
}

ZF_BODY void backward_rows(const struct norm_backward *c, float *part, int64_t lo, int64_t hi) {
	if (c->dtype == ZF_F32)
		backward_rows_of(ZF_F32, c, part, lo, hi);
	else
		backward_rows_of(ZF_BF16, c, part, lo, hi);
}
ZF_EVERY_ISA(backward_rows, (const struct norm_backward *c, float *part, int64_t lo, int64_t hi), (c, part, lo, hi))

static void backward_tile(void *arg, int64_t tile, int thread) {
	(void)thread;
	const struct norm_backward *c = arg;
	int64_t lo = tile * c->tile_rows;
	backward_rows_best(c, c->parts + tile * c->cols, lo, zf_min(lo + c->tile_rows, c->rows));
}

ZF_BODY void add_parts(const struct norm_backward *c, int64_t lo, int64_t hi) {
	float *dw = c->dw;
	memcpy(dw + lo, c->parts + lo, (size_t)(hi - lo) * sizeof *dw);
	for (int64_t t = 1; t < c->tiles; t++) {
		const float *part = c->parts + t * c->cols;
		ZF_INDEPENDENT
		for (int64_t i = lo; i < hi; i++)
			dw[i] += part[i];
	}
}
ZF_EVERY_ISA(add_parts, (const struct norm_backward *c, int64_t lo, int64_t hi), (c, lo, hi))

static void add_parts_tile(void *arg, int64_t tile, int thread) {
	(void)thread;
	const struct norm_backward *c = arg;
	int64_t lo = tile * COLS_PER_TILE;
	add_parts_best(c, lo, zf_min(lo + COLS_PER_TILE, c->cols));
}

zf_status zf_rmsnorm_backward(zf_pool *p, int dtype, void *dx, float *dw, const void *dy, const void *x, const void *w,
                              const float *rstd, const void *dadd, int64_t rows, int64_t cols) {
	if (dtype != ZF_F32 && dtype != ZF_BF16)
		return ZF_EINVAL;
	const int64_t tile_rows = zf_max(MIN_ROWS, zf_tiles(rows, MAX_TILES)), tiles = zf_tiles(rows, tile_rows);
	float *parts = zf_scratch(p, 0, (size_t)(tiles * cols) * sizeof *parts);
	if (!parts)
		return ZF_ENOMEM;
	struct norm_backward c = {dtype, dx, dw, dy, x, w, rstd, dadd, rows, cols, parts, tile_rows, tiles};
	zf_parallel(p, tiles, backward_tile, &c);
	zf_parallel(p, zf_tiles(cols, COLS_PER_TILE), add_parts_tile, &c);
	return ZF_OK;
}
