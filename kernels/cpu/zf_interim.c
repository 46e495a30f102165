/* INTERIM: plain reference versions of the fused kernels, so that the rest can be integrated. Delete this file (or the
 * functions in it that you replace) when the real ones are there. */
#include "zf_simd.h"
#include "../zf_kernels.h"
#include <math.h>
#include <string.h>

static float ld(int dt, const void *p, int64_t i) {
	return dt == ZF_F32 ? ((const float *)p)[i] : zf_bf16_to_f32(((const uint16_t *)p)[i]);
}
static void st(int dt, void *p, int64_t i, float v) {
	if (dt == ZF_F32)
		((float *)p)[i] = v;
	else
		((uint16_t *)p)[i] = zf_f32_to_bf16(v);
}

struct rn {
	int dt;
	void *y;
	float *rstd;
	const void *x, *w, *res;
	void *sum;
	int64_t cols;
	float eps;
};
static void rn_tile(void *a, int64_t r, int t) {
	(void)t;
	struct rn *c = a;
	float s = 0;
	int64_t o = r * c->cols;
	for (int64_t i = 0; i < c->cols; i++) {
		float v = ld(c->dt, c->x, o + i);
		if (c->res) {
			v += ld(c->dt, c->res, o + i);
			st(c->dt, c->sum, o + i, v);
			v = ld(c->dt, c->sum, o + i);
		}
		s += v * v;
	}
	float rs = 1.0f / sqrtf(s / (float)c->cols + c->eps);
	c->rstd[r] = rs;
	const void *src = c->res ? c->sum : c->x;
	for (int64_t i = 0; i < c->cols; i++)
		st(c->dt, c->y, o + i, ld(c->dt, src, o + i) * rs * ld(c->dt, c->w, i));
}
zf_status zf_rmsnorm(zf_pool *p, int dt, void *y, float *rstd, const void *x, const void *w, const void *res, void *sum,
                     int64_t rows, int64_t cols, float eps) {
	struct rn c = {dt, y, rstd, x, w, res, sum, cols, eps};
	zf_parallel(p, rows, rn_tile, &c);
	return ZF_OK;
}

zf_status zf_rmsnorm_backward(zf_pool *p, int dt, void *dx, float *dw, const void *dy, const void *x, const void *w,
                              const float *rstd, const void *dadd, int64_t rows, int64_t cols) {
	(void)p;
	memset(dw, 0, sizeof(float) * (size_t)cols);
	for (int64_t r = 0; r < rows; r++) {
		int64_t o = r * cols;
		float dot = 0, rs = rstd[r];
		for (int64_t i = 0; i < cols; i++) {
			float g = ld(dt, dy, o + i), xv = ld(dt, x, o + i);
			dw[i] += g * xv * rs;
			dot += g * ld(dt, w, i) * xv;
		}
		dot = dot * rs * rs * rs / (float)cols;
		for (int64_t i = 0; i < cols; i++) {
			float v = ld(dt, dy, o + i) * ld(dt, w, i) * rs - ld(dt, x, o + i) * dot;
			if (dadd)
				v += ld(dt, dadd, o + i);
			st(dt, dx, o + i, v);
		}
	}
	return ZF_OK;
}

zf_status zf_rope(zf_pool *p, int dt, void *x, const int32_t *pos, const float *cs, const float *sn, int64_t positions,
                  int64_t rows, int64_t stride, int64_t heads, int64_t hd, int inverse) {
	(void)p;
	for (int64_t r = 0; r < rows; r++)
		if (pos[r] < 0 || pos[r] >= positions)
			return ZF_EID;
	for (int64_t r = 0; r < rows; r++)
		for (int64_t h = 0; h < heads; h++)
			for (int64_t i = 0; i < hd / 2; i++) {
				int64_t a = r * stride + h * hd + i, b = a + hd / 2;
				float c = cs[pos[r] * (hd / 2) + i], s = sn[pos[r] * (hd / 2) + i];
				if (inverse)
					s = -s;
				float u = ld(dt, x, a), v = ld(dt, x, b);
				st(dt, x, a, u * c - v * s);
				st(dt, x, b, v * c + u * s);
			}
	return ZF_OK;
}

struct at {
	int dt;
	void *out;
	float *lse;
	const void *qkv;
	const int32_t *ds;
	int64_t t, H, G, K, win;
	float scale;
	zf_pool *p;
	void *dqkv;
	const void *dout, *o;
	float *delta;
};
static int64_t lowest(struct at *c, int64_t b, int64_t i) {
	int64_t l = c->ds[b * c->t + i];
	if (c->win > 0 && i - c->win + 1 > l)
		l = i - c->win + 1;
	return l;
}
static void at_tile(void *a, int64_t tile, int th) {
	struct at *c = a;
	int64_t b = tile / c->H, h = tile % c->H, g = h / (c->H / c->G), S = (c->H + 2 * c->G) * c->K;
	float *sc = zf_scratch(c->p, th, sizeof(float) * (size_t)(c->t + c->K));
	float *acc = sc + c->t;
	for (int64_t i = 0; i < c->t; i++) {
		int64_t lo = lowest(c, b, i);
		const int64_t q = (b * c->t + i) * S + h * c->K;
		float m = -INFINITY, z = 0;
		for (int64_t j = lo; j <= i; j++) {
			float s = 0;
			int64_t k = (b * c->t + j) * S + (c->H + g) * c->K;
			for (int64_t e = 0; e < c->K; e++)
				s += ld(c->dt, c->qkv, q + e) * ld(c->dt, c->qkv, k + e);
			sc[j] = s * c->scale;
			if (sc[j] > m)
				m = sc[j];
		}
		memset(acc, 0, sizeof(float) * (size_t)c->K);
		for (int64_t j = lo; j <= i; j++) {
			float pr = expf(sc[j] - m);
			z += pr;
			int64_t v = (b * c->t + j) * S + (c->H + c->G + g) * c->K;
			for (int64_t e = 0; e < c->K; e++)
				acc[e] += pr * ld(c->dt, c->qkv, v + e);
		}
		for (int64_t e = 0; e < c->K; e++)
			st(c->dt, c->out, (b * c->t + i) * c->H * c->K + h * c->K + e, acc[e] / z);
		c->lse[(b * c->H + h) * c->t + i] = m + logf(z);
	}
}
static zf_status docs_ok(const int32_t *ds, int64_t b, int64_t t) {
	for (int64_t i = 0; i < b * t; i++)
		if (ds[i] < 0 || ds[i] > i % t)
			return ZF_EID;
	return ZF_OK;
}
zf_status zf_attention(zf_pool *p, int dt, void *out, float *lse, const void *qkv, const int32_t *ds, int64_t b,
                       int64_t t, int64_t H, int64_t G, int64_t K, int64_t win, float scale) {
	struct at c = {dt, out, lse, qkv, ds, t, H, G, K, win, scale, p, 0, 0, 0, 0};
	if (docs_ok(ds, b, t))
		return ZF_EID;
	zf_parallel(p, b * H, at_tile, &c);
	return ZF_OK;
}
static void ab_tile(void *a, int64_t tile, int th) {
	struct at *c = a;
	int64_t b = tile / c->G, g = tile % c->G, S = (c->H + 2 * c->G) * c->K, R = c->H / c->G, K = c->K, T = c->t;
	float *dk = zf_scratch(c->p, th, sizeof(float) * (size_t)(2 * T * K + K)), *dv = dk + T * K, *dq = dv + T * K;
	memset(dk, 0, sizeof(float) * (size_t)(2 * T * K));
	for (int64_t h = g * R; h < (g + 1) * R; h++)
		for (int64_t i = 0; i < T; i++) {
			int64_t q = (b * T + i) * S + h * K, o = (b * T + i) * c->H * K + h * K;
			float D = 0, L = c->lse[(b * c->H + h) * T + i];
			for (int64_t e = 0; e < K; e++)
				D += ld(c->dt, c->dout, o + e) * ld(c->dt, c->o, o + e);
			c->delta[(b * c->H + h) * T + i] = D;
			memset(dq, 0, sizeof(float) * (size_t)K);
			for (int64_t j = lowest(c, b, i); j <= i; j++) {
				int64_t k = (b * T + j) * S + (c->H + g) * K, v = k + c->G * K;
				float s = 0, dp = 0;
				for (int64_t e = 0; e < K; e++) {
					s += ld(c->dt, c->qkv, q + e) * ld(c->dt, c->qkv, k + e);
					dp += ld(c->dt, c->dout, o + e) * ld(c->dt, c->qkv, v + e);
				}
				float pr = expf(s * c->scale - L), d = pr * (dp - D) * c->scale;
				for (int64_t e = 0; e < K; e++) {
					dv[j * K + e] += pr * ld(c->dt, c->dout, o + e);
					dk[j * K + e] += d * ld(c->dt, c->qkv, q + e);
					dq[e] += d * ld(c->dt, c->qkv, k + e);
				}
			}
			for (int64_t e = 0; e < K; e++)
				st(c->dt, c->dqkv, q + e, dq[e]);
		}
	for (int64_t j = 0; j < T; j++)
		for (int64_t e = 0; e < K; e++) {
			int64_t k = (b * T + j) * S + (c->H + g) * K + e;
			st(c->dt, c->dqkv, k, dk[j * K + e]);
			st(c->dt, c->dqkv, k + c->G * K, dv[j * K + e]);
		}
}
zf_status zf_attention_backward(zf_pool *p, int dt, void *dqkv, float *delta, const void *dout, const void *out,
                                const float *lse, const void *qkv, const int32_t *ds, int64_t b, int64_t t, int64_t H,
                                int64_t G, int64_t K, int64_t win, float scale) {
	struct at c = {dt, 0, (float *)lse, qkv, ds, t, H, G, K, win, scale, p, dqkv, dout, out, delta};
	if (docs_ok(ds, b, t))
		return ZF_EID;
	zf_parallel(p, b * G, ab_tile, &c);
	return ZF_OK;
}
zf_status zf_cached_attention(zf_pool *p, int dt, void *out, const void *qkv, void *keys, void *values, int64_t n,
                              int64_t past, int64_t H, int64_t G, int64_t K, int64_t win, float scale) {
	int64_t S = (H + 2 * G) * K;
	(void)p;
	for (int64_t i = 0; i < n; i++)
		for (int64_t e = 0; e < G * K; e++) {
			st(dt, keys, (past + i) * G * K + e, ld(dt, qkv, i * S + H * K + e));
			st(dt, values, (past + i) * G * K + e, ld(dt, qkv, i * S + (H + G) * K + e));
		}
	float *sc = zf_scratch(p, 0, sizeof(float) * (size_t)(past + n + K));
	float *acc = sc + past + n;
	for (int64_t i = 0; i < n; i++)
		for (int64_t h = 0; h < H; h++) {
			int64_t g = h / (H / G), at = past + i, lo = win > 0 && at - win + 1 > 0 ? at - win + 1 : 0;
			float m = -INFINITY, z = 0;
			for (int64_t j = lo; j <= at; j++) {
				float s = 0;
				for (int64_t e = 0; e < K; e++)
					s += ld(dt, qkv, i * S + h * K + e) * ld(dt, keys, (j * G + g) * K + e);
				sc[j] = s * scale;
				if (sc[j] > m)
					m = sc[j];
			}
			memset(acc, 0, sizeof(float) * (size_t)K);
			for (int64_t j = lo; j <= at; j++) {
				float pr = expf(sc[j] - m);
				z += pr;
				for (int64_t e = 0; e < K; e++)
					acc[e] += pr * ld(dt, values, (j * G + g) * K + e);
			}
			for (int64_t e = 0; e < K; e++)
				st(dt, out, i * H * K + h * K + e, acc[e] / z);
		}
	return ZF_OK;
}

zf_status zf_swiglu(zf_pool *p, int dt, void *y, const void *gu, int64_t rows, int64_t f) {
	(void)p;
	for (int64_t r = 0; r < rows; r++)
		for (int64_t i = 0; i < f; i++) {
			float g = ld(dt, gu, r * 2 * f + i);
			st(dt, y, r * f + i, g / (1 + expf(-g)) * ld(dt, gu, r * 2 * f + f + i));
		}
	return ZF_OK;
}
zf_status zf_swiglu_backward(zf_pool *p, int dt, void *d, const void *dy, const void *gu, int64_t rows, int64_t f) {
	(void)p;
	for (int64_t r = 0; r < rows; r++)
		for (int64_t i = 0; i < f; i++) {
			float g = ld(dt, gu, r * 2 * f + i), u = ld(dt, gu, r * 2 * f + f + i), y = ld(dt, dy, r * f + i),
				  s = 1 / (1 + expf(-g));
			st(dt, d, r * 2 * f + i, y * u * s * (1 + g * (1 - s)));
			st(dt, d, r * 2 * f + f + i, y * g * s);
		}
	return ZF_OK;
}
zf_status zf_embedding(zf_pool *p, int dt, void *y, const void *table, const int32_t *ids, int64_t rows, int64_t v,
                       int64_t d) {
	(void)p;
	for (int64_t r = 0; r < rows; r++)
		if (ids[r] < 0 || ids[r] >= v)
			return ZF_EID;
	int64_t w = dt == ZF_F32 ? 4 : 2;
	for (int64_t r = 0; r < rows; r++)
		memcpy((char *)y + r * d * w, (const char *)table + ids[r] * d * w, (size_t)(d * w));
	return ZF_OK;
}
zf_status zf_embedding_backward(zf_pool *p, int dt, float *dt_, const void *dy, const int32_t *ids, int64_t rows,
                                int64_t v, int64_t d) {
	(void)p;
	for (int64_t r = 0; r < rows; r++)
		if (ids[r] < 0 || ids[r] >= v)
			return ZF_EID;
	for (int64_t r = 0; r < rows; r++)
		for (int64_t i = 0; i < d; i++)
			dt_[ids[r] * d + i] += ld(dt, dy, r * d + i);
	return ZF_OK;
}
struct ce {
	int dd;
	float *loss;
	void *dl;
	const float *lo;
	const int32_t *lab;
	int64_t v;
	float scale;
};
static void ce_tile(void *a, int64_t r, int t) {
	(void)t;
	struct ce *c = a;
	const float *x = c->lo + r * c->v;
	float m = -INFINITY, z = 0;
	if (c->lab[r] < 0) {
		c->loss[r] = 0;
		if (c->dl)
			for (int64_t i = 0; i < c->v; i++)
				st(c->dd, c->dl, r * c->v + i, 0);
		return;
	}
	for (int64_t i = 0; i < c->v; i++)
		if (x[i] > m)
			m = x[i];
	for (int64_t i = 0; i < c->v; i++)
		z += expf(x[i] - m);
	c->loss[r] = m + logf(z) - x[c->lab[r]];
	if (c->dl)
		for (int64_t i = 0; i < c->v; i++)
			st(c->dd, c->dl, r * c->v + i, c->scale * (expf(x[i] - m) / z - (i == c->lab[r])));
}
zf_status zf_cross_entropy(zf_pool *p, int dd, float *loss, void *dl, const float *lo, const int32_t *lab, int64_t rows,
                           int64_t v, float scale) {
	for (int64_t r = 0; r < rows; r++)
		if (lab[r] < -1 || lab[r] >= v)
			return ZF_EID;
	struct ce c = {dd, loss, dl, lo, lab, v, scale};
	zf_parallel(p, rows, ce_tile, &c);
	return ZF_OK;
}
