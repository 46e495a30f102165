/* The C ABI of libzerofleet_cuda.so, which kernels/cuda opens at run time: a worker is built without CUDA.
 *
 * X(name, parameters, arguments) is the function zf_cuda_<name>; all return a status. The Ops have the argument lists of
 * zf_kernels.h with a stream in the place of the pool; their pointers are the device's, and they return when the work
 * is enqueued. Rules:
 *
 * - A status >= 0 is a zf_status. A negative one is a CUDA error, negated; error_text puts it into words.
 * - What only the data can tell, an id out of range, is found on the device: the Op writes nothing useful, and so do the
 *   stream's later Ops with ids, until sync says which Op it was: *fault is one of ZF_FAULT_*, else 0.
 * - One thread at a time uses a stream. Functions of different streams and of a device may be called concurrently. */
#ifndef ZF_CUDA_H
#define ZF_CUDA_H

#include "../zf_kernels.h"

/* Changes with every change of a parameter below. */
#define ZF_CUDA_ABI 1

/* The most that one download takes, and what an upload is cut into: the size of a stream's pinned staging memory. */
#define ZF_STAGING_BYTES (8 << 20)

/* A stream's events are a ring: recording over an old one makes who waits for that wait for a later point, which is
 * right, since all that comes before that point was enqueued earlier than the wait. */
#define ZF_EVENTS 64

enum { ZF_DEVICE_MEMORY = 1, ZF_HOST_MEMORY = 2 }; /* the values of kernels.Kind */

enum { ZF_FAULT_ROPE = 1, ZF_FAULT_ATTENTION, ZF_FAULT_EMBEDDING, ZF_FAULT_CROSS_ENTROPY };

typedef struct zf_device zf_device;
typedef struct zf_stream zf_stream;

typedef struct {
	char name[128];    /* of the card */
	char isa[32];      /* "sm_90" */
	char products[64]; /* the library of matrix products, and its version */
	int64_t total_bytes, free_bytes;
} zf_device_info;

#define ZF_CUDA_FUNCTIONS(X)                                                                                              \
	X(abi, (void), ())                                                                                                    \
	X(error_text, (int status, char *text, int64_t bytes), (status, text, bytes))                                         \
	X(device_count, (int *count), (count))                                                                                \
	X(device_open, (int ordinal, zf_device **d, zf_device_info *info), (ordinal, d, info))                                \
	X(device_close, (zf_device * d), (d))                                                                                 \
	/* Zeroed memory, in *p. ZF_ENOMEM when there is not as much. */                                                      \
	X(alloc, (zf_device * d, int kind, int64_t bytes, void **p), (d, kind, bytes, p))                                     \
	X(release, (zf_device * d, int kind, void *p), (d, kind, p))                                                          \
	X(stream_open, (zf_device * d, zf_stream * *s), (d, s))                                                               \
	X(stream_close, (zf_stream * s), (s))                                                                                 \
	/* src has been read when it returns. */                                                                              \
	X(upload, (zf_stream * s, void *dst, const void *src, int64_t bytes), (s, dst, src, bytes))                           \
	/* *staged is where the bytes are after the next sync, and until the next call after it. ZF_ENOMEM when staging is */ \
	/* full: sync first. */                                                                                               \
	X(download, (zf_stream * s, const void *src, int64_t bytes, const void **staged), (s, src, bytes, staged))            \
	X(copy, (zf_stream * s, void *dst, const void *src, int64_t bytes), (s, dst, src, bytes))                             \
	X(record, (zf_stream * s, int event), (s, event))                                                                     \
	X(wait, (zf_stream * s, const zf_stream *of, int event), (s, of, event))                                              \
	X(sync, (zf_stream * s, int *fault), (s, fault))                                                                      \
	ZF_CUDA_OPS(X)

#define ZF_CUDA_OPS(X)                                                                                                 \
	X(matmul,                                                                                                          \
	  (zf_stream * s, int in_dtype, int out_dtype, void *out, const void *a, const void *b, int64_t m, int64_t n,      \
	   int64_t k, int trans_a, int trans_b, int accumulate),                                                           \
	  (s, in_dtype, out_dtype, out, a, b, m, n, k, trans_a, trans_b, accumulate))                                      \
	X(rmsnorm,                                                                                                         \
	  (zf_stream * s, int dtype, void *y, float *rstd, const void *x, const void *w, const void *residual, void *sum,  \
	   int64_t rows, int64_t cols, float eps),                                                                         \
	  (s, dtype, y, rstd, x, w, residual, sum, rows, cols, eps))                                                       \
	X(rmsnorm_backward,                                                                                                \
	  (zf_stream * s, int dtype, void *dx, float *dw, const void *dy, const void *x, const void *w, const float *rstd, \
	   const void *dadd, int64_t rows, int64_t cols),                                                                  \
	  (s, dtype, dx, dw, dy, x, w, rstd, dadd, rows, cols))                                                            \
	X(rope,                                                                                                            \
	  (zf_stream * s, int dtype, void *x, const int32_t *pos, const float *cos, const float *sin, int64_t positions,   \
	   int64_t rows, int64_t stride, int64_t heads, int64_t head_dim, int inverse),                                    \
	  (s, dtype, x, pos, cos, sin, positions, rows, stride, heads, head_dim, inverse))                                 \
	X(attention,                                                                                                       \
	  (zf_stream * s, int dtype, void *out, float *lse, const void *qkv, const int32_t *doc_start, int64_t b,          \
	   int64_t t, int64_t heads, int64_t kv_heads, int64_t head_dim, int64_t window, float scale),                     \
	  (s, dtype, out, lse, qkv, doc_start, b, t, heads, kv_heads, head_dim, window, scale))                            \
	X(attention_backward,                                                                                              \
	  (zf_stream * s, int dtype, void *dqkv, float *delta, const void *dout, const void *out, const float *lse,        \
	   const void *qkv, const int32_t *doc_start, int64_t b, int64_t t, int64_t heads, int64_t kv_heads,               \
	   int64_t head_dim, int64_t window, float scale),                                                                 \
	  (s, dtype, dqkv, delta, dout, out, lse, qkv, doc_start, b, t, heads, kv_heads, head_dim, window, scale))         \
	X(cached_attention,                                                                                                \
	  (zf_stream * s, int dtype, void *out, const void *qkv, void *keys, void *values, int64_t n, int64_t past,        \
	   int64_t heads, int64_t kv_heads, int64_t head_dim, int64_t window, float scale),                                \
	  (s, dtype, out, qkv, keys, values, n, past, heads, kv_heads, head_dim, window, scale))                           \
	X(swiglu, (zf_stream * s, int dtype, void *y, const void *gate_up, int64_t rows, int64_t f),                       \
	  (s, dtype, y, gate_up, rows, f))                                                                                 \
	X(swiglu_backward,                                                                                                 \
	  (zf_stream * s, int dtype, void *dgate_up, const void *dy, const void *gate_up, int64_t rows, int64_t f),        \
	  (s, dtype, dgate_up, dy, gate_up, rows, f))                                                                      \
	X(embedding,                                                                                                       \
	  (zf_stream * s, int dtype, void *y, const void *table, const int32_t *ids, int64_t rows, int64_t v, int64_t d),  \
	  (s, dtype, y, table, ids, rows, v, d))                                                                           \
	X(embedding_backward,                                                                                              \
	  (zf_stream * s, int dtype, float *dtable, const void *dy, const int32_t *ids, int64_t rows, int64_t v,           \
	   int64_t d),                                                                                                     \
	  (s, dtype, dtable, dy, ids, rows, v, d))                                                                         \
	X(cross_entropy,                                                                                                   \
	  (zf_stream * s, int ddtype, float *loss, void *dlogits, const float *logits, const int32_t *labels,              \
	   int64_t rows, int64_t v, float scale),                                                                          \
	  (s, ddtype, loss, dlogits, logits, labels, rows, v, scale))                                                      \
	X(add, (zf_stream * s, int dtype, void *out, const void *a, const void *b, int64_t n), (s, dtype, out, a, b, n))   \
	X(convert, (zf_stream * s, int dst_dtype, void *dst, int src_dtype, const void *src, int64_t n),                   \
	  (s, dst_dtype, dst, src_dtype, src, n))                                                                          \
	X(fill, (zf_stream * s, int dtype, void *dst, float value, int64_t n), (s, dtype, dst, value, n))                  \
	X(accumulate, (zf_stream * s, int src_dtype, void *acc, const void *src, int64_t n), (s, src_dtype, acc, src, n))  \
	X(block_sum_squares, (zf_stream * s, double *out, const float *x, int64_t n), (s, out, x, n))                      \
	X(adamw,                                                                                                           \
	  (zf_stream * s, int out_dtype, void *out, float *param, float *m, float *v, const float *grad, int64_t n,        \
	   const zf_adamw_scalars *scalars),                                                                               \
	  (s, out_dtype, out, param, m, v, grad, n, scalars))

#endif
