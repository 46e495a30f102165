/* Attention over packed documents: a tile is ZF_TILE queries of one head, see zf_attend.c.
 * Source: Dao 2023, arXiv:2307.08691, algorithm 1. */
#include "zf_attention.h"
#include "zf_exp.h"

struct forward {
	zf_pool *pool;
	const struct zf_attention_shape *s;
	void *out;
	float *lse;
};

static void forward_tile(void *arg, int64_t tile, int thread) {
	const struct forward *f = arg;
	const struct zf_attention_shape *s = f->s;
	/* The last queries see most: first, so that the end of the work is even. */
	int64_t block = zf_tiles(s->t, ZF_TILE) - 1 - tile / (s->b * s->heads);
	int64_t b = tile / s->heads % s->b, h = tile % s->heads;
	int64_t q0 = block * ZF_TILE, n = zf_min(ZF_TILE, s->t - q0), row = b * s->t + q0;
	struct zf_attend w =
		zf_attend_place(zf_scratch(f->pool, thread, (size_t)zf_attend_floats(s->dim) * sizeof(float)), s->dim);
	struct zf_lanes lanes;
	zf_document_lanes(&lanes, s, b, q0, n);
	zf_tile_pack(w.q, w.ld, s->dtype, s->qkv, row * zf_qkv_stride(s) + h * s->dim, zf_qkv_stride(s), n, s->dim);
	struct zf_keys keys = zf_sequence_keys(s, b, h);
	zf_attend_run(&w, &keys, &lanes, 0, s->t, s->scale);
	zf_attend_finish(&w, n);
	zf_tile_unpack(s->dtype, f->out, (row * s->heads + h) * s->dim, s->heads * s->dim, w.o, w.ld, n, s->dim);
	for (int64_t q = 0; q < n; q++)
		f->lse[(b * s->heads + h) * s->t + q0 + q] = w.m[q] + zf_log(w.l[q]);
}

zf_status zf_attention(zf_pool *p, int dtype, void *out, float *lse, const void *qkv, const int32_t *doc_start,
                       int64_t b, int64_t t, int64_t heads, int64_t kv_heads, int64_t head_dim, int64_t window,
                       float scale) {
	struct zf_attention_shape s = {dtype, qkv, doc_start, b, t, heads, kv_heads, head_dim, window, scale};
	zf_status status = zf_documents_ok(&s);
	if (!status)
		status = zf_scratch_each(p, zf_attend_floats(head_dim));
	if (status)
		return status;
	struct forward f = {p, &s, out, lse};
	zf_parallel(p, b * heads * zf_tiles(t, ZF_TILE), forward_tile, &f);
	return ZF_OK;
}
