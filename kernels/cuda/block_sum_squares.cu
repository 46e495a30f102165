// Sums of squares by blocks of 256 elements, in f64. Reads x once: 4 bytes an element.
#include "host.cuh"

// Eight lanes take a block, each one of its eight chains: a warp reads four blocks, 32 bytes of each at a time. A square of an f32
// is exact in f64, so that only the additions round, and their order is that of kernels.BlockSumSquares.
__global__ void block_sums(double *out, const float *x, int64_t n) {
	int64_t block = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) / 8, left = n - block * 256;
	int chain = threadIdx.x % 8;
	const float *from = x + block * 256 + chain;
	double sum = 0;
	if (left >= 256) {
#pragma unroll 8
		for (int i = 0; i < 256; i += 8) {
			double v = from[i];
			sum += v * v;
		}
	} else {
		for (int i = 0; i + chain < left; i += 8) {
			double v = from[i];
			sum += v * v;
		}
	}
	sum += __shfl_xor_sync(0xffffffffu, sum, 1);
	sum += __shfl_xor_sync(0xffffffffu, sum, 2);
	sum += __shfl_xor_sync(0xffffffffu, sum, 4);
	if (chain == 0 && left > 0)
		out[block] = sum;
}

ZF_EXPORT int zf_cuda_block_sum_squares(zf_stream *s, double *out, const float *x, int64_t n) {
	dim3 grid((unsigned)zf_ceil(zf_ceil(n, 256) * 8, 256));
	return zf_launch(block_sums, grid, 256, 0, s, out, x, n);
}
