// What every kernel shares on the device: element types and their roundings, loads and stores of groups, reductions of a
// warp and of a block, exp and log.
//
// The files compile with nvcc (-fmad=false: an fma is written where one is wanted; IEEE division and root, no flush to
// zero) and with g++ on the headers of kernels/cudaemu. All shared memory is dynamic (zf_shared), and kernels are
// launched through zf_launch, so that nothing but <cuda_runtime.h> differs.
#pragma once

#include <cuda_runtime.h>
#include <stdint.h>

#ifndef ZF_CUDAEMU
// One declaration for all kernels: its type is the coarsest alignment that any wants.
extern __shared__ uint4 zf_shared_memory[];
template <class T> __device__ __forceinline__ T *zf_shared() { return reinterpret_cast<T *>(zf_shared_memory); }
#define zf_check_aligned(p, bytes)
#endif

struct zf_bf16 {
	uint16_t bits;
};
struct zf_f16 {
	uint16_t bits;
};

__device__ __forceinline__ uint32_t zf_float_bits(float f) { return __float_as_uint(f); }
__device__ __forceinline__ float zf_bits_float(uint32_t u) { return __uint_as_float(u); }

// ---- To f32 and back: the bits of kernels/cpu, NaNs included ------------------------------------------------------

__device__ __forceinline__ float zf_widen(float f) { return f; }
__device__ __forceinline__ float zf_widen(zf_bf16 h) { return zf_bits_float((uint32_t)h.bits << 16); }
__device__ __forceinline__ float zf_widen(zf_f16 h) {
	uint32_t sign = (uint32_t)(h.bits & 0x8000u) << 16, exp = (h.bits >> 10) & 0x1fu, man = h.bits & 0x3ffu;
	if (exp == 0x1f)
		return zf_bits_float(sign | 0x7f800000u | (man ? 0x400000u : 0u) | man << 13);
	if (exp == 0) // zero, or man * 2^-24, which f32 holds exactly
		return zf_bits_float(sign | zf_float_bits((float)man * 0x1p-24f));
	return zf_bits_float(sign | (exp + 112) << 23 | man << 13);
}

template <class T> struct zf_narrow;
template <> struct zf_narrow<float> {
	static __device__ __forceinline__ float of(float f) { return f; }
};
template <> struct zf_narrow<zf_bf16> {
	static __device__ __forceinline__ zf_bf16 of(float f) {
		uint32_t u = zf_float_bits(f);
		if ((u & 0x7fffffffu) > 0x7f800000u)
			return zf_bf16{(uint16_t)((u >> 16) | 0x40u)};
		return zf_bf16{(uint16_t)((u + 0x7fffu + ((u >> 16) & 1u)) >> 16)};
	}
};
template <> struct zf_narrow<zf_f16> {
	static __device__ __forceinline__ zf_f16 of(float f) {
		uint32_t u = zf_float_bits(f), sign = (u >> 16) & 0x8000u, a = u & 0x7fffffffu;
		if (a > 0x7f800000u)
			return zf_f16{(uint16_t)(sign | 0x7e00u | ((a >> 13) & 0x1ffu))};
		if (a >= 0x477ff000u) // 65520, the midpoint above the largest finite value
			return zf_f16{(uint16_t)(sign | 0x7c00u)};
		if (a < 0x38800000u) // below 2^-14: 0.5's unit in the last place is 2^-24, so the sum rounds there
			return zf_f16{(uint16_t)(sign | (zf_float_bits(zf_bits_float(a) + 0.5f) - 0x3f000000u))};
		return zf_f16{(uint16_t)(sign | ((a - (112u << 23) + 0xfffu + ((a >> 13) & 1u)) >> 13))};
	}
};

// ---- Groups of elements -------------------------------------------------------------------------------------------

// A thread takes 16 bytes of the narrower type at a time: a warp's access is 512 bytes end to end.
template <class T> struct zf_group { static constexpr int n = 16 / sizeof(T); };

// zf_load reads n <= N elements, 0 for the others; zf_store writes n. V: they are all there, and lie so that one access of
// N*sizeof(T) bytes (two of 16 for eight f32) takes them. The values are the same either way.
template <int N, bool V, class T> __device__ __forceinline__ void zf_load(float *v, const T *p, int64_t n) {
	if (V) {
		constexpr int bytes = N * (int)sizeof(T) < 16 ? N * (int)sizeof(T) : 16, per = bytes / (int)sizeof(T);
#pragma unroll
		for (int i = 0; i < N; i += per) {
			alignas(16) T part[per];
			zf_check_aligned(p + i, bytes);
			if (bytes == 16)
				*reinterpret_cast<uint4 *>(part) = *reinterpret_cast<const uint4 *>(p + i);
			else
				*reinterpret_cast<uint2 *>(part) = *reinterpret_cast<const uint2 *>(p + i);
#pragma unroll
			for (int k = 0; k < per; k++)
				v[i + k] = zf_widen(part[k]);
		}
	} else {
#pragma unroll
		for (int k = 0; k < N; k++)
			v[k] = k < n ? zf_widen(p[k]) : 0.0f;
	}
}

template <int N, bool V, class T> __device__ __forceinline__ void zf_store(T *p, const float *v, int64_t n) {
	if (V) {
		constexpr int bytes = N * (int)sizeof(T) < 16 ? N * (int)sizeof(T) : 16, per = bytes / (int)sizeof(T);
#pragma unroll
		for (int i = 0; i < N; i += per) {
			alignas(16) T part[per];
#pragma unroll
			for (int k = 0; k < per; k++)
				part[k] = zf_narrow<T>::of(v[i + k]);
			zf_check_aligned(p + i, bytes);
			if (bytes == 16)
				*reinterpret_cast<uint4 *>(p + i) = *reinterpret_cast<const uint4 *>(part);
			else
				*reinterpret_cast<uint2 *>(p + i) = *reinterpret_cast<const uint2 *>(part);
		}
	} else {
#pragma unroll
		for (int k = 0; k < N; k++)
			if (k < n)
				p[k] = zf_narrow<T>::of(v[k]);
	}
}

__device__ __forceinline__ float4 zf_load4(const float *p) {
	zf_check_aligned(p, 16);
	return *reinterpret_cast<const float4 *>(p);
}

// ---- Reductions ---------------------------------------------------------------------------------------------------

// Each is a tree whose shape depends on the block's size alone. All threads get the result.
struct zf_plus {
	template <class T> __device__ __forceinline__ T operator()(T a, T b) const { return a + b; }
};
struct zf_greater { // passes over NaNs
	__device__ __forceinline__ float operator()(float a, float b) const { return fmaxf(a, b); }
};

template <class T, class F> __device__ __forceinline__ T zf_warp_reduce(T v, F f) {
#pragma unroll
	for (int w = 16; w > 0; w /= 2)
		v = f(v, __shfl_xor_sync(0xffffffffu, v, w));
	return v;
}

// zf_block_reduce uses 32 elements of shared memory, which are free again when it returns.
template <class T, class F> __device__ __forceinline__ T zf_block_reduce(T v, F f, T none, T *buf) {
	int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
	v = zf_warp_reduce(v, f);
	if (lane == 0)
		buf[warp] = v;
	__syncthreads();
	v = zf_warp_reduce(lane < warps ? buf[lane] : none, f);
	__syncthreads();
	return v;
}

// ---- exp and log: those of kernels/cpu/zf_exp.h, whose comments say how good they are ------------------------------

__device__ __forceinline__ float zf_exp(float x) {
	constexpr float round = 0x1.8p+23f, min = -0x1.5d589ep+6f;
	float c = x > 89.0f ? 89.0f : x;
	c = c < min ? min : c; // a NaN passes both
	float t = fmaf(c, 0x1.715476p+0f, round), n = t - round;
	float r = fmaf(n, -0x1.62e43p-1f, c);
	r = fmaf(n, 0x1.05c61p-29f, r);
	float p = fmaf(0x1.6d117cp-10f, r, 0x1.120be2p-7f);
	p = fmaf(p, r, 0x1.555518p-5f);
	p = fmaf(p, r, 0x1.5554dcp-3f);
	p = fmaf(p, r, 0.5f);
	p = fmaf(p, r, 1.0f);
	p = fmaf(p, r, 1.0f);
	int i = (int)(zf_float_bits(t) - zf_float_bits(round)), half = i >> 1; // 2^i in two factors: i may be 128
	p = p * zf_bits_float((uint32_t)(half + 127) << 23) * zf_bits_float((uint32_t)(i - half + 127) << 23);
	return x < min ? 0.0f : p;
}

__device__ __forceinline__ float zf_log(float x) {
	if (!(x > 0) || x > 0x1.fffffep+127f)
		return x == 0 ? -INFINITY : x > 0 ? x : NAN;
	double d = x;
	uint64_t u = (uint64_t)__double_as_longlong(d);
	uint64_t e = (u - 0x3fe6a09e667f3bcdull) >> 52; // sqrt(1/2): what is below it belongs to the exponent before
	d = __longlong_as_double((long long)(u - (e << 52)));
	double s = (d - 1) / (d + 1), q = s * s;
	double series = 1 + q * (1.0 / 3 + q * (1.0 / 5 + q * (1.0 / 7 + q * (1.0 / 9 + q * (1.0 / 11)))));
	double n = (double)(int32_t)((uint32_t)e << 20) * 0x1p-20; // the exponent's 12 bits, with their sign
	return (float)(n * 0x1.62e42fefa39efp-1 + 2 * s * series);
}
