// Kernels with one mistake each, for the emulator to find: mistakes NAME prints what it says, "nothing" when it says nothing.
#include "device.cuh"

#include <stdio.h>

static __global__ void none(float *out) {
	float *x = zf_shared<float>();
	x[threadIdx.x] = (float)threadIdx.x;
	__syncthreads();
	out[threadIdx.x] = zf_block_reduce(x[63 - threadIdx.x], zf_plus{}, 0.0f, x + 64);
}

static __global__ void ended(float *out) {
	if (threadIdx.x == 3)
		return;
	__syncthreads();
	out[threadIdx.x] = 1;
}

static __global__ void apart(float *out) {
	if (threadIdx.x < 32)
		__syncthreads();
	else
		__syncthreads();
	out[threadIdx.x] = 1;
}

static __global__ void lanes(float *out) {
	float v = 1;
	if (threadIdx.x % 32 != 7)
		v = __shfl_xor_sync(0xffffffffu, v, 1);
	out[threadIdx.x] = v;
}

static __global__ void half_mask(float *out) { out[threadIdx.x] = __shfl_xor_sync(0xffffu, 1.0f, 1); }

static __global__ void unaligned(float *out) {
	float v[4];
	zf_load<4, true>(v, out + 1, 4);
	out[threadIdx.x] = v[0];
}

static __global__ void beyond(float *out) {
	float *x = zf_shared<float>();
	x[threadIdx.x + 64] = 1; // the block has 96
	out[threadIdx.x] = 1;
}

// The order of the threads shows: no barrier between the write and a neighbour's read.
static __global__ void race(float *out) {
	float *x = zf_shared<float>();
	x[threadIdx.x] = (float)threadIdx.x;
	out[threadIdx.x] = x[63 - threadIdx.x];
}

// Between the two warps: one writes what the other has not read yet, which shows only when a warp goes ahead.
static __global__ void ahead(float *out) {
	float *x = zf_shared<float>();
	x[threadIdx.x] = 1;
	__syncthreads();
	float v = __shfl_xor_sync(0xffffffffu, x[63 - threadIdx.x], 1);
	x[threadIdx.x] = 2;
	out[threadIdx.x] = v;
}

int main(int, char **argv) {
	static const struct {
		const char *name;
		void (*kernel)(float *);
	} all[] = {{"none", none},     {"ended", ended},         {"apart", apart},
	           {"lanes", lanes},   {"half mask", half_mask}, {"unaligned", unaligned},
	           {"beyond", beyond}, {"race", race},           {"ahead", ahead}};
	float out[2][64];
	for (auto &m : all) {
		if (strcmp(m.name, argv[1]) != 0)
			continue;
		for (int device = 0; device < 2; device++) {
			cudaStream_t s;
			cudaSetDevice(device);
			cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking);
			memset(out[device], 0xff, sizeof out[device]);
			zf_emu_launch(m.kernel, dim3(1), 64, 96 * sizeof(float), s, &out[device][0]);
			if (device == 0 && zf_float_bits(out[0][0]) != 0xffffffffu)
				printf("ran before it was waited for; ");
			if (cudaStreamSynchronize(s) != cudaSuccess) {
				printf("%s\n", zf_emu_why());
				return 0;
			}
		}
		printf("%s\n", memcmp(out[0], out[1], sizeof out[0]) == 0 ? "nothing" : "the order of threads shows");
		return 0;
	}
	return 2;
}
