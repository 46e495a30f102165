/* What every kernel file shares: target attributes, roundings, tiles of rows.
 *
 * A kernel file holds one operation: the portable loop, AVX2, AVX-512, then the entry
 * point that picks by zf_isa(). Files are compiled for the base instruction set, so that
 * one binary runs everywhere; the faster versions are functions with a target attribute.
 *
 * Nothing contracts a*b+c: gcc does not in the standard mode that cgo.go sets (-std=c11; cgo admits no
 * -ffp-contract=off), clang is told here. Write an fma where one is wanted. Include this file first. */
#ifndef ZF_SIMD_H
#define ZF_SIMD_H

#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#endif

#include <stdint.h>
#include <string.h>

#include "../zf_kernels.h"

#if defined(__x86_64__)
#define ZF_X86 1
#include <immintrin.h>
#define ZF_AVX2 __attribute__((target("avx2,fma,f16c")))
#define ZF_AVX512 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")))
#endif

static inline uint32_t zf_f32_bits(float f) {
	uint32_t u;
	memcpy(&u, &f, sizeof u);
	return u;
}

static inline float zf_bits_f32(uint32_t u) {
	float f;
	memcpy(&f, &u, sizeof f);
	return f;
}

/* IEEE's square root as one instruction: sqrtf would have to set errno (cgo admits no -fno-math-errno). */
static inline float zf_sqrt(float x) {
#ifdef ZF_X86
	return _mm_cvtss_f32(_mm_sqrt_ss(_mm_set_ss(x)));
#else
	return __builtin_sqrtf(x);
#endif
}

static inline float zf_bf16_to_f32(uint16_t h) { return zf_bits_f32((uint32_t)h << 16); }

/* Round to nearest even; a NaN keeps its sign and upper payload and is made quiet. */
static inline uint16_t zf_f32_to_bf16(float f) {
	uint32_t u = zf_f32_bits(f);
	if ((u & 0x7fffffffu) > 0x7f800000u)
		return (uint16_t)((u >> 16) | 0x40u);
	return (uint16_t)((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}

static inline float zf_load_act(int dtype, const void *x, int64_t i) {
	return dtype == ZF_F32 ? ((const float *)x)[i] : zf_bf16_to_f32(((const uint16_t *)x)[i]);
}

static inline void zf_store_act(int dtype, void *x, int64_t i, float f) {
	if (dtype == ZF_F32)
		((float *)x)[i] = f;
	else
		((uint16_t *)x)[i] = zf_f32_to_bf16(f);
}

/* Elements that need not be aligned: bytes as they came off the wire. */
typedef float zf_unaligned_f32 __attribute__((aligned(1)));
typedef uint16_t zf_unaligned_u16 __attribute__((aligned(1)));

/* A loop written once and compiled for each instruction set: ZF_EVERY_ISA(name, (params), (args)) makes
 * name_avx2 and name_avx512 from the ZF_BODY function name, and name_best, which picks one by zf_isa().
 * The compiler vectorises it. It neither contracts nor reorders, so the bits are the same on each. */
#define ZF_BODY static inline __attribute__((always_inline))
#ifdef ZF_X86
#define ZF_EVERY_ISA(name, params, args)                                                                               \
	ZF_AVX2 static void name##_avx2 params { name args; }                                                              \
	ZF_AVX512 static void name##_avx512 params { name args; }                                                          \
	static void name##_best params {                                                                                   \
		switch (zf_isa()) {                                                                                            \
		case ZF_ISA_AVX512:                                                                                            \
			name##_avx512 args;                                                                                        \
			break;                                                                                                     \
		case ZF_ISA_AVX2:                                                                                              \
			name##_avx2 args;                                                                                          \
			break;                                                                                                     \
		default:                                                                                                       \
			name args;                                                                                                 \
		}                                                                                                              \
	}
#else
#define ZF_EVERY_ISA(name, params, args)                                                                               \
	static void name##_best params { name args; }
#endif

/* Before a loop whose turns do not depend on each other, as when an output is an input of the same index. */
#if defined(__clang__)
#define ZF_INDEPENDENT _Pragma("clang loop vectorize(assume_safety)")
#else
#define ZF_INDEPENDENT _Pragma("GCC ivdep")
#endif

/* Elements of an elementwise kernel that one thread takes at a time: 64 KiB of f32, so that the
 * hand-out costs nothing and a part of a few MB still spreads over many cores. */
#define ZF_RANGE 16384

/* n items in tiles of size each: how many tiles. */
static inline int64_t zf_tiles(int64_t n, int64_t size) { return (n + size - 1) / size; }
static inline int64_t zf_min(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t zf_max(int64_t a, int64_t b) { return a > b ? a : b; }

/* Rows of so many columns that one thread takes at a time. */
static inline int64_t zf_rows_per_tile(int64_t cols) { return zf_max(1, ZF_RANGE / cols); }

/* A sum's or maximum's 32 chains: element i belongs to chain i mod 32, which is two registers of AVX-512 and four of
 * AVX2, and zf_chains_add adds the chains by halves. */
#define ZF_CHAINS 32
ZF_BODY float zf_chains_add(float *s) {
	for (int w = ZF_CHAINS / 2; w > 0; w /= 2)
		for (int j = 0; j < w; j++)
			s[j] += s[j + w];
	return s[0];
}

#ifdef ZF_X86

/* 8 and 16 lanes of act to f32 and back, the same bits as the scalar functions above. */
ZF_AVX2 static inline __m256 zf_bf16x8_to_f32(__m128i h) {
	return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16));
}

ZF_AVX2 static inline __m128i zf_f32x8_to_bf16(__m256 f) {
	__m256i u = _mm256_castps_si256(f);
	__m256i upper = _mm256_srli_epi32(u, 16);
	__m256i odd = _mm256_and_si256(upper, _mm256_set1_epi32(1));
	__m256i rounded = _mm256_srli_epi32(_mm256_add_epi32(_mm256_add_epi32(u, _mm256_set1_epi32(0x7fff)), odd), 16);
	__m256i quiet = _mm256_or_si256(upper, _mm256_set1_epi32(0x40));
	__m256i nan = _mm256_castps_si256(_mm256_cmp_ps(f, f, _CMP_UNORD_Q));
	__m256i r = _mm256_blendv_epi8(rounded, quiet, nan);
	return _mm_packus_epi32(_mm256_castsi256_si128(r), _mm256_extracti128_si256(r, 1));
}

ZF_AVX512 static inline __m512 zf_bf16x16_to_f32(__m256i h) {
	return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16));
}

ZF_AVX512 static inline __m256i zf_f32x16_to_bf16(__m512 f) {
	__m512i u = _mm512_castps_si512(f);
	__m512i upper = _mm512_srli_epi32(u, 16);
	__m512i odd = _mm512_and_si512(upper, _mm512_set1_epi32(1));
	__m512i r = _mm512_srli_epi32(_mm512_add_epi32(_mm512_add_epi32(u, _mm512_set1_epi32(0x7fff)), odd), 16);
	__mmask16 nan = _mm512_cmp_ps_mask(f, f, _CMP_UNORD_Q);
	return _mm512_cvtepi32_epi16(_mm512_mask_or_epi32(r, nan, upper, _mm512_set1_epi32(0x40)));
}

/* The first n of 16 lanes. */
ZF_AVX512 static inline __mmask16 zf_mask16(int64_t n) { return (__mmask16)(n >= 16 ? 0xffff : (1u << n) - 1u); }

ZF_AVX2 static inline __m256 zf_load8_act(int dtype, const void *x, int64_t i) {
	if (dtype == ZF_F32)
		return _mm256_loadu_ps((const float *)x + i);
	return zf_bf16x8_to_f32(_mm_loadu_si128((const __m128i *)((const uint16_t *)x + i)));
}

ZF_AVX2 static inline void zf_store8_act(int dtype, void *x, int64_t i, __m256 f) {
	if (dtype == ZF_F32)
		_mm256_storeu_ps((float *)x + i, f);
	else
		_mm_storeu_si128((__m128i *)((uint16_t *)x + i), zf_f32x8_to_bf16(f));
}

/* Lanes outside the mask read as +0 and are not stored. */
ZF_AVX512 static inline __m512 zf_load16_act(int dtype, const void *x, int64_t i, __mmask16 m) {
	if (dtype == ZF_F32)
		return _mm512_maskz_loadu_ps(m, (const float *)x + i);
	return zf_bf16x16_to_f32(_mm256_maskz_loadu_epi16(m, (const uint16_t *)x + i));
}

ZF_AVX512 static inline void zf_store16_act(int dtype, void *x, int64_t i, __mmask16 m, __m512 f) {
	if (dtype == ZF_F32)
		_mm512_mask_storeu_ps((float *)x + i, m, f);
	else
		_mm256_mask_storeu_epi16((uint16_t *)x + i, m, zf_f32x16_to_bf16(f));
}

#endif
#endif
