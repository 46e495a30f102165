// The part of CUDA C++ and of its runtime that kernels/cuda uses, on the CPU: with -I to this folder and -DZF_CUDAEMU its .cu files
// compile with g++ as they are. emulator.cpp says what is checked.
#pragma once

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <functional>
#include <tuple>

#define __global__
#define __device__
#define __forceinline__ inline __attribute__((always_inline))

struct uint2 {
	unsigned x, y;
};
struct alignas(16) uint4 {
	unsigned x, y, z, w;
};
struct alignas(16) float4 {
	float x, y, z, w;
};
static inline float4 make_float4(float x, float y, float z, float w) { return float4{x, y, z, w}; }

struct dim3 {
	unsigned x, y, z;
	dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

// ---- What a kernel sees -------------------------------------------------------------------------------------------

struct zf_emu_block {
	dim3 index, size, grid;
	unsigned char *shared;
};
struct zf_emu_thread {
	dim3 index;
	zf_emu_block *block;
};
extern __thread zf_emu_thread *zf_emu_self; // of the fiber that runs on this OS thread

#define threadIdx (zf_emu_self->index)
#define blockIdx (zf_emu_self->block->index)
#define blockDim (zf_emu_self->block->size)
#define gridDim (zf_emu_self->block->grid)

template <class T> static inline T *zf_shared() { return reinterpret_cast<T *>(zf_emu_self->block->shared); }

// zf_emu_fail ends the kernel with an error. It does not return.
[[noreturn]] void zf_emu_fail(const char *why);

// zf_emu_barrier returns when all threads of the block are at the one of this line, with the or of their values.
int zf_emu_barrier(int line, int value);
#define __syncthreads() ((void)zf_emu_barrier(__LINE__, 0))
#define __syncthreads_or(v) zf_emu_barrier(__LINE__, (v) != 0)

// zf_emu_exchange returns when all 32 lanes of the warp have come with a value: they are at its address, until the second exchange after it.
const uint64_t *zf_emu_exchange(unsigned mask, uint64_t value);

template <class T> static inline T __shfl_xor_sync(unsigned mask, T v, int with) {
	static_assert(sizeof(T) <= 8, "a shuffle moves at most eight bytes");
	uint64_t bits = 0;
	memcpy(&bits, &v, sizeof v);
	const uint64_t *lanes = zf_emu_exchange(mask, bits);
	memcpy(&v, &lanes[(threadIdx.x % 32) ^ (unsigned)with], sizeof v);
	return v;
}

static inline unsigned __ballot_sync(unsigned mask, bool v) {
	const uint64_t *lanes = zf_emu_exchange(mask, v);
	unsigned all = 0;
	for (int i = 0; i < 32; i++)
		all |= (unsigned)lanes[i] << i;
	return all;
}

static inline int __ffs(int v) { return __builtin_ffs(v); }

template <class To, class From> static inline To zf_emu_bits(From v) {
	static_assert(sizeof(To) == sizeof(From), "the same width");
	To t;
	memcpy(&t, &v, sizeof t);
	return t;
}
static inline unsigned __float_as_uint(float v) { return zf_emu_bits<unsigned>(v); }
static inline float __uint_as_float(unsigned v) { return zf_emu_bits<float>(v); }
static inline long long __double_as_longlong(double v) { return zf_emu_bits<long long>(v); }
static inline double __longlong_as_double(long long v) { return zf_emu_bits<double>(v); }

#define zf_check_aligned(p, bytes)                                                                                     \
	do {                                                                                                               \
		if ((uintptr_t)(p) % (uintptr_t)(bytes) != 0)                                                                  \
			zf_emu_fail("an access of several elements that is not aligned to them all");                              \
	} while (0)

// ---- The runtime --------------------------------------------------------------------------------------------------

enum cudaError_t {
	cudaSuccess = 0,
	cudaErrorInvalidValue = 1,
	cudaErrorMemoryAllocation = 2,
	cudaErrorInvalidDevice = 101,
	cudaErrorLaunchFailure = 719,
};
enum { cudaMemcpyDefault = 4, cudaStreamNonBlocking = 1, cudaEventDisableTiming = 2 };
enum { cudaHostAllocPortable = 1, cudaHostAllocMapped = 2 };
enum cudaDeviceAttr {
	cudaDevAttrComputeCapabilityMajor,
	cudaDevAttrComputeCapabilityMinor,
	cudaDevAttrMaxSharedMemoryPerBlockOptin,
};
struct cudaDeviceProp {
	char name[256];
};
typedef struct zf_emu_stream *cudaStream_t;
typedef struct zf_emu_event *cudaEvent_t;

const char *zf_emu_why(void); // what ended a kernel, NULL when nothing did
const char *cudaGetErrorName(cudaError_t e);
const char *cudaGetErrorString(cudaError_t e);
cudaError_t cudaGetLastError(void);
cudaError_t cudaGetDeviceCount(int *n);
cudaError_t cudaSetDevice(int ordinal);
cudaError_t cudaDeviceGetAttribute(int *v, cudaDeviceAttr a, int ordinal);
cudaError_t cudaGetDeviceProperties(cudaDeviceProp *p, int ordinal);
cudaError_t cudaDeviceSynchronize(void);
cudaError_t cudaMemGetInfo(size_t *left, size_t *all);
cudaError_t cudaMalloc(void **p, size_t bytes);
cudaError_t cudaFree(void *p);
cudaError_t cudaHostAlloc(void **p, size_t bytes, int flags);
cudaError_t cudaFreeHost(void *p);
cudaError_t cudaMemset(void *p, int v, size_t bytes);
cudaError_t cudaMemsetAsync(void *p, int v, size_t bytes, cudaStream_t s);
cudaError_t cudaMemcpyAsync(void *dst, const void *src, size_t bytes, int kind, cudaStream_t s);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, int flags);
cudaError_t cudaStreamDestroy(cudaStream_t s);
cudaError_t cudaStreamSynchronize(cudaStream_t s);
cudaError_t cudaStreamWaitEvent(cudaStream_t s, cudaEvent_t e, int flags);
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *e, int flags);
cudaError_t cudaEventDestroy(cudaEvent_t e);
cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t s);

cudaError_t zf_emu_enqueue(dim3 grid, int threads, size_t shared, cudaStream_t s, std::function<void()> body);

template <class... P, class... A>
cudaError_t zf_emu_launch(void (*kernel)(P...), dim3 grid, int threads, size_t shared, cudaStream_t s, A... arguments) {
	std::tuple<P...> kept(arguments...);
	return zf_emu_enqueue(grid, threads, shared, s, [kernel, kept] { std::apply(kernel, kept); });
}
