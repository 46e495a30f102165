// Devices, memory and streams.
#include "products.h"

#include <stdio.h>
#include <string.h>

#ifndef ZF_CUDAEMU
const char *zf_emu_why(void) { return nullptr; }
#endif

ZF_EXPORT int zf_cuda_abi(void) { return ZF_CUDA_ABI; }

ZF_EXPORT int zf_cuda_error_text(int status, char *text, int64_t bytes) {
	const char *why = zf_emu_why();
	cudaError_t e = (cudaError_t)-status;
	snprintf(text, (size_t)bytes, "%s: %s", cudaGetErrorName(e), why ? why : cudaGetErrorString(e));
	return ZF_OK;
}

ZF_EXPORT int zf_cuda_device_count(int *count) {
	*count = 0;
	return zf_cuda_status(cudaGetDeviceCount(count));
}

static int enter(const zf_device *d) { return zf_cuda_status(cudaSetDevice(d->ordinal)); }

static int describe(int ordinal, zf_device *d, zf_device_info *info) {
	int major, minor;
	ZF_CUDA(cudaSetDevice(ordinal));
	ZF_CUDA(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, ordinal));
	ZF_CUDA(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, ordinal));
	ZF_CUDA(cudaDeviceGetAttribute(&d->shared_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, ordinal));
	snprintf(info->isa, sizeof info->isa, "sm_%d%d", major, minor);
	cudaDeviceProp prop;
	ZF_CUDA(cudaGetDeviceProperties(&prop, ordinal));
	snprintf(info->name, sizeof info->name, "%.127s", prop.name);
	size_t left, all;
	ZF_CUDA(cudaMemGetInfo(&left, &all));
	info->free_bytes = (int64_t)left;
	info->total_bytes = (int64_t)all;
	return zf_products_open(d, info->products, sizeof info->products);
}

ZF_EXPORT int zf_cuda_device_open(int ordinal, zf_device **out, zf_device_info *info) {
	memset(info, 0, sizeof *info);
	zf_device *d = new zf_device{};
	d->ordinal = ordinal;
	int status = describe(ordinal, d, info);
	if (status != ZF_OK) {
		delete d;
		return status;
	}
	*out = d;
	return ZF_OK;
}

ZF_EXPORT int zf_cuda_device_close(zf_device *d) {
	ZF_TRY(enter(d));
	int status = d->products ? zf_products_close(d) : ZF_OK;
	delete d;
	return status;
}

static int memory_status(cudaError_t e) {
	if (e == cudaErrorMemoryAllocation) {
		cudaGetLastError(); // forgets it: nothing else failed
		return ZF_ENOMEM;
	}
	return zf_cuda_status(e);
}

ZF_EXPORT int zf_cuda_alloc(zf_device *d, int kind, int64_t bytes, void **p) {
	ZF_TRY(enter(d));
	if (kind == ZF_HOST_MEMORY) {
		ZF_TRY(memory_status(cudaHostAlloc(p, (size_t)bytes, cudaHostAllocPortable | cudaHostAllocMapped)));
		memset(*p, 0, (size_t)bytes);
		return ZF_OK;
	}
	ZF_TRY(memory_status(cudaMalloc(p, (size_t)bytes)));
	ZF_CUDA(cudaMemset(*p, 0, (size_t)bytes));
	return zf_cuda_status(cudaDeviceSynchronize()); // other streams do not wait for the one that sets memory
}

ZF_EXPORT int zf_cuda_release(zf_device *d, int kind, void *p) {
	ZF_TRY(enter(d));
	return zf_cuda_status(kind == ZF_HOST_MEMORY ? cudaFreeHost(p) : cudaFree(p));
}

static int fill_stream(zf_stream *s) {
	ZF_TRY(enter(s->device));
	ZF_CUDA(cudaStreamCreateWithFlags(&s->on, cudaStreamNonBlocking));
	ZF_TRY(memory_status(cudaMalloc((void **)&s->fault, sizeof *s->fault)));
	ZF_CUDA(cudaMemset(s->fault, 0, sizeof *s->fault));
	ZF_CUDA(cudaDeviceSynchronize());
	ZF_TRY(memory_status(cudaHostAlloc((void **)&s->fault_host, sizeof *s->fault_host, cudaHostAllocPortable)));
	ZF_TRY(memory_status(cudaHostAlloc((void **)&s->staging, ZF_STAGING_BYTES, cudaHostAllocPortable)));
	for (cudaEvent_t &e : s->events)
		ZF_CUDA(cudaEventCreateWithFlags(&e, cudaEventDisableTiming));
	return s->device->products ? zf_products_stream(s) : ZF_OK;
}

ZF_EXPORT int zf_cuda_stream_open(zf_device *d, zf_stream **out) {
	zf_stream *s = new zf_stream{};
	s->device = d;
	int status = fill_stream(s); // what it has taken is given back with the process: no worker goes on after this
	if (status != ZF_OK) {
		delete s;
		return status;
	}
	*out = s;
	return ZF_OK;
}

ZF_EXPORT int zf_cuda_stream_close(zf_stream *s) {
	ZF_TRY(enter(s->device));
	int status = zf_cuda_status(cudaStreamSynchronize(s->on));
	auto keep = [&](int next) { status = status != ZF_OK ? status : next; };
	for (cudaEvent_t e : s->events)
		keep(zf_cuda_status(cudaEventDestroy(e)));
	if (s->device->products)
		keep(zf_products_stream_close(s));
	keep(zf_cuda_status(cudaFree(s->scratch)));
	keep(zf_cuda_status(cudaFree(s->fault)));
	keep(zf_cuda_status(cudaFreeHost(s->fault_host)));
	keep(zf_cuda_status(cudaFreeHost(s->staging)));
	keep(zf_cuda_status(cudaStreamDestroy(s->on)));
	delete s;
	return status;
}

int zf_scratch_of(zf_stream *s, int64_t bytes, void **p) {
	if (bytes > s->scratch_bytes) {
		ZF_TRY(zf_enter(s));
		ZF_CUDA(cudaStreamSynchronize(s->on));
		ZF_CUDA(cudaFree(s->scratch));
		s->scratch = nullptr;
		s->scratch_bytes = 0;
		ZF_TRY(memory_status(cudaMalloc(&s->scratch, (size_t)bytes)));
		s->scratch_bytes = bytes;
	}
	*p = s->scratch;
	return ZF_OK;
}

// stage is room for bytes in the stream's staging memory, which is used from its beginning after each synchronisation.
static char *stage(zf_stream *s, int64_t bytes) {
	if (bytes > ZF_STAGING_BYTES - s->staged)
		return nullptr;
	char *p = s->staging + s->staged;
	s->staged += (bytes + 255) / 256 * 256;
	return p;
}

// An upload takes the fast way through staging memory, so that it waits for nothing that was enqueued before, unless that is full.
ZF_EXPORT int zf_cuda_upload(zf_stream *s, void *dst, const void *src, int64_t bytes) {
	ZF_TRY(enter(s->device));
	if (char *p = stage(s, bytes)) {
		memcpy(p, src, (size_t)bytes);
		return zf_cuda_status(cudaMemcpyAsync(dst, p, (size_t)bytes, cudaMemcpyDefault, s->on));
	}
	ZF_CUDA(cudaMemcpyAsync(dst, src, (size_t)bytes, cudaMemcpyDefault, s->on));
	return zf_cuda_status(cudaStreamSynchronize(s->on));
}

ZF_EXPORT int zf_cuda_download(zf_stream *s, const void *src, int64_t bytes, const void **staged) {
	ZF_TRY(enter(s->device));
	char *p = stage(s, bytes);
	if (!p)
		return ZF_ENOMEM;
	*staged = p;
	return zf_cuda_status(cudaMemcpyAsync(p, src, (size_t)bytes, cudaMemcpyDefault, s->on));
}

ZF_EXPORT int zf_cuda_copy(zf_stream *s, void *dst, const void *src, int64_t bytes) {
	ZF_TRY(enter(s->device));
	return zf_cuda_status(cudaMemcpyAsync(dst, src, (size_t)bytes, cudaMemcpyDefault, s->on));
}

ZF_EXPORT int zf_cuda_record(zf_stream *s, int event) {
	ZF_TRY(enter(s->device));
	return zf_cuda_status(cudaEventRecord(s->events[event], s->on));
}

ZF_EXPORT int zf_cuda_wait(zf_stream *s, const zf_stream *of, int event) {
	ZF_TRY(enter(s->device));
	return zf_cuda_status(cudaStreamWaitEvent(s->on, of->events[event], 0));
}

ZF_EXPORT int zf_cuda_sync(zf_stream *s, int *fault) {
	ZF_TRY(enter(s->device));
	ZF_CUDA(cudaMemcpyAsync(s->fault_host, s->fault, sizeof *s->fault, cudaMemcpyDefault, s->on));
	ZF_CUDA(cudaStreamSynchronize(s->on));
	s->staged = 0;
	*fault = *s->fault_host;
	if (*fault)
		return zf_cuda_status(cudaMemsetAsync(s->fault, 0, sizeof *s->fault, s->on));
	return ZF_OK;
}
