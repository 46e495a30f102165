// Rows of a table by id, and their gradient.
#include "host.cuh"

__global__ void check_ids(const int32_t *ids, int64_t n, int64_t lo, int64_t hi, int *fault, int op) {
	int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
	if (i < n && (ids[i] < lo || ids[i] >= hi))
		*fault = op; // whoever writes, writes the same
}

int zf_check_ids(zf_stream *s, const int32_t *ids, int64_t n, int64_t lo, int64_t hi, int op) {
	return zf_launch(check_ids, dim3((unsigned)zf_ceil(n, 256)), 256, 0, s, ids, n, lo, hi, s->fault, op);
}

// Reads and writes each row once. A block takes a row.
template <class T, bool V>
__global__ void lookup(T *y, const T *table, const int32_t *ids, const int *fault, int64_t d) {
	constexpr int n = zf_group<T>::n;
	if (*fault)
		return;
	const T *from = table + ids[blockIdx.x] * d;
	T *to = y + blockIdx.x * d;
	for (int64_t i = (int64_t)threadIdx.x * n; i < d; i += (int64_t)blockDim.x * n) {
		if (V) {
			zf_check_aligned(to + i, 16);
			*reinterpret_cast<uint4 *>(to + i) = *reinterpret_cast<const uint4 *>(from + i);
		} else {
			for (int64_t k = i; k < i + n && k < d; k++)
				to[k] = from[k];
		}
	}
}

ZF_EXPORT int zf_cuda_embedding(zf_stream *s, int dtype, void *y, const void *table, const int32_t *ids, int64_t rows,
                                int64_t v, int64_t d) {
	ZF_TRY(zf_check_ids(s, ids, rows, 0, v, ZF_FAULT_EMBEDDING));
	return zf_with_act(dtype, d % 8 == 0 && zf_aligned(y, table), [&](auto t, auto vector) {
		using T = decltype(t);
		return zf_launch(lookup<T, decltype(vector)::value>, dim3((unsigned)rows),
		                 zf_row_threads(zf_ceil(d, zf_group<T>::n), 256), 0, s, (T *)y, (const T *)table, ids,
		                 (const int *)s->fault, d);
	});
}

// An id may come more than once, and its rows are added in their order. The block of a row whose id has not come before adds all rows
// with that id, of which it finds a list in rounds of blockDim.x ids; the other blocks end at once. So no two blocks write one row of the table,
// and there is no sorting. blockIdx.y is a part of the columns, four to a thread. Reads dy once, reads and
// writes the rows of dtable that are named; on top the ids, rows^2/2 at most, mostly from the cache.
template <class T, bool V>
__global__ void scatter(float *dtable, const T *dy, const int32_t *ids, const int *fault, int64_t rows, int64_t d) {
	int *list = zf_shared<int>(), *counts = list + blockDim.x; // [warps]
	if (*fault)
		return;
	const int32_t id = ids[blockIdx.x];
	int earlier = 0;
	for (int64_t r = threadIdx.x; r < blockIdx.x; r += blockDim.x)
		earlier |= ids[r] == id;
	if (__syncthreads_or(earlier))
		return;
	const int64_t i = ((int64_t)blockIdx.y * blockDim.x + threadIdx.x) * 4;
	const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
	float sum[4];
	float *to = dtable + id * d + i;
	if (i < d)
		zf_load<4, V>(sum, to, d - i);
	for (int64_t r0 = blockIdx.x; r0 < rows; r0 += blockDim.x) {
		const int64_t r = r0 + threadIdx.x;
		const bool mine = r < rows && ids[r] == id;
		const unsigned found = __ballot_sync(0xffffffffu, mine);
		if (lane == 0)
			counts[warp] = __popc(found);
		__syncthreads();
		int at = 0, n = 0;
		for (int w = 0; w < warps; w++) {
			at += w < warp ? counts[w] : 0;
			n += counts[w];
		}
		if (mine)
			list[at + __popc(found & ((1u << lane) - 1))] = (int)(r - r0);
		__syncthreads();
		if (i < d)
#pragma unroll 4
			for (int k = 0; k < n; k++) {
				float g[4];
				zf_load<4, V>(g, dy + (r0 + list[k]) * d + i, d - i);
#pragma unroll
				for (int j = 0; j < 4; j++)
					sum[j] += g[j];
			}
		__syncthreads();
	}
	if (i < d)
		zf_store<4, V>(to, sum, d - i);
}

ZF_EXPORT int zf_cuda_embedding_backward(zf_stream *s, int dtype, float *dtable, const void *dy, const int32_t *ids,
                                         int64_t rows, int64_t v, int64_t d) {
	ZF_TRY(zf_check_ids(s, ids, rows, 0, v, ZF_FAULT_EMBEDDING));
	const int threads = zf_row_threads(zf_ceil(d, 4), 256);
	return zf_with_act(dtype, d % 8 == 0 && zf_aligned(dtable, dy), [&](auto t, auto vector) {
		using T = decltype(t);
		return zf_launch(scatter<T, decltype(vector)::value>,
		                 dim3((unsigned)rows, (unsigned)zf_ceil(d, (int64_t)threads * 4)), threads,
		                 (threads + 32) * (int64_t)sizeof(int), s, dtable, (const T *)dy, ids, (const int *)s->fault,
		                 rows, d);
	});
}
