#include "zf_simd.h"

/* Rows of a table by id, and their gradient. table: [v,d] act; ids: [rows]; y, dy: [rows,d] act; dtable: [v,d] f32. */

static int ids_ok(const int32_t *ids, int64_t rows, int64_t v) {
	for (int64_t r = 0; r < rows; r++)
		if (ids[r] < 0 || ids[r] >= v)
			return 0;
	return 1;
}

struct lookup {
	char *y;
	const char *table;
	const int32_t *ids;
	int64_t rows, row_bytes, tile_rows;
};

static void lookup_tile(void *arg, int64_t tile, int thread) {
	(void)thread;
	const struct lookup *c = arg;
	int64_t lo = tile * c->tile_rows, hi = zf_min(lo + c->tile_rows, c->rows);
	for (int64_t r = lo; r < hi; r++)
		memcpy(c->y + r * c->row_bytes, c->table + c->ids[r] * c->row_bytes, (size_t)c->row_bytes);
}

zf_status zf_embedding(zf_pool *p, int dtype, void *y, const void *table, const int32_t *ids, int64_t rows, int64_t v,
                       int64_t d) {
	if (dtype != ZF_F32 && dtype != ZF_BF16)
		return ZF_EINVAL;
	if (!ids_ok(ids, rows, v))
		return ZF_EID;
	struct lookup c = {y, table, ids, rows, d * (dtype == ZF_F32 ? 4 : 2), zf_rows_per_tile(d)};
	zf_parallel(p, zf_tiles(rows, c.tile_rows), lookup_tile, &c);
	return ZF_OK;
}

/* An id may come more than once, and its rows are added in order: so the columns are dealt to the threads, not the rows.
 * One addition per element and row: the same bits on every path. */
#define COLS_PER_TILE 64

struct scatter {
	int dtype;
	float *dtable;
	const void *dy;
	const int32_t *ids;
	int64_t rows, d;
};

ZF_BODY void scatter_columns_of(int dtype, const struct scatter *c, int64_t lo, int64_t n) {
	const void *dy = c->dy;
	for (int64_t r = 0; r < c->rows; r++) {
		float *to = c->dtable + c->ids[r] * c->d + lo;
		const int64_t o = r * c->d + lo;
		ZF_INDEPENDENT
		for (int64_t i = 0; i < n; i++)
			to[i] += zf_load_act(dtype, dy, o + i);
	}
}

ZF_BODY void scatter_columns(const struct scatter *c, int64_t lo, int64_t n) {
	if (c->dtype == ZF_F32)
		scatter_columns_of(ZF_F32, c, lo, n);
	else
		scatter_columns_of(ZF_BF16, c, lo, n);
}
ZF_EVERY_ISA(scatter_columns, (const struct scatter *c, int64_t lo, int64_t n), (c, lo, n))

static void scatter_tile(void *arg, int64_t tile, int thread) {
	(void)thread;
	const struct scatter *c = arg;
	int64_t lo = tile * COLS_PER_TILE;
	scatter_columns_best(c, lo, zf_min(COLS_PER_TILE, c->d - lo));
}

zf_status zf_embedding_backward(zf_pool *p, int dtype, float *dtable, const void *dy, const int32_t *ids, int64_t rows,
                                int64_t v, int64_t d) {
	if (dtype != ZF_F32 && dtype != ZF_BF16)
		return ZF_EINVAL;
	if (!ids_ok(ids, rows, v))
		return ZF_EID;
	struct scatter c = {dtype, dtable, dy, ids, rows, d};
	zf_parallel(p, zf_tiles(d, COLS_PER_TILE), scatter_tile, &c);
	return ZF_OK;
}
