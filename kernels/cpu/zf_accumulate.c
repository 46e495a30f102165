#include "zf_int8.h"

ZF_BODY void accumulate_f32(zf_unaligned_f32 *acc, const zf_unaligned_f32 *src, int64_t n) {
	for (int64_t i = 0; i < n; i++)
		acc[i] += src[i];
}
ZF_EVERY_ISA(accumulate_f32, (zf_unaligned_f32 * acc, const zf_unaligned_f32 *src, int64_t n), (acc, src, n))

ZF_BODY void accumulate_bf16(zf_unaligned_f32 *acc, const zf_unaligned_u16 *src, int64_t n) {
	for (int64_t i = 0; i < n; i++)
		acc[i] += zf_bf16_to_f32(src[i]);
}
ZF_EVERY_ISA(accumulate_bf16, (zf_unaligned_f32 * acc, const zf_unaligned_u16 *src, int64_t n), (acc, src, n))

ZF_BODY void accumulate_int8(zf_unaligned_f32 *acc, const char *src, int64_t n) {
	float x[ZF_INT8_BLOCK];
	for (int64_t i = 0; i < n; i += ZF_INT8_BLOCK) {
		zf_int8_widen(x, src + i / ZF_INT8_BLOCK * ZF_INT8_BYTES);
		for (int k = 0; k < ZF_INT8_BLOCK; k++)
			acc[i + k] += x[k];
	}
}
ZF_EVERY_ISA(accumulate_int8, (zf_unaligned_f32 * acc, const char *src, int64_t n), (acc, src, n))

struct accumulate {
	int dtype;
	zf_unaligned_f32 *acc;
	const void *src;
	int64_t n;
};

static void accumulate_range(const struct accumulate *o, int64_t lo, int64_t n) {
	if (o->dtype == ZF_F32)
		accumulate_f32_best(o->acc + lo, (const zf_unaligned_f32 *)o->src + lo, n);
	else if (o->dtype == ZF_INT8)
		accumulate_int8_best(o->acc + lo, (const char *)o->src + lo / ZF_INT8_BLOCK * ZF_INT8_BYTES, n);
	else
		accumulate_bf16_best(o->acc + lo, (const zf_unaligned_u16 *)o->src + lo, n);
}

static void accumulate_tile(void *arg, int64_t tile, int thread) {
	(void)thread;
	const struct accumulate *o = arg;
	int64_t lo = tile * ZF_RANGE;
	accumulate_range(o, lo, zf_min(ZF_RANGE, o->n - lo));
}

zf_status zf_accumulate(zf_pool *p, int src_dtype, void *acc, const void *src, int64_t n) {
	if (src_dtype != ZF_F32 && src_dtype != ZF_BF16 && (src_dtype != ZF_INT8 || n % ZF_INT8_BLOCK != 0))
		return ZF_EINVAL;
	struct accumulate o = {src_dtype, acc, src, n};
	if (p)
		zf_parallel(p, zf_tiles(n, ZF_RANGE), accumulate_tile, &o);
	else
		accumulate_range(&o, 0, n);
	return ZF_OK;
}
