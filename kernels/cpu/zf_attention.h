/* What the attention kernels share.
 *
 * Scores are kept turned: s[j][q], a row per key and a lane per query. So softmax runs down the rows, with a query in
 * each lane of a vector and nothing to add across one; keys and values enter products as they lie in memory, and
 * only the queries of a tile are turned, once.
 *
 * A masked pair of query and key takes part in nothing: its score is not looked at, its weight is 0, and rows with an Inf
 * or a NaN, which 0 would not silence, are taken out of a product and added alone to those who see them. */
#ifndef ZF_ATTENTION_H
#define ZF_ATTENTION_H

#include "zf_tile.h"

#define ZF_SPANS (ZF_TILE / ZF_TILE_LANES)

/* The queries of a tile and the keys that each sees: positions [first, last]. last never falls from a lane to the
 * next. */
struct zf_lanes {
	int64_t n;
	int32_t first[ZF_TILE], last[ZF_TILE];   /* lanes from n on: none */
	int32_t least[ZF_SPANS], most[ZF_SPANS]; /* of first, for each 16 lanes */
	int32_t lowest, highest;                 /* of first, for all */
};

/* A span is lanes [q, q+n) and the keys [a, b) of a tile: the lanes see no other key of it. a is a multiple
 * of ZF_TILE_ROWS, and b is one or the number of keys. */
struct zf_span {
	int64_t q, n, a, b;
	int masked; /* not all lanes see all of them */
};

/* zf_lanes_end completes l, of which the first n lanes are set. */
void zf_lanes_end(struct zf_lanes *l, int64_t n);

/* zf_spans cuts the pairs of lanes and keys [key0, key0+keys) into spans and returns how many there are: one of all lanes
 * when all see all, else one for each 16 lanes that see any. */
int zf_spans(const struct zf_lanes *l, int64_t key0, int64_t keys, struct zf_span out[ZF_SPANS]);

static inline int zf_sees(const struct zf_lanes *l, int64_t q, int64_t key) {
	return l->first[q] <= key && key <= l->last[q];
}

/* to_lanes: c[q] += the sum over keys j of s[j][q] b[j], for the queries of a span. to_keys: c[j] += the sum over queries q of
 * s[j][q] b[q], for its keys. bad are the rows of b with an Inf or a NaN; c and b have rows of ld. */
void zf_to_lanes(float *c, const float *s, const float *b, int64_t ld, uint64_t bad, const struct zf_span *span,
                 const struct zf_lanes *l, int64_t key0);
void zf_to_keys(float *c, const float *s, const float *b, int64_t ld, uint64_t bad, const struct zf_span *span,
                const struct zf_lanes *l, int64_t key0);

/* Keys and values of one head: row j of the keys begins at element k_at + j*stride of k. */
struct zf_keys {
	int dtype;
	const void *k, *v;
	int64_t k_at, v_at, stride, dim;
};

/* The forward of one tile of queries, in scratch. */
struct zf_attend {
	int64_t ld;        /* of rows: dim rounded up to ZF_TILE_LANES */
	float *q, *qt;     /* the queries; the same turned, [ld][ZF_TILE] */
	float *k, *v, *s;  /* a tile of keys, of values and of scores */
	float *o;          /* the sum of weights times values */
	float *m, *l, *by; /* per lane the greatest score, the sum of weights, a factor */
};

/* zf_attend_floats is how many floats zf_attend_place lays out. */
int64_t zf_attend_floats(int64_t dim);
struct zf_attend zf_attend_place(float *scratch, int64_t dim);

/* zf_attend_run sets o, m and l of the queries in w->q, from the keys [from, to) among those that they see. Out is o / l,
 * log-sum-exp m + log(l). from is a multiple of ZF_TILE. */
void zf_attend_run(struct zf_attend *w, const struct zf_keys *k, const struct zf_lanes *l, int64_t from, int64_t to,
                   float scale);

/* zf_attend_finish divides o by l. */
void zf_attend_finish(struct zf_attend *w, int64_t lanes);

/* zf_scratch_each makes room for each thread's tile, so that zf_scratch cannot fail inside one. */
static inline zf_status zf_scratch_each(zf_pool *p, int64_t floats) {
	for (int t = 0; t < zf_pool_threads(p); t++)
		if (!zf_scratch(p, t, (size_t)floats * sizeof(float)))
			return ZF_ENOMEM;
	return ZF_OK;
}

/* The shape of the forward and the backward over packed documents. */
struct zf_attention_shape {
	int dtype;
	const void *qkv;
	const int32_t *doc_start;
	int64_t b, t, heads, kv_heads, dim, window;
	float scale;
};

static inline int64_t zf_qkv_stride(const struct zf_attention_shape *s) {
	return (s->heads + 2 * s->kv_heads) * s->dim;
}

/* zf_documents_ok is ZF_EID when a document starts after its token or before its sequence. */
zf_status zf_documents_ok(const struct zf_attention_shape *s);

/* zf_document_lanes are queries [q0, q0+n) of sequence b; zf_sequence_keys the keys and values that head h uses. */
void zf_document_lanes(struct zf_lanes *l, const struct zf_attention_shape *s, int64_t b, int64_t q0, int64_t n);
struct zf_keys zf_sequence_keys(const struct zf_attention_shape *s, int64_t b, int64_t h);

#endif
