/* The gradient of attention over packed documents. For a tile of queries and one of keys, all turned,
 * with D = rowsum(dO * O):
 *
 *	P = exp(K Q' scale - LSE)    dV += P dO    dS = P * (V dO' - D) * scale    dK += dS Q    dQ += dS' K
 *
 * Source: Dao 2023, arXiv:2307.08691, algorithm 2. The group's heads add to dK and dV in order, each head's tiles of
 * queries in order, and tiles of keys add to dQ in order. There are two ways to hand that out, with the same bits:
 *
 * - whole: one tile of work is a sequence's key and value head with its group. Five products, B*G tiles.
 * - split: first dQ by head and tile of queries, then dK and dV by key and value head and tile of keys. Scores
 *   are computed twice, seven products, but there is work for many threads.
 *
 * The number of threads chooses the quicker one. */
#include "zf_attention.h"
#include "zf_exp.h"

/* ---- Weights ---------------------------------------------------------------------- */

/* weigh turns the scores s of a span into weights, and x, the gradients of the weights, into those of the unscaled scores.
 * Masked pairs get 0 in both. */
struct weigh {
	float *s, *x;
	const float *lse, *delta;
	const int32_t *first, *last;
	int64_t key0;
	float scale;
};

static void weigh_portable(const struct weigh *w, const struct zf_span *p) {
	for (int64_t j = p->a; j < p->b; j++)
		for (int64_t q = p->q; q < p->q + p->n; q++) {
			float *s = w->s + j * ZF_TILE + q, *x = w->x + j * ZF_TILE + q;
			int64_t key = w->key0 + j;
			if (key < w->first[q] || key > w->last[q]) {
				*s = *x = 0;
				continue;
			}
			*s = zf_exp(zf_fma(*s, w->scale, -w->lse[q]));
			*x = *s * (*x - w->delta[q]) * w->scale;
		}
}

#ifdef ZF_X86

ZF_AVX2 static void weigh_avx2(const struct weigh *w, const struct zf_span *p) {
	const __m256 scale = _mm256_set1_ps(w->scale);
	for (int64_t q = p->q; q < p->q + p->n; q += 8) {
		const __m256i first = _mm256_loadu_si256((const __m256i *)(w->first + q)),
					  last = _mm256_loadu_si256((const __m256i *)(w->last + q));
		const __m256 lse = _mm256_loadu_ps(w->lse + q), delta = _mm256_loadu_ps(w->delta + q);
		for (int64_t j = p->a; j < p->b; j++) {
			float *s = w->s + j * ZF_TILE + q, *x = w->x + j * ZF_TILE + q;
			__m256 e = zf_exp8(_mm256_fmsub_ps(_mm256_loadu_ps(s), scale, lse));
			__m256 d = _mm256_mul_ps(_mm256_mul_ps(e, _mm256_sub_ps(_mm256_loadu_ps(x), delta)), scale);
			if (p->masked) {
				__m256i key = _mm256_set1_epi32((int32_t)(w->key0 + j));
				__m256 shut =
					_mm256_castsi256_ps(_mm256_or_si256(_mm256_cmpgt_epi32(first, key), _mm256_cmpgt_epi32(key, last)));
				e = _mm256_andnot_ps(shut, e);
				d = _mm256_andnot_ps(shut, d);
			}
			_mm256_storeu_ps(s, e);
			_mm256_storeu_ps(x, d);
		}
	}
}

ZF_AVX512 static void weigh_avx512(const struct weigh *w, const struct zf_span *p) {
	const __m512 scale = _mm512_set1_ps(w->scale);
	for (int64_t q = p->q; q < p->q + p->n; q += 16) {
		const __m512i first = _mm512_loadu_si512(w->first + q), last = _mm512_loadu_si512(w->last + q);
		const __m512 lse = _mm512_loadu_ps(w->lse + q), delta = _mm512_loadu_ps(w->delta + q);
		for (int64_t j = p->a; j < p->b; j++) {
			float *s = w->s + j * ZF_TILE + q, *x = w->x + j * ZF_TILE + q;
			__m512 e = zf_exp16(_mm512_fmsub_ps(_mm512_loadu_ps(s), scale, lse));
			__m512 d = _mm512_mul_ps(_mm512_mul_ps(e, _mm512_sub_ps(_mm512_loadu_ps(x), delta)), scale);
			if (p->masked) {
				__m512i key = _mm512_set1_epi32((int32_t)(w->key0 + j));
				__mmask16 open = _mm512_cmple_epi32_mask(first, key) & _mm512_cmple_epi32_mask(key, last);
				e = _mm512_maskz_mov_ps(open, e);
				d = _mm512_maskz_mov_ps(open, d);
			}
			_mm512_storeu_ps(s, e);
			_mm512_storeu_ps(x, d);
		}
	}
}

#endif

static void weigh(const struct weigh *w, const struct zf_span *p) {
#ifdef ZF_X86
	if (zf_isa() == ZF_ISA_AVX512) {
		weigh_avx512(w, p);
		return;
	}
	if (zf_isa() == ZF_ISA_AVX2) {
		weigh_avx2(w, p);
		return;
	}
#endif
	weigh_portable(w, p);
}

/* ---- A tile of queries with a tile of keys ---------------------------------------- */

struct backward {
	zf_pool *pool;
	const struct zf_attention_shape *s;
	void *dqkv;
	float *delta;
	const void *dout, *out;
	const float *lse;
	int64_t key_rows; /* rows of keys and values that a thread holds */
};

/* What a thread has in scratch. */
struct work {
	int64_t ld;
	float *q, *d, *qt, *dt, *dq; /* a tile of queries and of dO, the same turned, the gradient */
	float *s, *x;                /* tiles of scores and of their gradients */
	float *lse, *delta;
	float *k, *v, *dk, *dv; /* key_rows rows each */
	uint64_t *bad_k;        /* rows with an Inf or a NaN, for each tile */
	uint64_t bad_q, bad_d;
	struct zf_lanes lanes;
};

static int64_t work_floats(int64_t dim, int64_t key_rows) {
	int64_t ld = zf_round_up(dim, ZF_TILE_LANES);
	return 5 * ZF_TILE * ld + 2 * ZF_TILE * ZF_TILE + 2 * ZF_TILE + 4 * key_rows * ld + 2 * key_rows / ZF_TILE;
}

static void work_place(struct work *w, const struct backward *g, int thread) {
	float *f = zf_scratch(g->pool, thread, (size_t)work_floats(g->s->dim, g->key_rows) * sizeof *f);
	w->ld = zf_round_up(g->s->dim, ZF_TILE_LANES);
	int64_t rows = ZF_TILE * w->ld, keys = g->key_rows * w->ld;
	w->q = f;
	w->d = f + rows;
	w->qt = f + 2 * rows;
	w->dt = f + 3 * rows;
	w->dq = f + 4 * rows;
	w->s = f + 5 * rows;
	w->x = w->s + ZF_TILE * ZF_TILE;
	w->lse = w->x + ZF_TILE * ZF_TILE;
	w->delta = w->lse + ZF_TILE;
	w->k = w->delta + ZF_TILE;
	w->v = w->k + keys;
	w->dk = w->v + keys;
	w->dv = w->dk + keys;
	w->bad_k = (uint64_t *)(w->dv + keys);
}

static void clear(float *f, int64_t n) { memset(f, 0, (size_t)n * sizeof *f); }

/* lane_values copies the lanes' values of a [b,heads,t] array. */
static void lane_values(float *dst, const float *src, int64_t n) {
	memcpy(dst, src, (size_t)n * sizeof *src);
	clear(dst + n, ZF_TILE - n);
}

/* load_queries fills all but dq for the queries of w->lanes, which begin at q0. D is computed and stored, or taken as
 * stored. */
static void load_queries(struct work *w, const struct backward *g, int64_t b, int64_t h, int64_t q0, int have_delta) {
	const struct zf_attention_shape *s = g->s;
	int64_t n = w->lanes.n, row = b * s->t + q0, stride = zf_qkv_stride(s), lane = (b * s->heads + h) * s->t + q0;
	int64_t out_at = (row * s->heads + h) * s->dim, out_stride = s->heads * s->dim;
	w->bad_q = zf_tile_pack(w->q, w->ld, s->dtype, s->qkv, row * stride + h * s->dim, stride, n, s->dim);
	w->bad_d = zf_tile_pack(w->d, w->ld, s->dtype, g->dout, out_at, out_stride, n, s->dim);
	if (!have_delta) {
		zf_tile_pack(w->dq, w->ld, s->dtype, g->out, out_at, out_stride, n, s->dim);
		zf_tile_dots(g->delta + lane, w->d, w->dq, w->ld, n);
	}
	lane_values(w->delta, g->delta + lane, n);
	lane_values(w->lse, g->lse + lane, n);
	zf_tile_turn(w->qt, ZF_TILE, w->q, w->ld, n, w->ld);
	zf_tile_turn(w->dt, ZF_TILE, w->d, w->ld, n, w->ld);
}

/* load_keys packs keys [key0, key0+keys) to rows from row on. */
static void load_keys(struct work *w, const struct zf_keys *k, int64_t key0, int64_t keys, int64_t row) {
	int64_t from = key0 * k->stride;
	w->bad_k[row / ZF_TILE] =
		zf_tile_pack(w->k + row * w->ld, w->ld, k->dtype, k->k, k->k_at + from, k->stride, keys, k->dim);
	zf_tile_pack(w->v + row * w->ld, w->ld, k->dtype, k->v, k->v_at + from, k->stride, keys, k->dim);
}

enum { DQ = 1, DKV = 2 }; /* what pair adds to */

/* pair adds the part of the loaded queries with the keys at row, which begin at key0. */
static void pair(struct work *w, const struct zf_attention_shape *s, const struct zf_span *spans, int n, int64_t key0,
                 int64_t row, int what) {
	int64_t ld = w->ld;
	const float *k = w->k + row * ld, *v = w->v + row * ld;
	struct weigh weights = {w->s, w->x, w->lse, w->delta, w->lanes.first, w->lanes.last, key0, s->scale};
	for (int i = 0; i < n; i++) {
		const struct zf_span *p = &spans[i];
		int64_t at = p->a * ZF_TILE + p->q, keys = p->b - p->a;
		zf_tile_product(w->s + at, ZF_TILE, k + p->a * ld, ld, w->qt + p->q, ZF_TILE, keys, p->n, s->dim, 0);
		zf_tile_product(w->x + at, ZF_TILE, v + p->a * ld, ld, w->dt + p->q, ZF_TILE, keys, p->n, s->dim, 0);
		weigh(&weights, p);
		if (what & DKV) {
			zf_to_keys(w->dv + row * ld, w->s, w->d, ld, w->bad_d, p, &w->lanes, key0);
			zf_to_keys(w->dk + row * ld, w->x, w->q, ld, w->bad_q, p, &w->lanes, key0);
		}
		if (what & DQ)
			zf_to_lanes(w->dq, w->x, k, ld, w->bad_k[row / ZF_TILE], p, &w->lanes, key0);
	}
}

static void store_dq(const struct work *w, const struct backward *g, int64_t b, int64_t h, int64_t q0) {
	const struct zf_attention_shape *s = g->s;
	int64_t stride = zf_qkv_stride(s);
	zf_tile_unpack(s->dtype, g->dqkv, (b * s->t + q0) * stride + h * s->dim, stride, w->dq, w->ld, w->lanes.n, s->dim);
}

static void store_dkv(const struct work *w, const struct backward *g, const struct zf_keys *k, int64_t key0,
                      int64_t keys, int64_t row) {
	zf_tile_unpack(k->dtype, g->dqkv, k->k_at + key0 * k->stride, k->stride, w->dk + row * w->ld, w->ld, keys, k->dim);
	zf_tile_unpack(k->dtype, g->dqkv, k->v_at + key0 * k->stride, k->stride, w->dv + row * w->ld, w->ld, keys, k->dim);
}

/* ---- Whole ------------------------------------------------------------------------ */

static void whole_tile(void *arg, int64_t tile, int thread) {
	const struct backward *g = arg;
	const struct zf_attention_shape *s = g->s;
	int64_t b = tile / s->kv_heads, group = s->heads / s->kv_heads, h0 = tile % s->kv_heads * group;
	struct work w;
	work_place(&w, g, thread);
	struct zf_keys k = zf_sequence_keys(s, b, h0);
	for (int64_t key0 = 0; key0 < s->t; key0 += ZF_TILE)
		load_keys(&w, &k, key0, zf_min(ZF_TILE, s->t - key0), key0);
	clear(w.dk, g->key_rows * w.ld);
	clear(w.dv, g->key_rows * w.ld);
	for (int64_t h = h0; h < h0 + group; h++)
		for (int64_t q0 = 0; q0 < s->t; q0 += ZF_TILE) {
			zf_document_lanes(&w.lanes, s, b, q0, zf_min(ZF_TILE, s->t - q0));
			load_queries(&w, g, b, h, q0, 0);
			clear(w.dq, ZF_TILE * w.ld);
			for (int64_t key0 = w.lanes.lowest / ZF_TILE * ZF_TILE; key0 <= q0; key0 += ZF_TILE) {
				struct zf_span spans[ZF_SPANS];
				int n = zf_spans(&w.lanes, key0, zf_min(ZF_TILE, s->t - key0), spans);
				pair(&w, s, spans, n, key0, key0, DQ | DKV);
			}
			store_dq(&w, g, b, h, q0);
		}
	for (int64_t key0 = 0; key0 < s->t; key0 += ZF_TILE)
		store_dkv(&w, g, &k, key0, zf_min(ZF_TILE, s->t - key0), key0);
}

/* ---- Split ------------------------------------------------------------------------ */

static void dq_tile(void *arg, int64_t tile, int thread) {
	const struct backward *g = arg;
	const struct zf_attention_shape *s = g->s;
	/* The last queries see most: first. */
	int64_t q0 = (zf_tiles(s->t, ZF_TILE) - 1 - tile / (s->b * s->heads)) * ZF_TILE;
	int64_t b = tile / s->heads % s->b, h = tile % s->heads;
	struct work w;
	work_place(&w, g, thread);
	struct zf_keys k = zf_sequence_keys(s, b, h);
	zf_document_lanes(&w.lanes, s, b, q0, zf_min(ZF_TILE, s->t - q0));
	load_queries(&w, g, b, h, q0, 0);
	clear(w.dq, ZF_TILE * w.ld);
	for (int64_t key0 = w.lanes.lowest / ZF_TILE * ZF_TILE; key0 <= q0; key0 += ZF_TILE) {
		struct zf_span spans[ZF_SPANS];
		int64_t keys = zf_min(ZF_TILE, s->t - key0);
		int n = zf_spans(&w.lanes, key0, keys, spans);
		if (n == 0)
			continue;
		load_keys(&w, &k, key0, keys, 0);
		pair(&w, s, spans, n, key0, 0, DQ);
	}
	store_dq(&w, g, b, h, q0);
}

static void dkv_tile(void *arg, int64_t tile, int thread) {
	const struct backward *g = arg;
	const struct zf_attention_shape *s = g->s;
	/* The first keys are seen by most: first. */
	int64_t key0 = tile / (s->b * s->kv_heads) * ZF_TILE, keys = zf_min(ZF_TILE, s->t - key0);
	int64_t b = tile / s->kv_heads % s->b, group = s->heads / s->kv_heads, h0 = tile % s->kv_heads * group;
	struct work w;
	work_place(&w, g, thread);
	struct zf_keys k = zf_sequence_keys(s, b, h0);
	load_keys(&w, &k, key0, keys, 0);
	clear(w.dk, ZF_TILE * w.ld);
	clear(w.dv, ZF_TILE * w.ld);
	for (int64_t h = h0; h < h0 + group; h++)
		for (int64_t q0 = key0; q0 < s->t; q0 += ZF_TILE) {
			struct zf_span spans[ZF_SPANS];
			zf_document_lanes(&w.lanes, s, b, q0, zf_min(ZF_TILE, s->t - q0));
			int n = zf_spans(&w.lanes, key0, keys, spans);
			if (n == 0)
				continue;
			load_queries(&w, g, b, h, q0, 1);
			pair(&w, s, spans, n, key0, 0, DKV);
		}
	store_dkv(&w, g, &k, key0, keys, 0);
}

/* ---- Entry ------------------------------------------------------------------------ */

#define WHOLE_FLOATS (1 << 24) /* 64 MiB for each thread, and no more, to save the two products */

zf_status zf_attention_backward(zf_pool *p, int dtype, void *dqkv, float *delta, const void *dout, const void *out,
                                const float *lse, const void *qkv, const int32_t *doc_start, int64_t b, int64_t t,
                                int64_t heads, int64_t kv_heads, int64_t head_dim, int64_t window, float scale) {
	struct zf_attention_shape s = {dtype, qkv, doc_start, b, t, heads, kv_heads, head_dim, window, scale};
	struct backward g = {p, &s, dqkv, delta, dout, out, lse, zf_round_up(t, ZF_TILE)};
	int64_t parts = b * kv_heads, threads = zf_pool_threads(p), tiles = zf_tiles(t, ZF_TILE);
	/* In units of a product over one part: rounds of whole parts, against an even share of the split ones. */
	int whole =
		zf_tiles(parts, threads) * 5 * threads <= parts * 7 && work_floats(head_dim, g.key_rows) <= WHOLE_FLOATS;
	if (!whole)
		g.key_rows = ZF_TILE;
	zf_status status = zf_documents_ok(&s);
	if (!status)
		status = zf_scratch_each(p, work_floats(head_dim, g.key_rows));
	if (status)
		return status;
	if (whole) {
		zf_parallel(p, parts, whole_tile, &g);
		return ZF_OK;
	}
	zf_parallel(p, b * heads * tiles, dq_tile, &g);
	zf_parallel(p, parts * tiles, dkv_tile, &g);
	return ZF_OK;
}
