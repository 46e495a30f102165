#include "zf_simd.h"

ZF_BODY void fill_f32(float *dst, float value, int64_t n) {
	for (int64_t i = 0; i < n; i++)
		dst[i] = value;
}
ZF_EVERY_ISA(fill_f32, (float *dst, float value, int64_t n), (dst, value, n))

ZF_BODY void fill_bf16(uint16_t *dst, uint16_t value, int64_t n) {
	for (int64_t i = 0; i < n; i++)
		dst[i] = value;
}
ZF_EVERY_ISA(fill_bf16, (uint16_t * dst, uint16_t value, int64_t n), (dst, value, n))

struct fill {
	int dtype;
	void *dst;
	float value;
	int64_t n;
};

static void fill_tile(void *arg, int64_t tile, int thread) {
	(void)thread;
	const struct fill *o = arg;
	int64_t lo = tile * ZF_RANGE, n = zf_min(ZF_RANGE, o->n - lo);
	if (o->dtype == ZF_F32)
		fill_f32_best((float *)o->dst + lo, o->value, n);
	else
		fill_bf16_best((uint16_t *)o->dst + lo, zf_f32_to_bf16(o->value), n);
}

zf_status zf_fill(zf_pool *p, int dtype, void *dst, float value, int64_t n) {
	if (dtype != ZF_F32 && dtype != ZF_BF16)
		return ZF_EINVAL;
	struct fill o = {dtype, dst, value, n};
	zf_parallel(p, zf_tiles(n, ZF_RANGE), fill_tile, &o);
	return ZF_OK;
}
