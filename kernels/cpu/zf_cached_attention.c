/* Attention of n new tokens over a cache, for generation. The lanes of a tile are the group's heads of one
 * token, then of the next: so all queries that use a key and value head share one reading of it.
 *
 * As long as the queries of a key and value head fill no more than one tile, as in generation token by token, there would be
 * G tiles of work only; then positions are cut into chunks as well, each with its own softmax, and the chunks are added
 * in order: m = max(m_c), out = sum(exp(m_c - m) o_c) / sum(exp(m_c - m) l_c). The sum of the online softmax, Milakov
 * and Gimelshein 2018, arXiv:1805.02867, is associative. */
#include "zf_attention.h"
#include "zf_exp.h"

#define CHUNK (4 * ZF_TILE)

struct cached {
	zf_pool *pool;
	int dtype;
	void *out, *keys, *values;
	const void *qkv;
	int64_t n, past, heads, kv_heads, dim, window;
	float scale;
	int64_t group, lanes; /* heads and queries of one key and value head */
	int64_t chunks, chunk0;
	float *parts; /* [kv_heads][chunks][lanes][ld + 2]: o, m, l; at the head of thread 0's scratch */
	int64_t part_floats;
};

static int64_t stride(const struct cached *c) { return (c->heads + 2 * c->kv_heads) * c->dim; }

static float *part(const struct cached *c, int64_t kv_head, int64_t chunk, int64_t lane) {
	int64_t row = zf_round_up(c->dim, ZF_TILE_LANES) + 2;
	return c->parts + ((kv_head * c->chunks + chunk) * c->lanes + lane) * row;
}

/* out_at is where the output of a lane begins. */
static int64_t out_at(const struct cached *c, int64_t kv_head, int64_t lane) {
	return (lane / c->group * c->heads + kv_head * c->group + lane % c->group) * c->dim;
}

static void extend_tile(void *arg, int64_t tile, int thread) {
	(void)thread;
	const struct cached *c = arg;
	size_t w = c->dtype == ZF_F32 ? 4 : 2, row = (size_t)(c->kv_heads * c->dim) * w;
	for (int64_t i = tile * ZF_TILE; i < zf_min(c->n, (tile + 1) * ZF_TILE); i++) {
		const char *k = (const char *)c->qkv + (size_t)(i * stride(c) + c->heads * c->dim) * w;
		memcpy((char *)c->keys + (size_t)(c->past + i) * row, k, row);
		memcpy((char *)c->values + (size_t)(c->past + i) * row, k + row, row);
	}
}

static void attend_tile(void *arg, int64_t tile, int thread) {
	const struct cached *c = arg;
	int64_t kv_head = tile % c->kv_heads, chunk = tile / c->kv_heads % c->chunks;
	int64_t lane0 = tile / c->kv_heads / c->chunks * ZF_TILE, n = zf_min(ZF_TILE, c->lanes - lane0);
	int64_t mine = thread == 0 ? c->part_floats : 0;
	float *scratch = zf_scratch(c->pool, thread, (size_t)(mine + zf_attend_floats(c->dim)) * sizeof *scratch);
	struct zf_attend w = zf_attend_place(scratch + mine, c->dim);
	struct zf_lanes lanes;
	for (int64_t q = 0; q < n; q++) {
		int64_t i = (lane0 + q) / c->group, h = kv_head * c->group + (lane0 + q) % c->group, last = c->past + i;
		zf_tile_pack(w.q + q * w.ld, w.ld, c->dtype, c->qkv, i * stride(c) + h * c->dim, 0, 1, c->dim);
		lanes.first[q] = (int32_t)(c->window > 0 && last >= c->window ? last - c->window + 1 : 0);
		lanes.last[q] = (int32_t)last;
	}
	zf_lanes_end(&lanes, n);
	int64_t row = c->kv_heads * c->dim;
	struct zf_keys keys = {c->dtype, c->keys, c->values, kv_head * c->dim, kv_head * c->dim, row, c->dim};
	if (c->chunks == 1) {
		zf_attend_run(&w, &keys, &lanes, 0, c->past + c->n, c->scale);
		zf_attend_finish(&w, n);
		for (int64_t q = 0; q < n; q++)
			zf_tile_unpack(c->dtype, c->out, out_at(c, kv_head, lane0 + q), 0, w.o + q * w.ld, w.ld, 1, c->dim);
		return;
	}
	int64_t from = (c->chunk0 + chunk) * CHUNK;
	zf_attend_run(&w, &keys, &lanes, from, from + CHUNK, c->scale);
	for (int64_t q = 0; q < n; q++) {
		float *to = part(c, kv_head, chunk, q);
		memcpy(to, w.o + q * w.ld, (size_t)w.ld * sizeof *to);
		to[w.ld] = w.m[q];
		to[w.ld + 1] = w.l[q];
	}
}

/* add_tile adds the chunks of one query onto the first. A chunk in which it sees nothing has the lowest m and counts 0. */
static void add_tile(void *arg, int64_t tile, int thread) {
	(void)thread;
	const struct cached *c = arg;
	int64_t kv_head = tile / c->lanes, lane = tile % c->lanes, ld = zf_round_up(c->dim, ZF_TILE_LANES);
	float *sum = part(c, kv_head, 0, lane), top = sum[ld];
	for (int64_t i = 1; i < c->chunks; i++) {
		float m = part(c, kv_head, i, lane)[ld];
		top = m > top ? m : top;
	}
	float by = zf_exp(sum[ld] - top), l = by * sum[ld + 1];
	zf_tile_scale(sum, ld, &by, 1, ld);
	for (int64_t i = 1; i < c->chunks; i++) {
		const float *p = part(c, kv_head, i, lane);
		by = zf_exp(p[ld] - top);
		l += by * p[ld + 1];
		zf_tile_add_row(sum, by, p, ld);
	}
	by = 1 / l;
	zf_tile_scale(sum, ld, &by, 1, ld);
	zf_tile_unpack(c->dtype, c->out, out_at(c, kv_head, lane), 0, sum, ld, 1, c->dim);
}

zf_status zf_cached_attention(zf_pool *p, int dtype, void *out, const void *qkv, void *keys, void *values, int64_t n,
                              int64_t past, int64_t heads, int64_t kv_heads, int64_t head_dim, int64_t window,
                              float scale) {
	struct cached c = {.pool = p, .dtype = dtype, .out = out, .keys = keys, .values = values, .qkv = qkv};
	c.n = n;
	c.past = past;
	c.heads = heads;
	c.kv_heads = kv_heads;
	c.dim = head_dim;
	c.window = window;
	c.scale = scale;
	c.group = heads / kv_heads;
	c.lanes = n * c.group;
	c.chunks = 1;
	if (c.lanes <= ZF_TILE) {
		c.chunk0 = window > 0 && past >= window ? (past - window + 1) / CHUNK : 0;
		c.chunks = zf_tiles(past + n, CHUNK) - c.chunk0;
	}
	if (c.chunks > 1)
		c.part_floats =
			zf_round_up(kv_heads * c.chunks * c.lanes * (zf_round_up(head_dim, ZF_TILE_LANES) + 2), ZF_TILE_LANES);
	zf_status status = zf_scratch_each(p, c.part_floats + zf_attend_floats(head_dim));
	if (status)
		return status;
	c.parts = zf_scratch(p, 0, 0);
	zf_parallel(p, zf_tiles(n, ZF_TILE), extend_tile, &c);
	zf_parallel(p, kv_heads * c.chunks * zf_tiles(c.lanes, ZF_TILE), attend_tile, &c);
	if (c.chunks > 1)
		zf_parallel(p, kv_heads * c.lanes, add_tile, &c);
	return ZF_OK;
}
