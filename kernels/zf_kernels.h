/* The C ABI of a zerofleet device on the CPU: one function per Op of ops.go, whose
 * comments say what each computes. Rules for all of them:
 *
 * - One call does one whole operation and returns when it is done. It neither prints,
 *   exits, nor keeps a pointer. The Go side has checked lengths, types and overlaps, so
 *   sizes are >= 1 and within memory; what only the data can tell (an id out of range)
 *   the kernel checks before it uses the value.
 * - Buffers are dense and row-major. Base pointers are aligned to their element only,
 *   unless a function says more. "act" is the type that dtype names: F32 or BF16.
 * - Arithmetic is in f32 unless told otherwise; stores round to nearest even.
 * - Sums run in an order that depends on the sizes alone: not on the number of threads,
 *   not on alignment. Bits may differ between instruction sets only where the comment
 *   does not promise "the same bits on every path".
 * - No overlap of a written buffer with another, unless told. */
#ifndef ZF_KERNELS_H
#define ZF_KERNELS_H

#include <stdint.h>

#include "cpu/zf_pool.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef int zf_status;
enum {
	ZF_OK = 0,
	ZF_EINVAL = 1,  /* a size or type that the kernel does not know: our bug */
	ZF_ENOMEM = 2,  /* no memory for scratch */
	ZF_EID = 3,     /* an id, label, position or document start is out of range; nothing useful was written */
	ZF_EPRODUCT = 4 /* the product library failed */
};

/* Element types: the values of kernels.DType. */
enum { ZF_F32 = 1, ZF_BF16 = 2, ZF_F16 = 3, ZF_F64 = 4, ZF_I32 = 5, ZF_U8 = 6, ZF_INT8 = 7 };

/* A block of ZF_INT8: 256 signed bytes, then the f32 that they are multiples of. */
enum { ZF_INT8_BLOCK = 256, ZF_INT8_BYTES = 260 };

/* Instruction sets. AVX-512 here means F, BW, DQ and VL. */
enum { ZF_ISA_PORTABLE = 0, ZF_ISA_AVX2 = 1, ZF_ISA_AVX512 = 2 };

/* zf_isa is the instruction set that kernels use: the best of this machine, or what
 * zf_isa_force chose. zf_isa_best is the best of this machine. */
int zf_isa(void);
int zf_isa_best(void);

/* zf_isa_force sets zf_isa for the whole process, before a pool is used; ZF_EINVAL when
 * the machine has not got it. For tests and for fleets of unlike machines. */
zf_status zf_isa_force(int isa);

/* ---- Products ------------------------------------------------------------------ */

/* zf_products_force chooses, for the whole process, between oneDNN when it is there and our own product.
 * zf_products_library is the version of oneDNN that products come from, as 10000*major + 100*minor + patch, or 0
 * when they are our own: because oneDNN is missing, or by choice, or since a lower instruction set was forced. */
enum { ZF_PRODUCTS_AUTO = 0, ZF_PRODUCTS_OWN = 1 };
zf_status zf_products_force(int which);
int zf_products_library(void);

/* out[M,N] = A'B' (+ out when accumulate). a: [M,K], or [K,M] when trans_a; b: [K,N], or
 * [N,K] when trans_b; both of in_dtype. out: of out_dtype, F32 or in_dtype. */
zf_status zf_matmul(zf_pool *p, int in_dtype, int out_dtype, void *out, const void *a, const void *b, int64_t m,
                    int64_t n, int64_t k, int trans_a, int trans_b, int accumulate);

/* ---- Norms, positions, attention, feed-forward --------------------------------- */

/* x, y: [rows,cols] act; w: [cols] act; rstd: [rows] f32. residual and sum: [rows,cols] act,
 * both or neither (NULL); sum may be x or residual; y may be none of them. */
zf_status zf_rmsnorm(zf_pool *p, int dtype, void *y, float *rstd, const void *x, const void *w, const void *residual,
                     void *sum, int64_t rows, int64_t cols, float eps);

/* dx, dy, x, dadd: [rows,cols] act (dadd may be NULL; dx may be dadd or dy); w: [cols] act;
 * dw: [cols] f32, overwritten; rstd: [rows] f32. */
zf_status zf_rmsnorm_backward(zf_pool *p, int dtype, void *dx, float *dw, const void *dy, const void *x, const void *w,
                              const float *rstd, const void *dadd, int64_t rows, int64_t cols);

/* x: [rows,stride] act, in place, heads*head_dim <= stride; pos: [rows] in [0,positions);
 * cos, sin: [positions,head_dim/2] f32. ZF_EID for a position outside: x is then unchanged. */
zf_status zf_rope(zf_pool *p, int dtype, void *x, const int32_t *pos, const float *cos, const float *sin,
                  int64_t positions, int64_t rows, int64_t stride, int64_t heads, int64_t head_dim, int inverse);

/* qkv: [b*t,(heads+2*kv_heads)*head_dim] act; out: [b*t,heads*head_dim] act; lse: [b,heads,t] f32;
 * doc_start: [b*t], doc_start[i] in [0, i mod t], ZF_EID otherwise. window: 0 for none. */
zf_status zf_attention(zf_pool *p, int dtype, void *out, float *lse, const void *qkv, const int32_t *doc_start,
                       int64_t b, int64_t t, int64_t heads, int64_t kv_heads, int64_t head_dim, int64_t window,
                       float scale);

/* dqkv: like qkv, overwritten; delta: [b,heads,t] f32, workspace; dout, out: [b*t,heads*head_dim] act. */
zf_status zf_attention_backward(zf_pool *p, int dtype, void *dqkv, float *delta, const void *dout, const void *out,
                                const float *lse, const void *qkv, const int32_t *doc_start, int64_t b, int64_t t,
                                int64_t heads, int64_t kv_heads, int64_t head_dim, int64_t window, float scale);

/* qkv: [n,(heads+2*kv_heads)*head_dim] act; keys, values: [>= past+n, kv_heads*head_dim] act, rows
 * [past,past+n) written; out: [n,heads*head_dim] act. */
zf_status zf_cached_attention(zf_pool *p, int dtype, void *out, const void *qkv, void *keys, void *values, int64_t n,
                              int64_t past, int64_t heads, int64_t kv_heads, int64_t head_dim, int64_t window,
                              float scale);

/* gate_up: [rows,2*f] act; y: [rows,f] act. */
zf_status zf_swiglu(zf_pool *p, int dtype, void *y, const void *gate_up, int64_t rows, int64_t f);

/* dgate_up, gate_up: [rows,2*f] act, may be the same; dy: [rows,f] act. */
zf_status zf_swiglu_backward(zf_pool *p, int dtype, void *dgate_up, const void *dy, const void *gate_up, int64_t rows,
                             int64_t f);

/* ---- Ids ------------------------------------------------------------------------ */

/* y: [rows,d] act; table: [v,d] act; ids: [rows] in [0,v), ZF_EID otherwise. */
zf_status zf_embedding(zf_pool *p, int dtype, void *y, const void *table, const int32_t *ids, int64_t rows, int64_t v,
                       int64_t d);

/* dtable: [v,d] f32, accumulated onto in row order; dy: [rows,d] act; ids: [rows] in [0,v), ZF_EID otherwise. */
zf_status zf_embedding_backward(zf_pool *p, int dtype, float *dtable, const void *dy, const int32_t *ids, int64_t rows,
                                int64_t v, int64_t d);

/* loss: [rows] f32; dlogits: [rows,v] of ddtype, or NULL, and then ddtype is 0; may be logits when F32;
 * logits: [rows,v] f32; labels: [rows] in [-1,v), ZF_EID otherwise. */
zf_status zf_cross_entropy(zf_pool *p, int ddtype, float *loss, void *dlogits, const float *logits,
                           const int32_t *labels, int64_t rows, int64_t v, float scale);

/* ---- Elementwise and reductions: the same bits on every path --------------------- */

/* out, a, b: [n] act; out may be a or b. */
zf_status zf_add(zf_pool *p, int dtype, void *out, const void *a, const void *b, int64_t n);

/* dst: [n] of dst_dtype; src: [n] of src_dtype; F32, BF16 or F16 each, or one of them INT8 and the other
 * F32 or BF16: n is a multiple of 256 then. A NaN stays a NaN; in a block of INT8 it makes all NaN. */
zf_status zf_convert(zf_pool *p, int dst_dtype, void *dst, int src_dtype, const void *src, int64_t n);

/* dst: [n], F32 or BF16. */
zf_status zf_fill(zf_pool *p, int dtype, void *dst, float value, int64_t n);

/* acc: [n] f32, acc += src; src: [n] of src_dtype, F32, BF16 or INT8. p may be NULL: the caller's thread alone.
 * Neither acc nor src need be aligned. */
zf_status zf_accumulate(zf_pool *p, int src_dtype, void *acc, const void *src, int64_t n);

/* out: [ceil(n/256)] f64; x: [n] f32. */
zf_status zf_block_sum_squares(zf_pool *p, double *out, const float *x, int64_t n);

typedef struct {
	float grad_scale, beta1, beta2, one_minus_beta1, one_minus_beta2, step_size, inv_sqrt_bias2, eps, decay;
} zf_adamw_scalars;

/* param, m, v: [n] f32, in place; grad: [n] f32; out: [n] of out_dtype F32 or BF16, or NULL, and then
 * out_dtype is 0. */
zf_status zf_adamw(zf_pool *p, int out_dtype, void *out, float *param, float *m, float *v, const float *grad, int64_t n,
                   const zf_adamw_scalars *s);

#ifdef __cplusplus
}
#endif

#endif
