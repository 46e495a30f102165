/* Attention of one tile of queries over tiles of keys with a running softmax: Dao 2023, arXiv:2307.08691, algorithm 1,
 * with the scores turned. zf_attention.h says what for. */
#include "zf_attention.h"
#include "zf_exp.h"

/* Below every score but -inf, and finite, so that what nobody has seen yet scales by exp(0) and not by exp(inf - inf). */
#define LOWEST (-0x1.fffffep+127f)

/* ---- Who sees what ---------------------------------------------------------------- */

void zf_lanes_end(struct zf_lanes *l, int64_t n) {
	l->n = n;
	for (int64_t q = n; q < ZF_TILE; q++) {
		l->first[q] = INT32_MAX;
		l->last[q] = -1;
	}
	l->lowest = INT32_MAX;
	l->highest = -1;
	for (int64_t q = 0; q < n; q++) {
		int i = (int)(q / ZF_TILE_LANES);
		if (q % ZF_TILE_LANES == 0)
			l->least[i] = l->most[i] = l->first[q];
		l->least[i] = l->first[q] < l->least[i] ? l->first[q] : l->least[i];
		l->most[i] = l->first[q] > l->most[i] ? l->first[q] : l->most[i];
		l->lowest = l->least[i] < l->lowest ? l->least[i] : l->lowest;
		l->highest = l->most[i] > l->highest ? l->most[i] : l->highest;
	}
}

int zf_spans(const struct zf_lanes *l, int64_t key0, int64_t keys, struct zf_span out[ZF_SPANS]) {
	if (l->highest <= key0 && l->last[0] >= key0 + keys - 1) {
		out[0] = (struct zf_span){0, l->n, 0, keys, 0};
		return 1;
	}
	int n = 0;
	for (int64_t q = 0; q < l->n; q += ZF_TILE_LANES) {
		int64_t lanes = zf_min(ZF_TILE_LANES, l->n - q), i = q / ZF_TILE_LANES;
		int64_t a = l->least[i] > key0 ? (l->least[i] - key0) / ZF_TILE_ROWS * ZF_TILE_ROWS : 0;
		int64_t b = zf_min(keys, zf_round_up(l->last[q + lanes - 1] + 1 - key0, ZF_TILE_ROWS));
		if (a < b) {
			int masked = l->most[i] > key0 + a || l->last[q] < key0 + b - 1;
			out[n++] = (struct zf_span){q, lanes, a, b, masked};
		}
	}
	return n;
}

void zf_to_lanes(float *c, const float *s, const float *b, int64_t ld, uint64_t bad, const struct zf_span *p,
                 const struct zf_lanes *l, int64_t key0) {
	if (!p->masked)
		bad = 0;
	for (int64_t j = p->a; j < p->b;) {
		int64_t k = 0;
		while (j + k < p->b && !(bad >> (j + k) & 1))
			k++;
		if (k > 0)
			zf_tile_product_turned(c + p->q * ld, ld, s + j * ZF_TILE + p->q, ZF_TILE, b + j * ld, ld, p->n, ld, k, 1);
		j += k;
		if (j == p->b)
			return;
		for (int64_t q = p->q; q < p->q + p->n; q++)
			if (zf_sees(l, q, key0 + j))
				zf_tile_add_row(c + q * ld, s[j * ZF_TILE + q], b + j * ld, ld);
		j++;
	}
}

void zf_to_keys(float *c, const float *s, const float *b, int64_t ld, uint64_t bad, const struct zf_span *p,
                const struct zf_lanes *l, int64_t key0) {
	if (!p->masked)
		bad = 0;
	for (int64_t q = p->q; q < p->q + p->n;) {
		int64_t k = 0;
		while (q + k < p->q + p->n && !(bad >> (q + k) & 1))
			k++;
		if (k > 0)
			zf_tile_product(c + p->a * ld, ld, s + p->a * ZF_TILE + q, ZF_TILE, b + q * ld, ld, p->b - p->a, ld, k, 1);
		q += k;
		if (q == p->q + p->n)
			return;
		for (int64_t j = p->a; j < p->b; j++)
			if (zf_sees(l, q, key0 + j))
				zf_tile_add_row(c + j * ld, s[j * ZF_TILE + q], b + q * ld, ld);
		q++;
	}
}

zf_status zf_documents_ok(const struct zf_attention_shape *s) {
	for (int64_t b = 0; b < s->b; b++)
		for (int64_t i = 0; i < s->t; i++) {
			int32_t d = s->doc_start[b * s->t + i];
			if (d < 0 || d > i)
				return ZF_EID;
		}
	return ZF_OK;
}

void zf_document_lanes(struct zf_lanes *l, const struct zf_attention_shape *s, int64_t b, int64_t q0, int64_t n) {
	for (int64_t q = 0; q < n; q++) {
		int64_t first = s->doc_start[b * s->t + q0 + q];
		if (s->window > 0 && first < q0 + q - s->window + 1)
			first = q0 + q - s->window + 1;
		l->first[q] = (int32_t)first;
		l->last[q] = (int32_t)(q0 + q);
	}
	zf_lanes_end(l, n);
}

struct zf_keys zf_sequence_keys(const struct zf_attention_shape *s, int64_t b, int64_t h) {
	int64_t group = h / (s->heads / s->kv_heads), stride = zf_qkv_stride(s);
	int64_t k_at = b * s->t * stride + (s->heads + group) * s->dim;
	return (struct zf_keys){s->dtype, s->qkv, s->qkv, k_at, k_at + s->kv_heads * s->dim, stride, s->dim};
}

/* ---- Softmax ---------------------------------------------------------------------- */

/* weigh turns the scores of a span into weights exp(s*scale - m), with m the greatest so far, and updates m and l of its
 * lanes; by is what the sums so far are worth now. Masked pairs weigh 0. A score that is NaN never is the
 * greatest, and its weight is NaN: it is seen in l and in o. */
struct weigh {
	float *s, *m, *l, *by; /* s: the row of the tile's first key */
	const int32_t *first, *last;
	int64_t key0;
	float scale;
};

static void weigh_portable(const struct weigh *w, const struct zf_span *p) {
	for (int64_t q = p->q; q < p->q + p->n; q++) {
		float top = w->m[q], sum = 0;
		for (int64_t j = p->a; j < p->b; j++) {
			float x = w->s[j * ZF_TILE + q] * w->scale;
			int64_t key = w->key0 + j;
			if (x > top && key >= w->first[q] && key <= w->last[q])
				top = x;
		}
		w->by[q] = zf_exp(w->m[q] - top);
		for (int64_t j = p->a; j < p->b; j++) {
			int64_t key = w->key0 + j;
			float x = zf_fma(w->s[j * ZF_TILE + q], w->scale, -top), e = 0;
			if (key >= w->first[q] && key <= w->last[q])
				e = zf_exp(x);
			w->s[j * ZF_TILE + q] = e;
			sum += e;
		}
		w->m[q] = top;
		w->l[q] = w->l[q] * w->by[q] + sum;
	}
}

#ifdef ZF_X86

ZF_AVX2 static inline __m256 open8(__m256i first, __m256i last, int64_t key) {
	__m256i j = _mm256_set1_epi32((int32_t)key);
	return _mm256_castsi256_ps(_mm256_andnot_si256(
		_mm256_cmpgt_epi32(first, j), _mm256_cmpgt_epi32(_mm256_add_epi32(last, _mm256_set1_epi32(1)), j)));
}

ZF_AVX2 static void weigh_avx2(const struct weigh *w, const struct zf_span *p) {
	const __m256 scale = _mm256_set1_ps(w->scale);
	for (int64_t q = p->q; q < p->q + p->n; q += 8) {
		const __m256i first = _mm256_loadu_si256((const __m256i *)(w->first + q)),
					  last = _mm256_loadu_si256((const __m256i *)(w->last + q));
		float *s = w->s + q;
		__m256 old = _mm256_loadu_ps(w->m + q), top = old, sum = _mm256_setzero_ps();
		for (int64_t j = p->a; j < p->b; j++) { /* max returns its second operand when one is a NaN */
			__m256 up = _mm256_max_ps(_mm256_mul_ps(_mm256_loadu_ps(s + j * ZF_TILE), scale), top);
			top = p->masked ? _mm256_blendv_ps(top, up, open8(first, last, w->key0 + j)) : up;
		}
		__m256 by = zf_exp8(_mm256_sub_ps(old, top));
		for (int64_t j = p->a; j < p->b; j++) {
			__m256 e = zf_exp8(_mm256_fmsub_ps(_mm256_loadu_ps(s + j * ZF_TILE), scale, top));
			if (p->masked)
				e = _mm256_and_ps(e, open8(first, last, w->key0 + j));
			_mm256_storeu_ps(s + j * ZF_TILE, e);
			sum = _mm256_add_ps(sum, e);
		}
		_mm256_storeu_ps(w->m + q, top);
		_mm256_storeu_ps(w->by + q, by);
		_mm256_storeu_ps(w->l + q, _mm256_fmadd_ps(_mm256_loadu_ps(w->l + q), by, sum));
	}
}

ZF_AVX512 static inline __mmask16 open16(__m512i first, __m512i last, int64_t key) {
	__m512i j = _mm512_set1_epi32((int32_t)key);
	return _mm512_cmple_epi32_mask(first, j) & _mm512_cmple_epi32_mask(j, last);
}

ZF_AVX512 static void weigh_avx512(const struct weigh *w, const struct zf_span *p) {
	const __m512 scale = _mm512_set1_ps(w->scale);
	for (int64_t q = p->q; q < p->q + p->n; q += 16) {
		const __m512i first = _mm512_loadu_si512(w->first + q), last = _mm512_loadu_si512(w->last + q);
		float *s = w->s + q;
		__m512 old = _mm512_loadu_ps(w->m + q), top = old, other = old, sum = _mm512_setzero_ps();
		int64_t j = p->a;
		if (!p->masked) /* two chains: max has a latency of four */
			for (; j + 2 <= p->b; j += 2) {
				top = _mm512_max_ps(_mm512_mul_ps(_mm512_loadu_ps(s + j * ZF_TILE), scale), top);
				other = _mm512_max_ps(_mm512_mul_ps(_mm512_loadu_ps(s + (j + 1) * ZF_TILE), scale), other);
			}
		for (; j < p->b; j++) { /* max returns its second operand when one is a NaN */
			__mmask16 open = p->masked ? open16(first, last, w->key0 + j) : 0xffff;
			top = _mm512_mask_max_ps(top, open, _mm512_mul_ps(_mm512_loadu_ps(s + j * ZF_TILE), scale), top);
		}
		top = _mm512_max_ps(top, other);
		__m512 by = zf_exp16(_mm512_sub_ps(old, top));
		for (j = p->a; j < p->b; j++) {
			__m512 e = zf_exp16(_mm512_fmsub_ps(_mm512_loadu_ps(s + j * ZF_TILE), scale, top));
			if (p->masked)
				e = _mm512_maskz_mov_ps(open16(first, last, w->key0 + j), e);
			_mm512_storeu_ps(s + j * ZF_TILE, e);
			sum = _mm512_add_ps(sum, e);
		}
		_mm512_storeu_ps(w->m + q, top);
		_mm512_storeu_ps(w->by + q, by);
		_mm512_storeu_ps(w->l + q, _mm512_fmadd_ps(_mm512_loadu_ps(w->l + q), by, sum));
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

/* ---- A tile of queries ------------------------------------------------------------ */

int64_t zf_attend_floats(int64_t dim) {
	int64_t ld = zf_round_up(dim, ZF_TILE_LANES);
	return 5 * ZF_TILE * ld + ZF_TILE * ZF_TILE + 3 * ZF_TILE;
}

struct zf_attend zf_attend_place(float *f, int64_t dim) {
	int64_t ld = zf_round_up(dim, ZF_TILE_LANES), rows = ZF_TILE * ld;
	struct zf_attend w = {.ld = ld, .q = f, .qt = f + rows, .k = f + 2 * rows, .v = f + 3 * rows, .o = f + 4 * rows};
	w.s = f + 5 * rows;
	w.m = w.s + ZF_TILE * ZF_TILE;
	w.l = w.m + ZF_TILE;
	w.by = w.l + ZF_TILE;
	return w;
}

void zf_attend_run(struct zf_attend *w, const struct zf_keys *k, const struct zf_lanes *l, int64_t from, int64_t to,
                   float scale) {
	int64_t ld = w->ld;
	zf_tile_turn(w->qt, ZF_TILE, w->q, ld, l->n, ld);
	memset(w->o, 0, (size_t)(zf_round_up(l->n, ZF_TILE_ROWS) * ld) * sizeof *w->o);
	for (int64_t q = 0; q < ZF_TILE; q++) {
		w->m[q] = LOWEST;
		w->l[q] = 0;
	}
	int64_t low = l->lowest / ZF_TILE * ZF_TILE;
	from = from > low ? from : low;
	to = zf_min(to, l->last[l->n - 1] + 1);
	for (int64_t key0 = from; key0 < to; key0 += ZF_TILE) {
		struct zf_span spans[ZF_SPANS];
		int64_t keys = zf_min(ZF_TILE, to - key0);
		int n = zf_spans(l, key0, keys, spans);
		if (n == 0)
			continue;
		zf_tile_pack(w->k, ld, k->dtype, k->k, k->k_at + key0 * k->stride, k->stride, keys, k->dim);
		uint64_t bad = zf_tile_pack(w->v, ld, k->dtype, k->v, k->v_at + key0 * k->stride, k->stride, keys, k->dim);
		struct weigh weights = {w->s, w->m, w->l, w->by, l->first, l->last, key0, scale};
		for (int i = 0; i < n; i++) {
			const struct zf_span *p = &spans[i];
			zf_tile_product(w->s + p->a * ZF_TILE + p->q, ZF_TILE, w->k + p->a * ld, ld, w->qt + p->q, ZF_TILE,
			                p->b - p->a, p->n, k->dim, 0);
			weigh(&weights, p);
			if (key0 > from)
				zf_tile_scale(w->o + p->q * ld, ld, w->by + p->q, p->n, ld);
			zf_to_lanes(w->o, w->s, w->v, ld, bad, p, l, key0);
		}
	}
}

void zf_attend_finish(struct zf_attend *w, int64_t lanes) {
	for (int64_t q = 0; q < lanes; q++)
		w->by[q] = 1 / w->l[q];
	zf_tile_scale(w->o, w->ld, w->by, lanes, w->ld);
}
