#include "zf_int8.h"

/* IEEE binary16. Both directions give the bits of vcvtph2ps and vcvtps2ph, whose NaNs keep their sign and
 * upper payload and are made quiet. */
static inline float f16_to_f32(uint16_t h) {
	uint32_t sign = (uint32_t)(h & 0x8000u) << 16, exp = (h >> 10) & 0x1fu, man = h & 0x3ffu;
	if (exp == 0x1f)
		return zf_bits_f32(sign | 0x7f800000u | (man ? 0x400000u : 0) | man << 13);
	if (exp == 0) { /* zero, or man * 2^-24, which f32 holds exactly */
		float f = (float)man * 0x1p-24f;
		return zf_bits_f32(sign | zf_f32_bits(f));
	}
	return zf_bits_f32(sign | (exp + 112) << 23 | man << 13);
}

static inline uint16_t f32_to_f16(float f) {
	uint32_t u = zf_f32_bits(f), sign = (u >> 16) & 0x8000u, a = u & 0x7fffffffu;
	if (a > 0x7f800000u)
		return (uint16_t)(sign | 0x7e00u | ((a >> 13) & 0x1ffu));
	if (a >= 0x477ff000u) /* 65520, the midpoint above the largest finite value, rounds to infinity */
		return (uint16_t)(sign | 0x7c00u);
	if (a < 0x38800000u) { /* below 2^-14: a multiple of 2^-24; 0.5f's ulp is 2^-24, so the sum rounds there */
		float r = zf_bits_f32(a) + 0.5f;
		return (uint16_t)(sign | (zf_f32_bits(r) - 0x3f000000u));
	}
	uint32_t odd = (a >> 13) & 1u;
	return (uint16_t)(sign | ((a - (112u << 23) + 0xfffu + odd) >> 13));
}

/* f16 has its own three versions, since the compiler does not find the instructions. */
static void widen_f16(float *dst, const uint16_t *src, int64_t n) {
	for (int64_t i = 0; i < n; i++)
		dst[i] = f16_to_f32(src[i]);
}

static void narrow_f16(uint16_t *dst, const float *src, int64_t n) {
	for (int64_t i = 0; i < n; i++)
		dst[i] = f32_to_f16(src[i]);
}

#ifdef ZF_X86
ZF_AVX2 static void widen_f16_avx2(float *dst, const uint16_t *src, int64_t n) {
	int64_t i = 0;
	for (; i + 8 <= n; i += 8)
		_mm256_storeu_ps(dst + i, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(src + i))));
	widen_f16(dst + i, src + i, n - i);
}

ZF_AVX2 static void narrow_f16_avx2(uint16_t *dst, const float *src, int64_t n) {
	int64_t i = 0;
	for (; i + 8 <= n; i += 8)
		_mm_storeu_si128((__m128i *)(dst + i), _mm256_cvtps_ph(_mm256_loadu_ps(src + i), _MM_FROUND_TO_NEAREST_INT));
	narrow_f16(dst + i, src + i, n - i);
}

ZF_AVX512 static void widen_f16_avx512(float *dst, const uint16_t *src, int64_t n) {
	for (int64_t i = 0; i < n; i += 16) {
		__mmask16 k = zf_mask16(n - i);
		_mm512_mask_storeu_ps(dst + i, k, _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(k, src + i)));
	}
}

ZF_AVX512 static void narrow_f16_avx512(uint16_t *dst, const float *src, int64_t n) {
	for (int64_t i = 0; i < n; i += 16) {
		__mmask16 k = zf_mask16(n - i);
		__m256i h = _mm512_cvtps_ph(_mm512_maskz_loadu_ps(k, src + i), _MM_FROUND_TO_NEAREST_INT);
		_mm256_mask_storeu_epi16(dst + i, k, h);
	}
}
#endif

static void widen_f16_best(float *dst, const uint16_t *src, int64_t n) {
#ifdef ZF_X86
	if (zf_isa() == ZF_ISA_AVX512) {
		widen_f16_avx512(dst, src, n);
		return;
	}
	if (zf_isa() == ZF_ISA_AVX2) {
		widen_f16_avx2(dst, src, n);
		return;
	}
#endif
	widen_f16(dst, src, n);
}

static void narrow_f16_best(uint16_t *dst, const float *src, int64_t n) {
#ifdef ZF_X86
	if (zf_isa() == ZF_ISA_AVX512) {
		narrow_f16_avx512(dst, src, n);
		return;
	}
	if (zf_isa() == ZF_ISA_AVX2) {
		narrow_f16_avx2(dst, src, n);
		return;
	}
#endif
	narrow_f16(dst, src, n);
}

ZF_BODY void widen_bf16(float *dst, const uint16_t *src, int64_t n) {
	for (int64_t i = 0; i < n; i++)
		dst[i] = zf_bf16_to_f32(src[i]);
}
ZF_EVERY_ISA(widen_bf16, (float *dst, const uint16_t *src, int64_t n), (dst, src, n))

ZF_BODY void narrow_bf16(uint16_t *dst, const float *src, int64_t n) {
	for (int64_t i = 0; i < n; i++)
		dst[i] = zf_f32_to_bf16(src[i]);
}
ZF_EVERY_ISA(narrow_bf16, (uint16_t * dst, const float *src, int64_t n), (dst, src, n))

ZF_BODY void widen_int8(float *dst, const char *src, int64_t blocks) {
	for (int64_t i = 0; i < blocks; i++)
		zf_int8_widen(dst + i * ZF_INT8_BLOCK, src + i * ZF_INT8_BYTES);
}
ZF_EVERY_ISA(widen_int8, (float *dst, const char *src, int64_t blocks), (dst, src, blocks))

ZF_BODY void narrow_int8(char *dst, const float *src, int64_t blocks) {
	for (int64_t i = 0; i < blocks; i++)
		zf_int8_narrow(dst + i * ZF_INT8_BYTES, src + i * ZF_INT8_BLOCK);
}
ZF_EVERY_ISA(narrow_int8, (char *dst, const float *src, int64_t blocks), (dst, src, blocks))

struct convert {
	int dst_dtype, src_dtype;
	void *dst;
	const void *src;
	int64_t n;
};

static void widen(int dtype, float *dst, const uint16_t *src, int64_t n) {
	if (dtype == ZF_F16)
		widen_f16_best(dst, src, n);
	else
		widen_bf16_best(dst, src, n);
}

static void narrow(int dtype, uint16_t *dst, const float *src, int64_t n) {
	if (dtype == ZF_F16)
		narrow_f16_best(dst, src, n);
	else
		narrow_bf16_best(dst, src, n);
}

static int width(int dtype) { return dtype == ZF_F32 ? 4 : 2; }

/* Between the two short formats the way is through f32, which holds both exactly. */
static void convert_tile(void *arg, int64_t tile, int thread) {
	(void)thread;
	const struct convert *o = arg;
	int64_t lo = tile * ZF_RANGE, n = zf_min(ZF_RANGE, o->n - lo);
	char *dst = (char *)o->dst + lo * width(o->dst_dtype);
	const char *src = (const char *)o->src + lo * width(o->src_dtype);
	if (o->dst_dtype == o->src_dtype) {
		memcpy(dst, src, (size_t)(n * width(o->dst_dtype)));
	} else if (o->src_dtype == ZF_F32) {
		narrow(o->dst_dtype, (uint16_t *)dst, (const float *)src, n);
	} else if (o->dst_dtype == ZF_F32) {
		widen(o->src_dtype, (float *)dst, (const uint16_t *)src, n);
	} else {
		float wide[512];
		for (int64_t i = 0; i < n; i += 512) {
			int64_t k = zf_min(512, n - i);
			widen(o->src_dtype, wide, (const uint16_t *)src + i, k);
			narrow(o->dst_dtype, (uint16_t *)dst + i, wide, k);
		}
	}
}

/* n elements, from the first of a block on, by way of f32 where the other side is bf16. */
static void widen_blocks(int dst_dtype, void *dst, const char *src, int64_t n) {
	if (dst_dtype == ZF_F32) {
		widen_int8_best(dst, src, n / ZF_INT8_BLOCK);
		return;
	}
	float wide[ZF_INT8_BLOCK];
	for (int64_t i = 0; i < n; i += ZF_INT8_BLOCK) {
		widen_int8_best(wide, src + i / ZF_INT8_BLOCK * ZF_INT8_BYTES, 1);
		narrow_bf16_best((uint16_t *)dst + i, wide, ZF_INT8_BLOCK);
	}
}

static void narrow_blocks(char *dst, int src_dtype, const void *src, int64_t n) {
	if (src_dtype == ZF_F32) {
		narrow_int8_best(dst, src, n / ZF_INT8_BLOCK);
		return;
	}
	float wide[ZF_INT8_BLOCK];
	for (int64_t i = 0; i < n; i += ZF_INT8_BLOCK) {
		widen_bf16_best(wide, (const uint16_t *)src + i, ZF_INT8_BLOCK);
		narrow_int8_best(dst + i / ZF_INT8_BLOCK * ZF_INT8_BYTES, wide, 1);
	}
}

static void convert_blocks_tile(void *arg, int64_t tile, int thread) {
	(void)thread;
	const struct convert *o = arg;
	int64_t lo = tile * ZF_RANGE, n = zf_min(ZF_RANGE, o->n - lo), at = lo / ZF_INT8_BLOCK * ZF_INT8_BYTES;
	if (o->src_dtype == ZF_INT8)
		widen_blocks(o->dst_dtype, (char *)o->dst + lo * width(o->dst_dtype), (const char *)o->src + at, n);
	else
		narrow_blocks((char *)o->dst + at, o->src_dtype, (const char *)o->src + lo * width(o->src_dtype), n);
}

static int known(int dtype) { return dtype == ZF_F32 || dtype == ZF_BF16 || dtype == ZF_F16; }

zf_status zf_convert(zf_pool *p, int dst_dtype, void *dst, int src_dtype, const void *src, int64_t n) {
	struct convert o = {dst_dtype, src_dtype, dst, src, n};
	if (dst_dtype == ZF_INT8 || src_dtype == ZF_INT8) {
		int other = dst_dtype == ZF_INT8 ? src_dtype : dst_dtype;
		if ((other != ZF_F32 && other != ZF_BF16) || n % ZF_INT8_BLOCK != 0)
			return ZF_EINVAL;
		zf_parallel(p, zf_tiles(n, ZF_RANGE), convert_blocks_tile, &o);
		return ZF_OK;
	}
	if (!known(dst_dtype) || !known(src_dtype))
		return ZF_EINVAL;
	zf_parallel(p, zf_tiles(n, ZF_RANGE), convert_tile, &o);
	return ZF_OK;
}
