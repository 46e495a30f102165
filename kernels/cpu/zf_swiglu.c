#include "zf_simd.h"
#include "zf_exp.h"

/* SwiGLU: y = g*s*u with s = 1/(1 + exp(-g)) the sigmoid of the gate g, and u the other half of the row. Source: Shazeer
 * 2020, arXiv:2002.05202, section 2. Its gradient:
 *
 *     dg = dy*u * s*(1 + g*(1 - s))
 *     du = dy * g*s
 *
 * With e = exp(-|g|) <= 1, the sigmoids of |g| and -|g| are 1/(1+e) and e/(1+e): nothing overflows, and 1 - s, which is one
 * of them, does not cancel. Division is IEEE's: the fast reciprocals of two makers' processors need not agree.
 * gate_up, dgate_up: [rows,2*f] act, gate then up in each row; y, dy: [rows,f] act. */

struct glu {
	int dtype;
	void *out; /* y, or dgate_up */
	const void *dy, *gate_up;
	int64_t rows, f;
};

/* Elements [i, f) of one row. */
static void forward_portable(const struct glu *c, int64_t r, int64_t i) {
	const int dtype = c->dtype;
	const int64_t g0 = r * 2 * c->f, u0 = g0 + c->f, y0 = r * c->f;
	for (; i < c->f; i++) {
		float g = zf_load_act(dtype, c->gate_up, g0 + i), u = zf_load_act(dtype, c->gate_up, u0 + i);
		float e = zf_exp(g < 0 ? g : -g), a = 1.0f / (1.0f + e), s = g < 0 ? e * a : a;
		zf_store_act(dtype, c->out, y0 + i, g * s * u);
	}
}

static void backward_portable(const struct glu *c, int64_t r, int64_t i) {
	const int dtype = c->dtype;
	const int64_t g0 = r * 2 * c->f, u0 = g0 + c->f, y0 = r * c->f;
	for (; i < c->f; i++) {
		float g = zf_load_act(dtype, c->gate_up, g0 + i), u = zf_load_act(dtype, c->gate_up, u0 + i);
		float dy = zf_load_act(dtype, c->dy, y0 + i);
		float e = zf_exp(g < 0 ? g : -g), a = 1.0f / (1.0f + e), b = e * a, s = g < 0 ? b : a, t = g < 0 ? a : b;
		zf_store_act(dtype, c->out, g0 + i, dy * u * (s * (1.0f + g * t)));
		zf_store_act(dtype, c->out, u0 + i, dy * (g * s));
	}
}

#ifdef ZF_X86

#define MUL(a, b) _mm256_mul_ps(a, b)
#define ADD(a, b) _mm256_add_ps(a, b)

/* The sigmoids of |g|, *a, and -|g|, *b. The sign bit chooses between them: of -0 both are 1/2. */
ZF_AVX2 static inline void sigmoids8(__m256 g, __m256 *a, __m256 *b) {
	const __m256 one = _mm256_set1_ps(1.0f);
	__m256 e = zf_exp8(_mm256_or_ps(g, _mm256_set1_ps(-0.0f)));
	*a = _mm256_div_ps(one, ADD(one, e));
	*b = MUL(e, *a);
}

ZF_AVX2 static void forward_avx2(const struct glu *c, int64_t r) {
	const int dtype = c->dtype;
	const int64_t g0 = r * 2 * c->f, u0 = g0 + c->f, y0 = r * c->f;
	int64_t i = 0;
	for (; i + 8 <= c->f; i += 8) {
		__m256 g = zf_load8_act(dtype, c->gate_up, g0 + i), u = zf_load8_act(dtype, c->gate_up, u0 + i), a, b;
		sigmoids8(g, &a, &b);
		zf_store8_act(dtype, c->out, y0 + i, MUL(MUL(g, _mm256_blendv_ps(a, b, g)), u));
	}
	forward_portable(c, r, i);
}

ZF_AVX2 static void backward_avx2(const struct glu *c, int64_t r) {
	const int dtype = c->dtype;
	const __m256 one = _mm256_set1_ps(1.0f);
	const int64_t g0 = r * 2 * c->f, u0 = g0 + c->f, y0 = r * c->f;
	int64_t i = 0;
	for (; i + 8 <= c->f; i += 8) {
		__m256 g = zf_load8_act(dtype, c->gate_up, g0 + i), u = zf_load8_act(dtype, c->gate_up, u0 + i);
		__m256 dy = zf_load8_act(dtype, c->dy, y0 + i), a, b;
		sigmoids8(g, &a, &b);
		__m256 s = _mm256_blendv_ps(a, b, g), t = _mm256_blendv_ps(b, a, g);
		zf_store8_act(dtype, c->out, g0 + i, MUL(MUL(dy, u), MUL(s, ADD(one, MUL(g, t)))));
		zf_store8_act(dtype, c->out, u0 + i, MUL(dy, MUL(g, s)));
	}
	backward_portable(c, r, i);
}
#undef MUL
#undef ADD

#define MUL(a, b) _mm512_mul_ps(a, b)
#define ADD(a, b) _mm512_add_ps(a, b)

ZF_AVX512 static inline void sigmoids16(__m512 g, __m512 *a, __m512 *b) {
	const __m512 one = _mm512_set1_ps(1.0f);
	__m512 e = zf_exp16(_mm512_or_ps(g, _mm512_set1_ps(-0.0f)));
	*a = _mm512_div_ps(one, ADD(one, e));
	*b = MUL(e, *a);
}

ZF_AVX512 static void forward_avx512(const struct glu *c, int64_t r) {
	const int dtype = c->dtype;
	const int64_t g0 = r * 2 * c->f, u0 = g0 + c->f, y0 = r * c->f;
	for (int64_t i = 0; i < c->f; i += 16) {
		const __mmask16 k = zf_mask16(c->f - i);
		__m512 g = zf_load16_act(dtype, c->gate_up, g0 + i, k), u = zf_load16_act(dtype, c->gate_up, u0 + i, k), a, b;
		sigmoids16(g, &a, &b);
		__mmask16 minus = _mm512_movepi32_mask(_mm512_castps_si512(g));
		zf_store16_act(dtype, c->out, y0 + i, k, MUL(MUL(g, _mm512_mask_blend_ps(minus, a, b)), u));
	}
}

ZF_AVX512 static void backward_avx512(const struct glu *c, int64_t r) {
	const int dtype = c->dtype;
	const __m512 one = _mm512_set1_ps(1.0f);
	const int64_t g0 = r * 2 * c->f, u0 = g0 + c->f, y0 = r * c->f;
	for (int64_t i = 0; i < c->f; i += 16) {
		const __mmask16 k = zf_mask16(c->f - i);
		__m512 g = zf_load16_act(dtype, c->gate_up, g0 + i, k), u = zf_load16_act(dtype, c->gate_up, u0 + i, k);
		__m512 dy = zf_load16_act(dtype, c->dy, y0 + i, k), a, b;
		sigmoids16(g, &a, &b);
		__mmask16 minus = _mm512_movepi32_mask(_mm512_castps_si512(g));
		__m512 s = _mm512_mask_blend_ps(minus, a, b), t = _mm512_mask_blend_ps(minus, b, a);
		zf_store16_act(dtype, c->out, g0 + i, k, MUL(MUL(dy, u), MUL(s, ADD(one, MUL(g, t)))));
		zf_store16_act(dtype, c->out, u0 + i, k, MUL(dy, MUL(g, s)));
	}
}
#undef MUL
#undef ADD

#endif

static void forward_tile(void *arg, int64_t tile, int thread) {
	(void)thread;
	const struct glu *c = arg;
	int64_t size = zf_rows_per_tile(c->f), lo = tile * size, hi = zf_min(lo + size, c->rows);
	for (int64_t r = lo; r < hi; r++) {
#ifdef ZF_X86
		if (zf_isa() == ZF_ISA_AVX512) {
			forward_avx512(c, r);
			continue;
		}
		if (zf_isa() == ZF_ISA_AVX2) {
			forward_avx2(c, r);
			continue;
		}
#endif
		forward_portable(c, r, 0);
	}
}

static void backward_tile(void *arg, int64_t tile, int thread) {
	(void)thread;
	const struct glu *c = arg;
	int64_t size = zf_rows_per_tile(c->f), lo = tile * size, hi = zf_min(lo + size, c->rows);
	for (int64_t r = lo; r < hi; r++) {
#ifdef ZF_X86
		if (zf_isa() == ZF_ISA_AVX512) {
			backward_avx512(c, r);
			continue;
		}
		if (zf_isa() == ZF_ISA_AVX2) {
			backward_avx2(c, r);
			continue;
		}
#endif
		backward_portable(c, r, 0);
	}
}

zf_status zf_swiglu(zf_pool *p, int dtype, void *y, const void *gate_up, int64_t rows, int64_t f) {
	if (dtype != ZF_F32 && dtype != ZF_BF16)
		return ZF_EINVAL;
	struct glu c = {dtype, y, NULL, gate_up, rows, f};
	zf_parallel(p, zf_tiles(rows, zf_rows_per_tile(f)), forward_tile, &c);
	return ZF_OK;
}

zf_status zf_swiglu_backward(zf_pool *p, int dtype, void *dgate_up, const void *dy, const void *gate_up, int64_t rows,
                             int64_t f) {
	if (dtype != ZF_F32 && dtype != ZF_BF16)
		return ZF_EINVAL;
	struct glu c = {dtype, dgate_up, dy, gate_up, rows, f};
	zf_parallel(p, zf_tiles(rows, zf_rows_per_tile(f)), backward_tile, &c);
	return ZF_OK;
}
