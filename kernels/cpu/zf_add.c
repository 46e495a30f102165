#include "zf_simd.h"

ZF_BODY void add_f32(float *out, const float *a, const float *b, int64_t n) {
	for (int64_t i = 0; i < n; i++)
		out[i] = a[i] + b[i];
}
ZF_EVERY_ISA(add_f32, (float *out, const float *a, const float *b, int64_t n), (out, a, b, n))

ZF_BODY void add_bf16(uint16_t *out, const uint16_t *a, const uint16_t *b, int64_t n) {
	for (int64_t i = 0; i < n; i++)
		out[i] = zf_f32_to_bf16(zf_bf16_to_f32(a[i]) + zf_bf16_to_f32(b[i]));
}
ZF_EVERY_ISA(add_bf16, (uint16_t * out, const uint16_t *a, const uint16_t *b, int64_t n), (out, a, b, n))

struct add {
	int dtype;
	void *out;
	const void *a, *b;
	int64_t n;
};

static void add_tile(void *arg, int64_t tile, int thread) {
	(void)thread;
	const struct add *o = arg;
	int64_t lo = tile * ZF_RANGE, n = zf_min(ZF_RANGE, o->n - lo);
	if (o->dtype == ZF_F32)
		add_f32_best((float *)o->out + lo, (const float *)o->a + lo, (const float *)o->b + lo, n);
	else
		add_bf16_best((uint16_t *)o->out + lo, (const uint16_t *)o->a + lo, (const uint16_t *)o->b + lo, n);
}

zf_status zf_add(zf_pool *p, int dtype, void *out, const void *a, const void *b, int64_t n) {
	if (dtype != ZF_F32 && dtype != ZF_BF16)
		return ZF_EINVAL;
	struct add o = {dtype, out, a, b, n};
	zf_parallel(p, zf_tiles(n, ZF_RANGE), add_tile, &o);
	return ZF_OK;
}
