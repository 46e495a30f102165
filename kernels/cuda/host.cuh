// What the launchers share on the host: a device, a stream, and the choice of a kernel for a type and an alignment.
#pragma once

#include "device.cuh"
#include "zf_cuda.h"

#include <type_traits>

#define ZF_EXPORT extern "C" __attribute__((visibility("default")))

struct zf_products; // the matrix product library's own

struct zf_device {
	int ordinal;
	int shared_bytes; // of a block at most
	zf_products *products;
};

struct zf_stream {
	zf_device *device;
	cudaStream_t on;
	int *fault;      // on the device: which Op found an id out of range, 0 for none
	int *fault_host; // pinned
	char *staging;   // pinned, ZF_STAGING_BYTES
	int64_t staged;
	cudaEvent_t events[ZF_EVENTS];
	void *scratch; // on the device
	int64_t scratch_bytes;
	void *workspace; // of the product library
};

// A CUDA error is a status, negated.
static inline int zf_cuda_status(cudaError_t e) { return -(int)e; }

#define ZF_TRY(call)                                                                                                   \
	do {                                                                                                               \
		int zf_try_ = (call);                                                                                          \
		if (zf_try_ != ZF_OK)                                                                                          \
			return zf_try_;                                                                                            \
	} while (0)
#define ZF_CUDA(call) ZF_TRY(zf_cuda_status(call))

// zf_enter makes the stream's device the calling thread's: a goroutine moves from thread to thread.
static inline int zf_enter(const zf_stream *s) { return zf_cuda_status(cudaSetDevice(s->device->ordinal)); }

// zf_scratch_of is memory on the device for one Op, good until the stream's next one. What is there already has its users
// on this stream; a larger one is taken when they are done.
int zf_scratch_of(zf_stream *s, int64_t bytes, void **p);

// zf_check_ids makes the stream's fault op when one of n ids is outside [lo, hi).
int zf_check_ids(zf_stream *s, const int32_t *ids, int64_t n, int64_t lo, int64_t hi, int op);

#ifndef ZF_CUDAEMU
template <class... P, class... A>
int zf_launch(void (*kernel)(P...), dim3 grid, int threads, int64_t shared, zf_stream *s, A... arguments) {
	ZF_TRY(zf_enter(s));
	if (shared > 48 << 10) // more than that a kernel has to ask for
		ZF_CUDA(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared));
	kernel<<<grid, threads, (size_t)shared, s->on>>>(arguments...);
	return zf_cuda_status(cudaGetLastError());
}
#else
template <class... P, class... A>
int zf_launch(void (*kernel)(P...), dim3 grid, int threads, int64_t shared, zf_stream *s, A... arguments) {
	return zf_cuda_status(zf_emu_launch(kernel, grid, threads, (size_t)shared, s->on, arguments...));
}
#endif

static inline bool zf_aligned(const void *p) { return (uintptr_t)p % 16 == 0; }
template <class... P> static inline bool zf_aligned(const void *p, P... more) {
	return zf_aligned(p) && zf_aligned(more...);
}

static inline int64_t zf_ceil(int64_t n, int64_t by) { return (n + by - 1) / by; }

// zf_row_threads is a block for a row of so many groups: whole warps, at most most.
static inline int zf_row_threads(int64_t groups, int most) {
	int64_t n = zf_ceil(groups, 32) * 32;
	return (int)(n < most ? n : most);
}

// zf_with_act calls f(T{}, V{}) for an act type and whether groups may be taken in one access.
template <class F> int zf_with_act(int dtype, bool v, F f) {
	if (dtype == ZF_F32)
		return v ? f(float{}, std::true_type{}) : f(float{}, std::false_type{});
	if (dtype == ZF_BF16)
		return v ? f(zf_bf16{}, std::true_type{}) : f(zf_bf16{}, std::false_type{});
	return ZF_EINVAL;
}
