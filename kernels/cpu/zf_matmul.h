/* What the entry point of the product shares with the makers that do the work. */
#ifndef ZF_MATMUL_H
#define ZF_MATMUL_H

#include "../zf_kernels.h"

struct zf_product {
	int in_dtype, out_dtype;
	void *out;
	const void *a, *b;
	int64_t m, n, k;
	int trans_a, trans_b, accumulate;
};

/* A grid of tiles over the output: tile (i, j) is rows [i*tm, ...) and columns [j*tn, ...).
 * It follows from the shape alone, since a tile's shape can decide how its sums are blocked. */
struct zf_grid {
	int64_t tm, tn, rows, cols; /* rows, cols: tiles down and across */
};

static inline struct zf_grid zf_grid_of(int64_t m, int64_t n, int64_t tm, int64_t tn) {
	return (struct zf_grid){tm, tn, (m + tm - 1) / tm, (n + tn - 1) / tn};
}

/* Part of a product: the rows and columns of the output that tile t covers. */
static inline void zf_grid_tile(const struct zf_grid *g, const struct zf_product *o, int64_t t, int64_t *i, int64_t *j,
                                int64_t *rows, int64_t *cols) {
	/* Down first: neighbours in time share columns of B, which the outer cache then still holds. */
	*i = t % g->rows * g->tm;
	*j = t / g->rows * g->tn;
	*rows = *i + g->tm < o->m ? g->tm : o->m - *i;
	*cols = *j + g->tn < o->n ? g->tn : o->n - *j;
}

/* zf_dnnl_version is the version of the oneDNN that was found when first asked, as 10000*major +
 * 100*minor + patch; 0 when there is none, or none was there to build for. */
int zf_dnnl_version(void);
zf_status zf_dnnl_matmul(zf_pool *p, const struct zf_product *o);

/* The product of our own: blocked for the caches, with an AVX-512, an AVX2 and a portable inner loop. */
zf_status zf_gemm_matmul(zf_pool *p, const struct zf_product *o);

#endif
