/* Tiles in f32 and the products between them: what the attention kernels are made of.
 *
 * A tile is up to ZF_TILE rows in scratch, 64-byte aligned, each row ld floats, ld a multiple of 16. An operation
 * works on whole register blocks: where it says so, it reads and writes rows and columns up to the
 * next multiple, so a tile has room for them. What stands there is never part of a sum. */
#ifndef ZF_TILE_H
#define ZF_TILE_H

#include "zf_simd.h"

/* 64 rows of 64 floats are 16 KiB: the three operands of one product fill level 1 (48 KiB) at a head width of 64, and
 * all that a tile of attention touches stays in level 2 up to a width of 512. */
#define ZF_TILE 64
#define ZF_TILE_ROWS 8   /* rows of c are computed in eights */
#define ZF_TILE_LANES 16 /* and columns in sixteens */

static inline int64_t zf_round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

/* zf_tile_pack copies rows of an act matrix, the first from element at, stride apart, to dst. Columns from cols to
 * ld become 0. It returns the rows, bit i for row i, that hold an Inf or a NaN. */
uint64_t zf_tile_pack(float *dst, int64_t ld, int dtype, const void *src, int64_t at, int64_t stride, int64_t rows,
                      int64_t cols);

/* zf_tile_unpack is the way back: rows of cols elements, rounded to dtype. */
void zf_tile_unpack(int dtype, void *dst, int64_t at, int64_t stride, const float *src, int64_t ld, int64_t rows,
                    int64_t cols);

/* zf_tile_turn sets dst[j][i] = src[i][j] for i < rows and j < cols, both rounded up to sixteens; rows that
 * src has not got become 0 in src, too. */
void zf_tile_turn(float *dst, int64_t ldd, float *src, int64_t lds, int64_t rows, int64_t cols);

/* c[m][n] = a b, or += when add: a sum over k in ascending order, then one addition onto c. a[i][p] is
 * a[i*lda + p], in the turned form a[p*lda + i]; b[p][j] is b[p*ldb + j]. m is rounded up to eights, n to sixteens. */
void zf_tile_product(float *c, int64_t ldc, const float *a, int64_t lda, const float *b, int64_t ldb, int64_t m,
                     int64_t n, int64_t k, int add);
void zf_tile_product_turned(float *c, int64_t ldc, const float *a, int64_t lda, const float *b, int64_t ldb, int64_t m,
                            int64_t n, int64_t k, int add);

/* zf_tile_scale multiplies row i by by[i]. zf_tile_add_row is c += w * b over n elements. */
void zf_tile_scale(float *c, int64_t ld, const float *by, int64_t rows, int64_t cols);
void zf_tile_add_row(float *c, float w, const float *b, int64_t n);

/* zf_tile_dots is out[i] = the sum of a[i][j] b[i][j] over ld columns: 16 interleaved chains, then those in order. */
void zf_tile_dots(float *out, const float *a, const float *b, int64_t ld, int64_t rows);

#endif
