/* The product of our own, for machines without oneDNN and for fleets that must agree on bits: AVX2 and AVX-512
 * give the same, since each element is one chain of fused multiply-adds over k within a block of KC, and blocks are
 * added in order. (The portable loop rounds the product too: its bits are its own.)
 *
 * A tile packs its part of B into panels of nr columns and its part of A by rows (or, when A is
 * transposed, into panels of mr rows), both as f32; then a register block of mr x nr runs
 * over each pair. Blocking as in Goto and van de Geijn 2008, doi:10.1145/1356052.1356053. */
#include "zf_simd.h"

#include <stdatomic.h>

#include "zf_matmul.h"

#define KC 256      /* a panel of B, 32 * KC f32, fills 32 KiB of level 1 */
#define KS (KC + 8) /* stride of A's rows: off the powers of two, so that the rows of a block fall in different sets */

/* block computes c (+)= a b over k. c: rows of ldc. a: by rows of KS, or panels [k][mr]; b: [k][nr]. */
typedef void (*block_fn)(int64_t k, const float *a, const float *b, float *c, int64_t ldc, int add);

struct kernel {
	int mr, nr;
	block_fn rows, panels; /* for A by rows, for A in panels */
};

#define MAX_MR 14
#define MAX_NR 32

#define BASE_MR 4
#define BASE_NR 8

ZF_BODY void base_block(int64_t k, const float *a, int64_t rs, int64_t ks, const float *b, float *c, int64_t ldc,
                        int add) {
	float s[BASE_MR][BASE_NR] = {{0}};
	for (int64_t p = 0; p < k; p++)
		for (int i = 0; i < BASE_MR; i++)
			for (int j = 0; j < BASE_NR; j++)
				s[i][j] += a[i * rs + p * ks] * b[p * BASE_NR + j];
	for (int i = 0; i < BASE_MR; i++)
		for (int j = 0; j < BASE_NR; j++)
			c[i * ldc + j] = add ? c[i * ldc + j] + s[i][j] : s[i][j];
}

static void base_rows(int64_t k, const float *a, const float *b, float *c, int64_t ldc, int add) {
	base_block(k, a, KS, 1, b, c, ldc, add);
}

static void base_panels(int64_t k, const float *a, const float *b, float *c, int64_t ldc, int add) {
	base_block(k, a, 1, BASE_MR, b, c, ldc, add);
}

#ifdef ZF_X86

#define AVX2_MR 6
#define AVX2_NR 16

#define AVX2_BLOCK(name, RS, PS)                                                                                       \
	ZF_AVX2 static void name(int64_t k, const float *a, const float *b, float *c, int64_t ldc, int add) {              \
		__m256 s[AVX2_MR][2];                                                                                          \
		_Pragma("GCC unroll 6") for (int i = 0; i < AVX2_MR; i++) s[i][0] = s[i][1] = _mm256_setzero_ps();             \
		for (int64_t p = 0; p < k; p++) {                                                                              \
			__m256 b0 = _mm256_loadu_ps(b + p * AVX2_NR), b1 = _mm256_loadu_ps(b + p * AVX2_NR + 8);                   \
			_Pragma("GCC unroll 6") for (int i = 0; i < AVX2_MR; i++) {                                                \
				__m256 x = _mm256_broadcast_ss(a + i * (RS) + p * (PS));                                               \
				s[i][0] = _mm256_fmadd_ps(x, b0, s[i][0]);                                                             \
				s[i][1] = _mm256_fmadd_ps(x, b1, s[i][1]);                                                             \
			}                                                                                                          \
		}                                                                                                              \
		_Pragma("GCC unroll 6") for (int i = 0; i < AVX2_MR; i++) for (int h = 0; h < 2; h++) {                        \
			float *d = c + i * ldc + 8 * h;                                                                            \
			_mm256_storeu_ps(d, add ? _mm256_add_ps(_mm256_loadu_ps(d), s[i][h]) : s[i][h]);                           \
		}                                                                                                              \
	}
AVX2_BLOCK(avx2_rows, KS, 1)
AVX2_BLOCK(avx2_panels, 1, AVX2_MR)

#define AVX512_MR 14
#define AVX512_NR 32

#define AVX512_BLOCK(name, RS, PS)                                                                                     \
	ZF_AVX512 static void name(int64_t k, const float *a, const float *b, float *c, int64_t ldc, int add) {            \
		__m512 s[AVX512_MR][2];                                                                                        \
		_Pragma("GCC unroll 14") for (int i = 0; i < AVX512_MR; i++) s[i][0] = s[i][1] = _mm512_setzero_ps();          \
		for (int64_t p = 0; p < k; p++) {                                                                              \
			__m512 b0 = _mm512_loadu_ps(b + p * AVX512_NR), b1 = _mm512_loadu_ps(b + p * AVX512_NR + 16);              \
			_Pragma("GCC unroll 14") for (int i = 0; i < AVX512_MR; i++) {                                             \
				__m512 x = _mm512_set1_ps(a[i * (RS) + p * (PS)]);                                                     \
				s[i][0] = _mm512_fmadd_ps(x, b0, s[i][0]);                                                             \
				s[i][1] = _mm512_fmadd_ps(x, b1, s[i][1]);                                                             \
			}                                                                                                          \
		}                                                                                                              \
		_Pragma("GCC unroll 14") for (int i = 0; i < AVX512_MR; i++) for (int h = 0; h < 2; h++) {                     \
			float *d = c + i * ldc + 16 * h;                                                                           \
			_mm512_storeu_ps(d, add ? _mm512_add_ps(_mm512_loadu_ps(d), s[i][h]) : s[i][h]);                           \
		}                                                                                                              \
	}
AVX512_BLOCK(avx512_rows, KS, 1)
AVX512_BLOCK(avx512_panels, 1, AVX512_MR)

#endif

static struct kernel choose_kernel(void) {
#ifdef ZF_X86
	if (zf_isa() == ZF_ISA_AVX512)
		return (struct kernel){AVX512_MR, AVX512_NR, avx512_rows, avx512_panels};
	if (zf_isa() == ZF_ISA_AVX2)
		return (struct kernel){AVX2_MR, AVX2_NR, avx2_rows, avx2_panels};
#endif
	return (struct kernel){BASE_MR, BASE_NR, base_rows, base_panels};
}

ZF_BODY void widen_f32(float *dst, const float *src, int64_t n) { memcpy(dst, src, (size_t)n * sizeof *dst); }
ZF_EVERY_ISA(widen_f32, (float *dst, const float *src, int64_t n), (dst, src, n))
ZF_BODY void widen_bf16(float *dst, const uint16_t *src, int64_t n) {
	for (int64_t i = 0; i < n; i++)
		dst[i] = zf_bf16_to_f32(src[i]);
}
ZF_EVERY_ISA(widen_bf16, (float *dst, const uint16_t *src, int64_t n), (dst, src, n))

static void widen(int dtype, float *dst, const void *src, int64_t at, int64_t n) {
	if (dtype == ZF_F32)
		widen_f32_best(dst, (const float *)src + at, n);
	else
		widen_bf16_best(dst, (const uint16_t *)src + at, n);
}

/* pack_rows copies src[rows][k] (stride ld, from element at) to rows of stride KS. */
static void pack_rows(float *dst, int dtype, const void *src, int64_t at, int64_t ld, int64_t rows, int64_t k) {
	for (int64_t i = 0; i < rows; i++)
		widen(dtype, dst + i * KS, src, at + i * ld, k);
}

/* pack_panels copies src[k][cols] to panels [k][w] of w columns; a short last panel is filled with zeros. */
static void pack_panels(float *dst, int dtype, const void *src, int64_t at, int64_t ld, int64_t cols, int64_t k,
                        int w) {
	for (int64_t j = 0; j < cols; j += w, dst += w * k) {
		int64_t n = zf_min(w, cols - j);
		for (int64_t p = 0; p < k; p++) {
			widen(dtype, dst + p * w, src, at + p * ld + j, n);
			memset(dst + p * w + n, 0, (size_t)(w - n) * sizeof *dst);
		}
	}
}

/* pack_turned copies src[cols][k] to panels [k][w], the same panels from the transposed operand. */
static void pack_turned(float *dst, int dtype, const void *src, int64_t at, int64_t ld, int64_t cols, int64_t k,
                        int w) {
	enum { STEP = 16 };
	for (int64_t j = 0; j < cols; j += w, dst += w * k) {
		int64_t n = zf_min(w, cols - j);
		for (int64_t p = 0; p < k; p += STEP) {
			int64_t steps = zf_min(STEP, k - p);
			float row[MAX_NR][STEP];
			for (int64_t i = 0; i < n; i++)
				widen(dtype, row[i], src, at + (j + i) * ld + p, steps);
			for (int64_t i = n; i < w; i++)
				memset(row[i], 0, sizeof row[i]);
			for (int64_t q = 0; q < steps; q++)
				for (int i = 0; i < w; i++)
					dst[(p + q) * w + i] = row[i][q];
		}
	}
}

struct tiles {
	zf_pool *pool;
	const struct zf_product *o;
	struct zf_grid grid;
	struct kernel kernel;
	_Atomic int status;
};

/* multiply adds one block of k to the tile: every register block, whole or at an edge. */
static void multiply(const struct tiles *g, const float *pa, const float *pb, float *c, int64_t ldc, int64_t rows,
                     int64_t cols, int64_t k, int add) {
	const struct kernel *r = &g->kernel;
	for (int64_t j = 0; j < cols; j += r->nr)
		for (int64_t i = 0; i < rows; i += r->mr) {
			block_fn block = g->o->trans_a ? r->panels : r->rows;
			const float *a = g->o->trans_a ? pa + i * k : pa + i * KS;
			const float *b = pb + j * k;
			int64_t m = zf_min(r->mr, rows - i), n = zf_min(r->nr, cols - j);
			if (m == r->mr && n == r->nr) {
				block(k, a, b, c + i * ldc + j, ldc, add);
				continue;
			}
			float edge[MAX_MR * MAX_NR];
			block(k, a, b, edge, r->nr, 0);
			for (int64_t y = 0; y < m; y++)
				for (int64_t x = 0; x < n; x++) {
					float *d = c + (i + y) * ldc + j + x;
					*d = add ? *d + edge[y * r->nr + x] : edge[y * r->nr + x];
				}
		}
}

static void run_tile(void *arg, int64_t t, int thread) {
	struct tiles *g = arg;
	const struct zf_product *o = g->o;
	int64_t i, j, rows, cols;
	zf_grid_tile(&g->grid, o, t, &i, &j, &rows, &cols);
	int64_t down = (rows + g->kernel.mr - 1) / g->kernel.mr * g->kernel.mr;
	int64_t across = (cols + g->kernel.nr - 1) / g->kernel.nr * g->kernel.nr;
	int narrow = o->out_dtype == ZF_BF16;
	float *pb = zf_scratch(g->pool, thread, (size_t)(down * KS + across * KC + narrow * rows * cols) * sizeof(float));
	if (!pb) {
		atomic_store(&g->status, ZF_ENOMEM);
		return;
	}
	float *pa = pb + across * KC;
	float *c = narrow ? pa + down * KS : (float *)o->out + i * o->n + j;
	int64_t ldc = narrow ? cols : o->n;
	memset(pa, 0, (size_t)(down * KS) * sizeof *pa); /* rows that pad the last register block */
	for (int64_t p = 0; p < o->k; p += KC) {
		int64_t k = zf_min(KC, o->k - p);
		if (o->trans_b)
			pack_turned(pb, o->in_dtype, o->b, j * o->k + p, o->k, cols, k, g->kernel.nr);
		else
			pack_panels(pb, o->in_dtype, o->b, p * o->n + j, o->n, cols, k, g->kernel.nr);
		if (o->trans_a)
			pack_panels(pa, o->in_dtype, o->a, p * o->m + i, o->m, rows, k, g->kernel.mr);
		else
			pack_rows(pa, o->in_dtype, o->a, i * o->k + p, o->k, rows, k);
		multiply(g, pa, pb, c, ldc, rows, cols, k, p > 0 || o->accumulate);
	}
	for (int64_t y = 0; narrow && y < rows; y++)
		for (int64_t x = 0; x < cols; x++)
			((uint16_t *)o->out)[(i + y) * o->n + j + x] = zf_f32_to_bf16(c[y * cols + x]);
}

static int64_t side(int64_t n, int64_t parts, int64_t lo, int64_t hi) {
	int64_t s = (n / parts + 31) / 32 * 32;
	return s < lo ? lo : s > hi ? hi : s;
}

/* Packing B costs by rows of the tile and packing A by its columns, so both sides stay long;
 * the longer one is cut into about eight for the threads. */
static struct zf_grid choose_grid(int64_t m, int64_t n) {
	if (m > n)
		return zf_grid_of(m, n, side(m, 8, 96, 512), side(n, 1, 32, 512));
	return zf_grid_of(m, n, side(m, 1, 32, 512), side(n, 8, 96, 512));
}

zf_status zf_gemm_matmul(zf_pool *p, const struct zf_product *o) {
	struct tiles g = {.pool = p, .o = o, .grid = choose_grid(o->m, o->n), .kernel = choose_kernel()};
	zf_parallel(p, g.grid.rows * g.grid.cols, run_tile, &g);
	return atomic_load(&g.status);
}
