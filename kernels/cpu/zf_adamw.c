#include "zf_simd.h"

/* AdamW over one range, in place, one pass. Source: Loshchilov and Hutter 2019,
 * arXiv:1711.05101, algorithm 2, in torch.optim.AdamW's order of operations. Every operation
 * is rounded to f32 on its own, and division and square root are IEEE's, which vdivps and vsqrtps are:
 * the same bits on every path. */

struct update {
	int out_dtype; /* of out, when there is one */
	void *out;
	float *p, *m, *v;
	const float *g;
	int64_t n;
	const zf_adamw_scalars *s;
};

static void update_portable(const struct update *u, int64_t lo, int64_t hi) {
	const zf_adamw_scalars *s = u->s;
	for (int64_t i = lo; i < hi; i++) {
		float g = u->g[i] * s->grad_scale;
		float m = u->m[i] * s->beta1 + g * s->one_minus_beta1;
		float v = u->v[i] * s->beta2 + (g * g) * s->one_minus_beta2;
		float d = zf_sqrt(v) * s->inv_sqrt_bias2 + s->eps;
		float p = u->p[i] * s->decay - s->step_size * (m / d);
		u->m[i] = m;
		u->v[i] = v;
		u->p[i] = p;
		if (u->out)
			zf_store_act(u->out_dtype, u->out, i, p);
	}
}

#ifdef ZF_X86

#define MUL(a, b) _mm256_mul_ps(a, b)
#define ADD(a, b) _mm256_add_ps(a, b)
ZF_AVX2 static void update_avx2(const struct update *u, int64_t lo, int64_t hi) {
	const zf_adamw_scalars *s = u->s;
	const __m256 scale = _mm256_set1_ps(s->grad_scale), b1 = _mm256_set1_ps(s->beta1), b2 = _mm256_set1_ps(s->beta2),
				 c1 = _mm256_set1_ps(s->one_minus_beta1), c2 = _mm256_set1_ps(s->one_minus_beta2),
				 step = _mm256_set1_ps(s->step_size), inv = _mm256_set1_ps(s->inv_sqrt_bias2),
				 eps = _mm256_set1_ps(s->eps), decay = _mm256_set1_ps(s->decay);
	int64_t i = lo;
	for (; i + 8 <= hi; i += 8) {
		__m256 g = MUL(_mm256_loadu_ps(u->g + i), scale);
		__m256 m = ADD(MUL(_mm256_loadu_ps(u->m + i), b1), MUL(g, c1));
		__m256 v = ADD(MUL(_mm256_loadu_ps(u->v + i), b2), MUL(MUL(g, g), c2));
		__m256 d = ADD(MUL(_mm256_sqrt_ps(v), inv), eps);
		__m256 p = _mm256_sub_ps(MUL(_mm256_loadu_ps(u->p + i), decay), MUL(step, _mm256_div_ps(m, d)));
		_mm256_storeu_ps(u->m + i, m);
		_mm256_storeu_ps(u->v + i, v);
		_mm256_storeu_ps(u->p + i, p);
		if (u->out)
			zf_store8_act(u->out_dtype, u->out, i, p);
	}
	update_portable(u, i, hi);
}
#undef MUL
#undef ADD

#define MUL(a, b) _mm512_mul_ps(a, b)
#define ADD(a, b) _mm512_add_ps(a, b)
ZF_AVX512 static void update_avx512(const struct update *u, int64_t lo, int64_t hi) {
	const zf_adamw_scalars *s = u->s;
	const __m512 scale = _mm512_set1_ps(s->grad_scale), b1 = _mm512_set1_ps(s->beta1), b2 = _mm512_set1_ps(s->beta2),
				 c1 = _mm512_set1_ps(s->one_minus_beta1), c2 = _mm512_set1_ps(s->one_minus_beta2),
				 step = _mm512_set1_ps(s->step_size), inv = _mm512_set1_ps(s->inv_sqrt_bias2),
				 eps = _mm512_set1_ps(s->eps), decay = _mm512_set1_ps(s->decay);
	for (int64_t i = lo; i < hi; i += 16) {
		__mmask16 k = zf_mask16(hi - i);
		__m512 g = MUL(_mm512_maskz_loadu_ps(k, u->g + i), scale);
		__m512 m = ADD(MUL(_mm512_maskz_loadu_ps(k, u->m + i), b1), MUL(g, c1));
		__m512 v = ADD(MUL(_mm512_maskz_loadu_ps(k, u->v + i), b2), MUL(MUL(g, g), c2));
		__m512 d = ADD(MUL(_mm512_sqrt_ps(v), inv), eps);
		__m512 p = _mm512_sub_ps(MUL(_mm512_maskz_loadu_ps(k, u->p + i), decay), MUL(step, _mm512_div_ps(m, d)));
		_mm512_mask_storeu_ps(u->m + i, k, m);
		_mm512_mask_storeu_ps(u->v + i, k, v);
		_mm512_mask_storeu_ps(u->p + i, k, p);
		if (u->out)
			zf_store16_act(u->out_dtype, u->out, i, k, p);
	}
}
#undef MUL
#undef ADD

#endif

static void update_tile(void *arg, int64_t tile, int thread) {
	(void)thread;
	const struct update *u = arg;
	int64_t lo = tile * ZF_RANGE, hi = zf_min(lo + ZF_RANGE, u->n);
#ifdef ZF_X86
	if (zf_isa() == ZF_ISA_AVX512) {
		update_avx512(u, lo, hi);
		return;
	}
	if (zf_isa() == ZF_ISA_AVX2) {
		update_avx2(u, lo, hi);
		return;
	}
#endif
	update_portable(u, lo, hi);
}

zf_status zf_adamw(zf_pool *pool, int out_dtype, void *out, float *param, float *m, float *v, const float *grad,
                   int64_t n, const zf_adamw_scalars *s) {
	if (out && out_dtype != ZF_F32 && out_dtype != ZF_BF16)
		return ZF_EINVAL;
	struct update u = {out_dtype, out, param, m, v, grad, n, s};
	zf_parallel(pool, zf_tiles(n, ZF_RANGE), update_tile, &u);
	return ZF_OK;
}
