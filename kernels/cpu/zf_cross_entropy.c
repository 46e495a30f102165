#include "zf_simd.h"
#include "zf_exp.h"

/* Cross-entropy with softmax, by rows: with m = max(x) and z = sum(exp(x - m)),
 *
 *     loss = log(z) + m - x[label]
 *     dlogits = scale * (exp(x - m)/z - [i = label])
 *
 * The first pass over a row finds m and z together: z is kept relative to the largest number so far, and scaled when a chunk
 * brings a larger one (Milakov and Gimelshein 2018, arXiv:1805.02867, algorithm 3). The second, over a row that the
 * cache still holds, writes the gradient.
 *
 * m passes NaNs over, as comparisons do, but z does not: a row with a NaN or +inf has a loss and a gradient of NaN.
 * logits: [rows,v] f32; dlogits: [rows,v] f32 or bf16; loss, labels: [rows]. */

/* A chunk's exponentials are added in ZF_CHAINS chains in f32; chunks are added in f64. */
#define CHUNK 1024

struct rows {
	int ddtype;
	float *loss;
	void *dlogits;
	const float *logits;
	const int32_t *labels;
	int64_t v;
	float scale;
};

ZF_BODY float maximum(const float *x, int64_t n) {
	float s[ZF_CHAINS];
	for (int j = 0; j < ZF_CHAINS; j++)
		s[j] = -__builtin_inff();
	int64_t i = 0;
	for (; i + ZF_CHAINS <= n; i += ZF_CHAINS)
		for (int j = 0; j < ZF_CHAINS; j++)
			s[j] = x[i + j] > s[j] ? x[i + j] : s[j];
	for (int j = 0; i + j < n; j++)
		s[j] = x[i + j] > s[j] ? x[i + j] : s[j];
	for (int w = ZF_CHAINS / 2; w > 0; w /= 2)
		for (int j = 0; j < w; j++)
			s[j] = s[j + w] > s[j] ? s[j + w] : s[j];
	return s[0];
}

/* The sum of exp(x - m) over n numbers. */
static float sum_portable(const float *x, int64_t n, float m) {
	float s[ZF_CHAINS] = {0};
	for (int64_t i = 0; i < n; i += ZF_CHAINS)
		for (int j = 0; j < ZF_CHAINS && i + j < n; j++)
			s[j] += zf_exp(x[i + j] - m);
	return zf_chains_add(s);
}

/* out = exp(x - m) * factor. */
static void gradient_portable(int dtype, void *out, const float *x, int64_t i, int64_t n, float m, float factor) {
	for (; i < n; i++)
		zf_store_act(dtype, out, i, zf_exp(x[i] - m) * factor);
}

ZF_BODY void maximum_to(float *m, const float *x, int64_t n) { *m = maximum(x, n); }
ZF_EVERY_ISA(maximum_to, (float *m, const float *x, int64_t n), (m, x, n))

#ifdef ZF_X86

ZF_AVX2 static float sum_avx2(const float *x, int64_t n, float m) {
	const __m256 shift = _mm256_set1_ps(m);
	__m256 a[ZF_CHAINS / 8];
	for (int j = 0; j < ZF_CHAINS / 8; j++)
		a[j] = _mm256_setzero_ps();
	int64_t i = 0;
	for (; i + ZF_CHAINS <= n; i += ZF_CHAINS)
		for (int j = 0; j < ZF_CHAINS / 8; j++)
			a[j] = _mm256_add_ps(a[j], zf_exp8(_mm256_sub_ps(_mm256_loadu_ps(x + i + 8 * j), shift)));
	float s[ZF_CHAINS];
	for (int j = 0; j < ZF_CHAINS / 8; j++)
		_mm256_storeu_ps(s + 8 * j, a[j]);
	for (int j = 0; i + j < n; j++)
		s[j] += zf_exp(x[i + j] - m);
	return zf_chains_add(s);
}

ZF_AVX2 static void gradient_avx2(int dtype, void *out, const float *x, int64_t n, float m, float factor) {
	const __m256 shift = _mm256_set1_ps(m), times = _mm256_set1_ps(factor);
	int64_t i = 0;
	for (; i + 8 <= n; i += 8)
		zf_store8_act(dtype, out, i, _mm256_mul_ps(zf_exp8(_mm256_sub_ps(_mm256_loadu_ps(x + i), shift)), times));
	gradient_portable(dtype, out, x, i, n, m, factor);
}

ZF_AVX512 static float sum_avx512(const float *x, int64_t n, float m) {
	const __m512 shift = _mm512_set1_ps(m);
	__m512 a = _mm512_setzero_ps(), b = a;
	for (int64_t i = 0; i < n; i += ZF_CHAINS) {
		const __mmask16 ka = zf_mask16(n - i), kb = zf_mask16(zf_max(n - i - 16, 0));
		__m512 xa = _mm512_maskz_loadu_ps(ka, x + i), xb = _mm512_maskz_loadu_ps(kb, x + i + 16);
		a = _mm512_mask_add_ps(a, ka, a, zf_exp16(_mm512_sub_ps(xa, shift)));
		b = _mm512_mask_add_ps(b, kb, b, zf_exp16(_mm512_sub_ps(xb, shift)));
	}
	float s[ZF_CHAINS];
	_mm512_storeu_ps(s, a);
	_mm512_storeu_ps(s + 16, b);
	return zf_chains_add(s);
}

ZF_AVX512 static void gradient_avx512(int dtype, void *out, const float *x, int64_t n, float m, float factor) {
	const __m512 shift = _mm512_set1_ps(m), times = _mm512_set1_ps(factor);
	for (int64_t i = 0; i < n; i += 16) {
		const __mmask16 k = zf_mask16(n - i);
		__m512 e = zf_exp16(_mm512_sub_ps(_mm512_maskz_loadu_ps(k, x + i), shift));
		zf_store16_act(dtype, out, i, k, _mm512_mul_ps(e, times));
	}
}

#endif

static float sum_best(const float *x, int64_t n, float m) {
#ifdef ZF_X86
	if (zf_isa() == ZF_ISA_AVX512)
		return sum_avx512(x, n, m);
	if (zf_isa() == ZF_ISA_AVX2)
		return sum_avx2(x, n, m);
#endif
	return sum_portable(x, n, m);
}

static void gradient_best(int dtype, void *out, const float *x, int64_t n, float m, float factor) {
#ifdef ZF_X86
	if (zf_isa() == ZF_ISA_AVX512) {
		gradient_avx512(dtype, out, x, n, m, factor);
		return;
	}
	if (zf_isa() == ZF_ISA_AVX2) {
		gradient_avx2(dtype, out, x, n, m, factor);
		return;
	}
#endif
	gradient_portable(dtype, out, x, 0, n, m, factor);
}

static void row_tile(void *arg, int64_t r, int thread) {
	(void)thread;
	const struct rows *c = arg;
	const int64_t bytes = c->ddtype == ZF_F32 ? 4 : 2, label = c->labels[r];
	const float *x = c->logits + r * c->v;
	char *d = c->dlogits ? (char *)c->dlogits + r * c->v * bytes : NULL;
	if (label < 0) {
		c->loss[r] = 0;
		if (d)
			memset(d, 0, (size_t)(c->v * bytes));
		return;
	}
	float m = -__builtin_inff(), shift = 0; /* while all are -inf: their exponentials are 0 */
	double z = 0;
	for (int64_t lo = 0; lo < c->v; lo += CHUNK) {
		float chunk;
		const int64_t n = zf_min(CHUNK, c->v - lo);
		maximum_to_best(&chunk, x + lo, n);
		if (chunk > m) {
			z *= zf_exp(m - chunk);
			m = shift = chunk;
		}
		z += sum_best(x + lo, n, shift);
	}
	const float at = x[label];
	c->loss[r] = (float)((double)m - (double)at + (double)zf_log((float)z));
	if (!d)
		return;
	gradient_best(c->ddtype, d, x, c->v, shift, (float)((double)c->scale / z));
	zf_store_act(c->ddtype, d, label, (float)((double)c->scale * ((double)zf_exp(at - shift) / z - 1)));
}

zf_status zf_cross_entropy(zf_pool *p, int ddtype, float *loss, void *dlogits, const float *logits,
                           const int32_t *labels, int64_t rows, int64_t v, float scale) {
	if (dlogits && ddtype != ZF_F32 && ddtype != ZF_BF16)
		return ZF_EINVAL;
	for (int64_t r = 0; r < rows; r++)
		if (labels[r] < -1 || labels[r] >= v)
			return ZF_EID;
	struct rows c = {ddtype, loss, dlogits, logits, labels, v, scale};
	zf_parallel(p, rows, row_tile, &c);
	return ZF_OK;
}
