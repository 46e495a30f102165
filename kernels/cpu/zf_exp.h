/* exp and log in f32 for kernels, without libm. Include after zf_simd.h.
 *
 * exp: x = n ln 2 + r with n the nearest integer and |r| <= ln(2)/2; exp(r) = 1 + r + r^2 p(r), p of degree 4 through the
 * Chebyshev nodes of that interval (relative error 1.1e-8); then times 2^n. Compared with f64, the result is within
 * one unit in the last place (0.97 found). exp(NaN) is NaN, exp(inf) and what overflows is inf, and what would be below the
 * smallest normal number, 2^-126, is 0: arithmetic with subnormal numbers is slow, and no softmax can tell.
 *
 * zf_exp8 and zf_exp16 do the same operations and have the same bits. zf_exp computes in f64, for the base instruction
 * set has no fused multiply-add: it may differ from them by a unit in the last place. */
#ifndef ZF_EXP_H
#define ZF_EXP_H

#include "zf_simd.h"

#define ZF_EXP_LOG2E 0x1.715476p+0f
#define ZF_EXP_ROUND 0x1.8p+23f /* added and subtracted: the nearest integer */
#define ZF_EXP_LN2_HI 0x1.62e43p-1f
#define ZF_EXP_LN2_LO (-0x1.05c61p-29f)
#define ZF_EXP_C2 0.5f
#define ZF_EXP_C3 0x1.5554dcp-3f
#define ZF_EXP_C4 0x1.555518p-5f
#define ZF_EXP_C5 0x1.120be2p-7f
#define ZF_EXP_C6 0x1.6d117cp-10f
#define ZF_EXP_MAX 89.0f             /* above it the result overflows */
#define ZF_EXP_MIN (-0x1.5d589ep+6f) /* the smallest x with exp(x) >= 2^-126 */

/* a*b + c. Without the instruction in f64: the product is exact there, and rounding the sum twice differs from
 * rounding it once in some 1 of 2^29 cases. */
static inline float zf_fma(float a, float b, float c) {
#ifdef __FP_FAST_FMAF
	return __builtin_fmaf(a, b, c);
#else
	return (float)((double)a * (double)b + (double)c);
#endif
}

static inline float zf_exp(float x) {
	/* So turned that a NaN passes through; its bits below may be anything. */
	float c = x > ZF_EXP_MAX ? ZF_EXP_MAX : x;
	c = c < ZF_EXP_MIN ? ZF_EXP_MIN : c;
	double d = c, t = d * 0x1.71547652b82fep+0 + 0x1.8p+52, n = t - 0x1.8p+52;
	double r = d - n * 0x1.62e42fefa39efp-1, p = ZF_EXP_C6;
	p = p * r + (double)ZF_EXP_C5;
	p = p * r + (double)ZF_EXP_C4;
	p = p * r + (double)ZF_EXP_C3;
	p = p * r + (double)ZF_EXP_C2;
	p = p * r + 1;
	p = p * r + 1;
	uint64_t u; /* t holds n in its low bits */
	memcpy(&u, &t, sizeof u);
	u = (u + 1023) << 52;
	memcpy(&t, &u, sizeof t);
	return x < ZF_EXP_MIN ? 0.0f : (float)(p * t);
}

/* The natural logarithm of x >= 0, within 0.51 units in the last place: in f64, since a kernel takes few of them. log(0) is
 * -inf, log(inf) inf, that of a NaN or a negative number NaN. x = 2^e m, m in [sqrt(1/2), sqrt(2)); log(m) = 2 artanh(s), s = (m-1)/(m+1),
 * by its series. */
static inline float zf_log(float x) {
	if (!(x > 0) || x > 0x1.fffffep+127f)
		return x == 0 ? -__builtin_inff() : x > 0 ? x : __builtin_nanf("");
	double d = x; /* normal, also where x is not */
	uint64_t u;
	memcpy(&u, &d, sizeof u);
	uint64_t e = (u - 0x3fe6a09e667f3bcdu) >> 52; /* sqrt(1/2): what is below it belongs to the exponent before */
	u -= e << 52;
	memcpy(&d, &u, sizeof d);
	double s = (d - 1) / (d + 1), q = s * s;
	double series = 1 + q * (1.0 / 3 + q * (1.0 / 5 + q * (1.0 / 7 + q * (1.0 / 9 + q * (1.0 / 11)))));
	double n = (double)(int32_t)((uint32_t)e << 20) * 0x1p-20; /* the exponent's 12 bits, with their sign */
	return (float)(n * 0x1.62e42fefa39efp-1 + 2 * s * series);
}

#ifdef ZF_X86

ZF_AVX2 static inline __m256 zf_exp8(__m256 x) {
	const __m256 round = _mm256_set1_ps(ZF_EXP_ROUND), one = _mm256_set1_ps(1.0f), min = _mm256_set1_ps(ZF_EXP_MIN);
	/* min and max return their second operand when one is a NaN. */
	__m256 c = _mm256_max_ps(min, _mm256_min_ps(_mm256_set1_ps(ZF_EXP_MAX), x));
	__m256 t = _mm256_fmadd_ps(c, _mm256_set1_ps(ZF_EXP_LOG2E), round);
	__m256 n = _mm256_sub_ps(t, round);
	__m256 r = _mm256_fnmadd_ps(n, _mm256_set1_ps(ZF_EXP_LN2_HI), c);
	r = _mm256_fnmadd_ps(n, _mm256_set1_ps(ZF_EXP_LN2_LO), r);
	__m256 p = _mm256_fmadd_ps(_mm256_set1_ps(ZF_EXP_C6), r, _mm256_set1_ps(ZF_EXP_C5));
	p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(ZF_EXP_C4));
	p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(ZF_EXP_C3));
	p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(ZF_EXP_C2));
	p = _mm256_fmadd_ps(p, r, one);
	p = _mm256_fmadd_ps(p, r, one);
	__m256i i = _mm256_sub_epi32(_mm256_castps_si256(t), _mm256_castps_si256(round));
	__m256i half = _mm256_srai_epi32(i, 1), bias = _mm256_set1_epi32(127);
	p = _mm256_mul_ps(p, _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(half, bias), 23)));
	p = _mm256_mul_ps(p, _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_sub_epi32(i, half), bias), 23)));
	return _mm256_and_ps(p, _mm256_cmp_ps(x, min, _CMP_NLT_UQ));
}

ZF_AVX512 static inline __m512 zf_exp16(__m512 x) {
	const __m512 round = _mm512_set1_ps(ZF_EXP_ROUND), one = _mm512_set1_ps(1.0f);
	__mmask16 big = _mm512_cmp_ps_mask(x, _mm512_set1_ps(ZF_EXP_MIN), _CMP_NLT_UQ); /* NaN too */
	__m512 c = _mm512_min_ps(_mm512_set1_ps(ZF_EXP_MAX), x);
	__m512 t = _mm512_fmadd_ps(c, _mm512_set1_ps(ZF_EXP_LOG2E), round);
	__m512 n = _mm512_sub_ps(t, round);
	__m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(ZF_EXP_LN2_HI), c);
	r = _mm512_fnmadd_ps(n, _mm512_set1_ps(ZF_EXP_LN2_LO), r);
	__m512 p = _mm512_fmadd_ps(_mm512_set1_ps(ZF_EXP_C6), r, _mm512_set1_ps(ZF_EXP_C5));
	p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(ZF_EXP_C4));
	p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(ZF_EXP_C3));
	p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(ZF_EXP_C2));
	p = _mm512_fmadd_ps(p, r, one);
	p = _mm512_fmadd_ps(p, r, one);
	return _mm512_maskz_scalef_ps(big, p, n);
}

#endif
#endif
