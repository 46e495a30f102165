/* Tiles in f32: see zf_tile.h. The register blocks are 8 x 32 (AVX-512), 4 x 16 (AVX2) and 4 x 8: both
 * operands are short enough to lie in level 1 as they are, so b is not packed into panels. Of the accumulators
 * there are at least 8, the latency of a fused multiply-add times the two that start each cycle. */
#include "zf_tile.h"

/* ---- Copies ----------------------------------------------------------------------- */

#define INF_BITS 0x7f800000u

/* pack is zf_tile_pack for a type that the compiler knows. */
ZF_BODY uint64_t pack(float *dst, int64_t ld, int dtype, const void *src, int64_t at, int64_t stride, int64_t rows,
                      int64_t cols) {
	uint64_t bad = 0;
	for (int64_t i = 0; i < rows; i++, dst += ld, at += stride) {
		uint32_t b = 0;
		for (int64_t j = 0; j < cols; j++) {
			float f = zf_load_act(dtype, src, at + j);
			b |= (zf_f32_bits(f) & INF_BITS) == INF_BITS;
			dst[j] = f;
		}
		for (int64_t j = cols; j < ld; j++)
			dst[j] = 0;
		bad |= (uint64_t)b << i;
	}
	return bad;
}

#define PACK_PARAMS                                                                                                    \
	float *dst, int64_t ld, int dtype, const void *src, int64_t at, int64_t stride, int64_t rows, int64_t cols
#define PACK_ARGS(dtype) dst, ld, dtype, src, at, stride, rows, cols

static uint64_t pack_portable(PACK_PARAMS) {
	return dtype == ZF_F32 ? pack(PACK_ARGS(ZF_F32)) : pack(PACK_ARGS(ZF_BF16));
}

#ifdef ZF_X86

ZF_AVX2 static uint64_t pack_avx2(PACK_PARAMS) {
	return dtype == ZF_F32 ? pack(PACK_ARGS(ZF_F32)) : pack(PACK_ARGS(ZF_BF16));
}

#define NOT_FINITE 0x99 /* NaN, quiet or signalling, inf and -inf */

ZF_AVX512 static inline __attribute__((always_inline)) uint64_t pack16(PACK_PARAMS) {
	uint64_t bad = 0;
	for (int64_t i = 0; i < rows; i++, dst += ld, at += stride) {
		__mmask16 b = 0;
		for (int64_t j = 0; j < ld; j += 16) {
			__m512 f = zf_load16_act(dtype, src, at + j, zf_mask16(cols - j));
			b |= _mm512_fpclass_ps_mask(f, NOT_FINITE);
			_mm512_store_ps(dst + j, f);
		}
		bad |= (uint64_t)(b != 0) << i;
	}
	return bad;
}

ZF_AVX512 static uint64_t pack_avx512(PACK_PARAMS) {
	return dtype == ZF_F32 ? pack16(PACK_ARGS(ZF_F32)) : pack16(PACK_ARGS(ZF_BF16));
}

#endif

uint64_t zf_tile_pack(PACK_PARAMS) {
#ifdef ZF_X86
	if (zf_isa() == ZF_ISA_AVX512)
		return pack_avx512(PACK_ARGS(dtype));
	if (zf_isa() == ZF_ISA_AVX2)
		return pack_avx2(PACK_ARGS(dtype));
#endif
	return pack_portable(PACK_ARGS(dtype));
}

ZF_BODY void unpack_bf16(uint16_t *dst, const float *src, int64_t n) {
	for (int64_t i = 0; i < n; i++)
		dst[i] = zf_f32_to_bf16(src[i]);
}
ZF_EVERY_ISA(unpack_bf16, (uint16_t * dst, const float *src, int64_t n), (dst, src, n))

void zf_tile_unpack(int dtype, void *dst, int64_t at, int64_t stride, const float *src, int64_t ld, int64_t rows,
                    int64_t cols) {
	for (int64_t i = 0; i < rows; i++, at += stride, src += ld) {
		if (dtype == ZF_F32)
			memcpy((float *)dst + at, src, (size_t)cols * sizeof *src);
		else
			unpack_bf16_best((uint16_t *)dst + at, src, cols);
	}
}

static void turn_portable(float *dst, int64_t ldd, const float *src, int64_t lds, int64_t rows, int64_t cols) {
	for (int64_t j = 0; j < cols; j++)
		for (int64_t i = 0; i < rows; i++)
			dst[j * ldd + i] = src[i * lds + j];
}

#ifdef ZF_X86

/* 8 x 8: pairs of rows interleaved, then pairs of pairs, then halves. */
ZF_AVX2 static void turn_avx2(float *dst, int64_t ldd, const float *src, int64_t lds, int64_t rows, int64_t cols) {
	for (int64_t i = 0; i < rows; i += 8)
		for (int64_t j = 0; j < cols; j += 8) {
			__m256 r[8], t[8];
			for (int x = 0; x < 8; x++)
				r[x] = _mm256_loadu_ps(src + (i + x) * lds + j);
			for (int x = 0; x < 8; x += 2) {
				t[x] = _mm256_unpacklo_ps(r[x], r[x + 1]);
				t[x + 1] = _mm256_unpackhi_ps(r[x], r[x + 1]);
			}
			for (int x = 0; x < 8; x += 4)
				for (int y = 0; y < 2; y++) {
					r[x + 2 * y] = _mm256_shuffle_ps(t[x + y], t[x + y + 2], 0x44);
					r[x + 2 * y + 1] = _mm256_shuffle_ps(t[x + y], t[x + y + 2], 0xee);
				}
			for (int x = 0; x < 4; x++) {
				_mm256_storeu_ps(dst + (j + x) * ldd + i, _mm256_permute2f128_ps(r[x], r[x + 4], 0x20));
				_mm256_storeu_ps(dst + (j + x + 4) * ldd + i, _mm256_permute2f128_ps(r[x], r[x + 4], 0x31));
			}
		}
}

/* 16 x 16, the same, and then quarters. */
ZF_AVX512 static void turn_avx512(float *dst, int64_t ldd, const float *src, int64_t lds, int64_t rows, int64_t cols) {
	for (int64_t i = 0; i < rows; i += 16)
		for (int64_t j = 0; j < cols; j += 16) {
			__m512 r[16], t[16];
#pragma GCC unroll 16
			for (int x = 0; x < 16; x++)
				r[x] = _mm512_loadu_ps(src + (i + x) * lds + j);
#pragma GCC unroll 8
			for (int x = 0; x < 16; x += 2) {
				t[x] = _mm512_unpacklo_ps(r[x], r[x + 1]);
				t[x + 1] = _mm512_unpackhi_ps(r[x], r[x + 1]);
			}
			/* r[4x+y]: rows 4x to 4x+3 of columns y, y+4, y+8 and y+12. */
#pragma GCC unroll 4
			for (int x = 0; x < 16; x += 4) {
				r[x] = _mm512_shuffle_ps(t[x], t[x + 2], 0x44);
				r[x + 1] = _mm512_shuffle_ps(t[x], t[x + 2], 0xee);
				r[x + 2] = _mm512_shuffle_ps(t[x + 1], t[x + 3], 0x44);
				r[x + 3] = _mm512_shuffle_ps(t[x + 1], t[x + 3], 0xee);
			}
#pragma GCC unroll 4
			for (int y = 0; y < 4; y++) {
				__m512 a = _mm512_shuffle_f32x4(r[y], r[y + 4], 0x88),
					   b = _mm512_shuffle_f32x4(r[y + 8], r[y + 12], 0x88);
				__m512 c = _mm512_shuffle_f32x4(r[y], r[y + 4], 0xdd),
					   d = _mm512_shuffle_f32x4(r[y + 8], r[y + 12], 0xdd);
				float *to = dst + (j + y) * ldd + i;
				_mm512_storeu_ps(to, _mm512_shuffle_f32x4(a, b, 0x88));
				_mm512_storeu_ps(to + 4 * ldd, _mm512_shuffle_f32x4(c, d, 0x88));
				_mm512_storeu_ps(to + 8 * ldd, _mm512_shuffle_f32x4(a, b, 0xdd));
				_mm512_storeu_ps(to + 12 * ldd, _mm512_shuffle_f32x4(c, d, 0xdd));
			}
		}
}

#endif

void zf_tile_turn(float *dst, int64_t ldd, float *src, int64_t lds, int64_t rows, int64_t cols) {
	int64_t down = zf_round_up(rows, ZF_TILE_LANES), across = zf_round_up(cols, ZF_TILE_LANES);
	memset(src + rows * lds, 0, (size_t)((down - rows) * lds) * sizeof *src);
#ifdef ZF_X86
	if (zf_isa() == ZF_ISA_AVX512) {
		turn_avx512(dst, ldd, src, lds, down, across);
		return;
	}
	if (zf_isa() == ZF_ISA_AVX2) {
		turn_avx2(dst, ldd, src, lds, down, across);
		return;
	}
#endif
	turn_portable(dst, ldd, src, lds, down, across);
}

/* ---- Products --------------------------------------------------------------------- */

/* A block_fn computes the register blocks of m rows of c (+)= a b over k. */
typedef void (*block_fn)(int64_t m, int64_t k, const float *a, int64_t lda, const float *b, int64_t ldb, float *c,
                         int64_t ldc, int add);

#define BASE_MR 4
#define BASE_NR 8

ZF_BODY void base_block(int64_t k, const float *a, int64_t rs, int64_t ks, const float *b, int64_t ldb, float *c,
                        int64_t ldc, int add) {
	float s[BASE_MR][BASE_NR] = {{0}};
	for (int64_t p = 0; p < k; p++)
		for (int i = 0; i < BASE_MR; i++)
			for (int j = 0; j < BASE_NR; j++)
				s[i][j] += a[i * rs + p * ks] * b[p * ldb + j];
	for (int i = 0; i < BASE_MR; i++)
		for (int j = 0; j < BASE_NR; j++)
			c[i * ldc + j] = add ? c[i * ldc + j] + s[i][j] : s[i][j];
}

#define BASE_BLOCK(name, RS, KS)                                                                                       \
	static void name(int64_t m, int64_t k, const float *a, int64_t lda, const float *b, int64_t ldb, float *c,         \
	                 int64_t ldc, int add) {                                                                           \
		for (; m > 0; m -= BASE_MR, a += BASE_MR * (RS), c += BASE_MR * ldc)                                           \
			base_block(k, a, RS, KS, b, ldb, c, ldc, add);                                                             \
	}
BASE_BLOCK(base_rows, lda, 1)
BASE_BLOCK(base_turned, 1, lda)

#ifdef ZF_X86

#define AVX2_MR 4
#define AVX2_NR 16

#define AVX2_BLOCK(name, RS, KS)                                                                                       \
	ZF_AVX2 static void name(int64_t m, int64_t k, const float *a, int64_t lda, const float *b, int64_t ldb, float *c, \
	                         int64_t ldc, int add) {                                                                   \
		for (; m > 0; m -= AVX2_MR, a += AVX2_MR * (RS), c += AVX2_MR * ldc) {                                         \
			__m256 s[AVX2_MR][2];                                                                                      \
			_Pragma("GCC unroll 4") for (int i = 0; i < AVX2_MR; i++) s[i][0] = s[i][1] = _mm256_setzero_ps();         \
			for (int64_t p = 0; p < k; p++) {                                                                          \
				__m256 b0 = _mm256_loadu_ps(b + p * ldb), b1 = _mm256_loadu_ps(b + p * ldb + 8);                       \
				_Pragma("GCC unroll 4") for (int i = 0; i < AVX2_MR; i++) {                                            \
					__m256 x = _mm256_broadcast_ss(a + i * (RS) + p * (KS));                                           \
					s[i][0] = _mm256_fmadd_ps(x, b0, s[i][0]);                                                         \
					s[i][1] = _mm256_fmadd_ps(x, b1, s[i][1]);                                                         \
				}                                                                                                      \
			}                                                                                                          \
			_Pragma("GCC unroll 4") for (int i = 0; i < AVX2_MR; i++) for (int h = 0; h < 2; h++) {                    \
				float *d = c + i * ldc + 8 * h;                                                                        \
				_mm256_storeu_ps(d, add ? _mm256_add_ps(_mm256_loadu_ps(d), s[i][h]) : s[i][h]);                       \
			}                                                                                                          \
		}                                                                                                              \
	}
AVX2_BLOCK(avx2_rows, lda, 1)
AVX2_BLOCK(avx2_turned, 1, lda)

#define AVX512_MR 8
#define AVX512_NR 32

/* NV vectors of 16 columns: 2, and 1 for what is left over. */
#define AVX512_BLOCK(name, NV, RS, KS)                                                                                 \
	ZF_AVX512 static void name(int64_t m, int64_t k, const float *a, int64_t lda, const float *b, int64_t ldb,         \
	                           float *c, int64_t ldc, int add) {                                                       \
		for (; m > 0; m -= AVX512_MR, a += AVX512_MR * (RS), c += AVX512_MR * ldc) {                                   \
			__m512 s[AVX512_MR][NV];                                                                                   \
			_Pragma("GCC unroll 8") for (int i = 0; i < AVX512_MR; i++)                                                \
				_Pragma("GCC unroll 2") for (int v = 0; v < NV; v++) s[i][v] = _mm512_setzero_ps();                    \
			for (int64_t p = 0; p < k; p++) {                                                                          \
				__m512 y[NV];                                                                                          \
				_Pragma("GCC unroll 2") for (int v = 0; v < NV; v++) y[v] = _mm512_loadu_ps(b + p * ldb + 16 * v);     \
				_Pragma("GCC unroll 8") for (int i = 0; i < AVX512_MR; i++) {                                          \
					__m512 x = _mm512_set1_ps(a[i * (RS) + p * (KS)]);                                                 \
					_Pragma("GCC unroll 2") for (int v = 0; v < NV; v++) s[i][v] = _mm512_fmadd_ps(x, y[v], s[i][v]);  \
				}                                                                                                      \
			}                                                                                                          \
			_Pragma("GCC unroll 8") for (int i = 0; i < AVX512_MR; i++)                                                \
				_Pragma("GCC unroll 2") for (int v = 0; v < NV; v++) {                                                 \
				float *d = c + i * ldc + 16 * v;                                                                       \
				_mm512_storeu_ps(d, add ? _mm512_add_ps(_mm512_loadu_ps(d), s[i][v]) : s[i][v]);                       \
			}                                                                                                          \
		}                                                                                                              \
	}
AVX512_BLOCK(avx512_rows, 2, lda, 1)
AVX512_BLOCK(avx512_turned, 2, 1, lda)
AVX512_BLOCK(avx512_rows_16, 1, lda, 1)
AVX512_BLOCK(avx512_turned_16, 1, 1, lda)

#endif

struct blocks {
	int nr;
	block_fn rows, turned;
};

/* blocks_for is the register block for the next columns of those that are left. */
static struct blocks blocks_for(int64_t columns) {
	(void)columns;
#ifdef ZF_X86
	if (zf_isa() == ZF_ISA_AVX512 && columns < AVX512_NR)
		return (struct blocks){AVX512_NR / 2, avx512_rows_16, avx512_turned_16};
	if (zf_isa() == ZF_ISA_AVX512)
		return (struct blocks){AVX512_NR, avx512_rows, avx512_turned};
	if (zf_isa() == ZF_ISA_AVX2)
		return (struct blocks){AVX2_NR, avx2_rows, avx2_turned};
#endif
	return (struct blocks){BASE_NR, base_rows, base_turned};
}

void zf_tile_product(float *c, int64_t ldc, const float *a, int64_t lda, const float *b, int64_t ldb, int64_t m,
                     int64_t n, int64_t k, int add) {
	m = zf_round_up(m, ZF_TILE_ROWS);
	n = zf_round_up(n, ZF_TILE_LANES);
	for (int64_t j = 0; j < n;) {
		struct blocks r = blocks_for(n - j);
		r.rows(m, k, a, lda, b + j, ldb, c + j, ldc, add);
		j += r.nr;
	}
}

void zf_tile_product_turned(float *c, int64_t ldc, const float *a, int64_t lda, const float *b, int64_t ldb, int64_t m,
                            int64_t n, int64_t k, int add) {
	m = zf_round_up(m, ZF_TILE_ROWS);
	n = zf_round_up(n, ZF_TILE_LANES);
	for (int64_t j = 0; j < n;) {
		struct blocks r = blocks_for(n - j);
		r.turned(m, k, a, lda, b + j, ldb, c + j, ldc, add);
		j += r.nr;
	}
}

/* ---- Rows ------------------------------------------------------------------------- */

ZF_BODY void scale_rows(float *c, int64_t ld, const float *by, int64_t rows, int64_t cols) {
	for (int64_t i = 0; i < rows; i++)
		for (int64_t j = 0; j < cols; j++)
			c[i * ld + j] *= by[i];
}
ZF_EVERY_ISA(scale_rows, (float *c, int64_t ld, const float *by, int64_t rows, int64_t cols), (c, ld, by, rows, cols))

void zf_tile_scale(float *c, int64_t ld, const float *by, int64_t rows, int64_t cols) {
	scale_rows_best(c, ld, by, rows, cols);
}

void zf_tile_add_row(float *c, float w, const float *b, int64_t n) {
	for (int64_t j = 0; j < n; j++)
		c[j] += w * b[j];
}

ZF_BODY void dots(float *out, const float *a, const float *b, int64_t ld, int64_t rows) {
	for (int64_t i = 0; i < rows; i++) {
		float s[16] = {0};
		for (int64_t j = 0; j < ld; j += 16)
			for (int l = 0; l < 16; l++)
				s[l] += a[i * ld + j + l] * b[i * ld + j + l];
		float sum = 0;
		for (int l = 0; l < 16; l++)
			sum += s[l];
		out[i] = sum;
	}
}
ZF_EVERY_ISA(dots, (float *out, const float *a, const float *b, int64_t ld, int64_t rows), (out, a, b, ld, rows))

void zf_tile_dots(float *out, const float *a, const float *b, int64_t ld, int64_t rows) {
	dots_best(out, a, b, ld, rows);
}
