/* One block of ZF_INT8 to f32 and back: kernels.Int8 says what it is. A block need not be aligned. */
#ifndef ZF_INT8_H
#define ZF_INT8_H

#include "zf_simd.h"

ZF_BODY void zf_int8_widen(float *x, const char *block) {
	const int8_t *q = (const int8_t *)block;
	float scale;
	memcpy(&scale, block + ZF_INT8_BLOCK, sizeof scale);
	for (int i = 0; i < ZF_INT8_BLOCK; i++)
		x[i] = (float)q[i] * scale;
}

ZF_BODY void zf_int8_narrow(char *block, const float *x) {
	uint32_t top = 0; /* magnitudes order like their bits; NaNs are above infinity */
	for (int i = 0; i < ZF_INT8_BLOCK; i++) {
		uint32_t a = zf_f32_bits(x[i]) & 0x7fffffffu;
		top = a > top ? a : top;
	}
	float scale, magnitude = zf_bits_f32(top);
	if (top >= 0x7f800000u || magnitude < 0x1p-100f) {
		scale = top >= 0x7f800000u ? zf_bits_f32(0x7fc00000u) : 0.0f;
		memset(block, 0, ZF_INT8_BLOCK);
	} else {
		const float round = 0x1.8p+23f; /* adding it leaves the nearest integer, ties to even, in the low bits */
		float inverse = 127.0f / magnitude;
		scale = magnitude / 127.0f;
		for (int i = 0; i < ZF_INT8_BLOCK; i++)
			block[i] = (char)(zf_f32_bits(x[i] * inverse + round) & 0xffu);
	}
	memcpy(block + ZF_INT8_BLOCK, &scale, sizeof scale);
}

#endif
