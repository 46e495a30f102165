// RMSNorm and its gradient; kernels/cpu/zf_rmsnorm.c has the formulas. A block takes a row; what it reads a second time is
// still in its cache.
#include "host.cuh"

// Reads x (and residual), writes y (and sum): 2 elements' bytes, or 4.
template <class T, bool V>
__global__ void norm_rows(T *y, float *rstd, const T *x, const T *w, const T *residual, T *sum, int64_t cols,
                          float eps) {
	constexpr int n = zf_group<T>::n;
	const int64_t row = (int64_t)blockIdx.x * cols, step = (int64_t)blockDim.x * n;
	float squares = 0;
	for (int64_t i = (int64_t)threadIdx.x * n; i < cols; i += step) {
		float v[n];
		zf_load<n, V>(v, x + row + i, cols - i);
		if (residual) {
			float r[n];
			zf_load<n, V>(r, residual + row + i, cols - i);
#pragma unroll
			for (int k = 0; k < n; k++)
				v[k] = zf_widen(zf_narrow<T>::of(v[k] + r[k])); // what is stored is what is normalised
			zf_store<n, V>(sum + row + i, v, cols - i);
		}
#pragma unroll
		for (int k = 0; k < n; k++)
			squares = fmaf(v[k], v[k], squares);
	}
	squares = zf_block_reduce(squares, zf_plus{}, 0.0f, zf_shared<float>());
	const float by = 1.0f / sqrtf(squares / (float)cols + eps);
	if (threadIdx.x == 0)
		rstd[blockIdx.x] = by;
	const T *from = residual ? sum : x;
	for (int64_t i = (int64_t)threadIdx.x * n; i < cols; i += step) {
		float v[n], g[n];
		zf_load<n, V>(v, from + row + i, cols - i);
		zf_load<n, V>(g, w + i, cols - i);
#pragma unroll
		for (int k = 0; k < n; k++)
			v[k] = v[k] * by * g[k];
		zf_store<n, V>(y + row + i, v, cols - i);
	}
}

ZF_EXPORT int zf_cuda_rmsnorm(zf_stream *s, int dtype, void *y, float *rstd, const void *x, const void *w,
                              const void *residual, void *sum, int64_t rows, int64_t cols, float eps) {
	return zf_with_act(dtype, cols % 8 == 0 && zf_aligned(y, x, w, residual, sum), [&](auto t, auto v) {
		using T = decltype(t);
		return zf_launch(norm_rows<T, decltype(v)::value>, dim3((unsigned)rows),
		                 zf_row_threads(zf_ceil(cols, zf_group<T>::n), 256), 32 * sizeof(float), s, (T *)y, rstd,
		                 (const T *)x, (const T *)w, (const T *)residual, (T *)sum, cols, eps);
	});
}

// A block takes rows [blockIdx.x*tile, ...) and makes their share of dw, in parts[blockIdx.x], each column by one thread. Reads dy
// and x (and dadd), writes dx: 3 elements' bytes, or 4.
template <class T, bool V>
__global__ void norm_backward(T *dx, float *parts, const T *dy, const T *x, const T *w, const float *rstd,
                              const T *dadd, int64_t rows, int64_t cols, int64_t tile, int in_shared) {
	constexpr int n = zf_group<T>::n;
	const int64_t step = (int64_t)blockDim.x * n;
	float *part = parts + blockIdx.x * cols;
	float *dw = in_shared ? zf_shared<float>() + 32 : part;
	for (int64_t i = (int64_t)threadIdx.x * n; i < cols; i += step)
		for (int k = 0; k < n && i + k < cols; k++)
			dw[i + k] = 0;
	for (int64_t r = blockIdx.x * tile; r < rows && r < (blockIdx.x + 1) * tile; r++) {
		const int64_t row = r * cols;
		const float by = rstd[r];
		float sum = 0;
		for (int64_t i = (int64_t)threadIdx.x * n; i < cols; i += step) {
			float g[n], h[n], v[n];
			zf_load<n, V>(g, dy + row + i, cols - i);
			zf_load<n, V>(h, x + row + i, cols - i);
			zf_load<n, V>(v, w + i, cols - i);
#pragma unroll
			for (int k = 0; k < n; k++)
				sum += g[k] * v[k] * h[k];
		}
		const float mean = zf_block_reduce(sum, zf_plus{}, 0.0f, zf_shared<float>()) * by / (float)cols;
		for (int64_t i = (int64_t)threadIdx.x * n; i < cols; i += step) {
			float g[n], h[n], v[n], a[n];
			zf_load<n, V>(g, dy + row + i, cols - i);
			zf_load<n, V>(h, x + row + i, cols - i);
			zf_load<n, V>(v, w + i, cols - i);
			if (dadd)
				zf_load<n, V>(a, dadd + row + i, cols - i);
#pragma unroll
			for (int k = 0; k < n; k++) {
				h[k] = h[k] * by;
				if (i + k < cols)
					dw[i + k] += g[k] * h[k];
				v[k] = by * (g[k] * v[k] - h[k] * mean);
				if (dadd)
					v[k] = v[k] + a[k];
			}
			zf_store<n, V>(dx + row + i, v, cols - i);
		}
	}
	if (in_shared)
		for (int64_t i = (int64_t)threadIdx.x * n; i < cols; i += step)
			for (int k = 0; k < n && i + k < cols; k++)
				part[i + k] = dw[i + k];
}

// 32 columns a block, the parts in eight runs, each added in order, and the runs in order.
__global__ void add_parts(float *dw, const float *parts, int64_t tiles, int64_t cols) {
	float *buf = zf_shared<float>();
	const int run = threadIdx.x / 32, lane = threadIdx.x % 32;
	const int64_t col = (int64_t)blockIdx.x * 32 + lane, per = (tiles + 7) / 8;
	float sum = 0;
	if (col < cols)
		for (int64_t t = run * per; t < tiles && t < (run + 1) * per; t++)
			sum += parts[t * cols + col];
	buf[threadIdx.x] = sum;
	__syncthreads();
	if (run == 0 && col < cols) {
		for (int k = 1; k < 8; k++)
			sum += buf[k * 32 + lane];
		dw[col] = sum;
	}
}

// Enough parts to fill a large device four times, few enough that they are little beside the rows.
#define MAX_PARTS 512
#define MIN_TILE 8

ZF_EXPORT int zf_cuda_rmsnorm_backward(zf_stream *s, int dtype, void *dx, float *dw, const void *dy, const void *x,
                                       const void *w, const float *rstd, const void *dadd, int64_t rows, int64_t cols) {
	int64_t tile = zf_ceil(rows, MAX_PARTS);
	if (tile < MIN_TILE)
		tile = MIN_TILE;
	const int64_t tiles = zf_ceil(rows, tile);
	void *parts;
	ZF_TRY(zf_scratch_of(s, tiles * cols * (int64_t)sizeof(float), &parts));
	const int in_shared = cols <= 8192;
	ZF_TRY(zf_with_act(dtype, cols % 8 == 0 && zf_aligned(dx, dy, x, w, dadd), [&](auto t, auto v) {
		using T = decltype(t);
		return zf_launch(norm_backward<T, decltype(v)::value>, dim3((unsigned)tiles),
		                 zf_row_threads(zf_ceil(cols, zf_group<T>::n), 256),
		                 (32 + (in_shared ? cols : 0)) * (int64_t)sizeof(float), s, (T *)dx, (float *)parts,
		                 (const T *)dy, (const T *)x, (const T *)w, rstd, (const T *)dadd, rows, cols, tile, in_shared);
	}));
	return zf_launch(add_parts, dim3((unsigned)zf_ceil(cols, 32)), 256, 256 * sizeof(float), s, dw,
	                 (const float *)parts, tiles, cols);
}
