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

// An id may come more than once, and its rows are added in their order. link_rows makes a list of each id's rows: next[r] is the
// next row with the id of row r, -1 when there is none, and follows[next[r]] = 1. A warp takes a row and looks at those after
// it, 32 at a time: rows^2/2 ids at most, from the cache.
__global__ void link_rows(int *next, int *follows, const int32_t *ids, const int *fault, int64_t rows) {
	const int64_t r = (int64_t)blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
	const int lane = threadIdx.x % 32;
	if (*fault || r >= rows)
		return; // a whole warp does
	const int32_t id = ids[r];
	int found = -1;
	for (int64_t at = r + 1; at < rows && found < 0; at += 128) {
		unsigned hits[4];
#pragma unroll
		for (int k = 0; k < 4; k++) {
			const int64_t i = at + 32 * k + lane;
			hits[k] = __ballot_sync(0xffffffffu, i < rows && ids[i] == id);
		}
#pragma unroll
		for (int k = 3; k >= 0; k--)
			if (hits[k])
				found = (int)(at + 32 * k) + __ffs((int)hits[k]) - 1;
	}
	if (lane == 0) {
		next[r] = found;
		if (found >= 0)
			follows[found] = 1;
	}
}

// The block of an id's first row adds all of them; the others end at once. So no two blocks write one row of the table. blockIdx.y is a part of
// the columns, four to a thread. Reads dy once, reads and writes the rows of dtable that are named.
template <class T, bool V>
__global__ void scatter(float *dtable, const T *dy, const int32_t *ids, const int *next, const int *follows,
                        const int *fault, int64_t d) {
	const int64_t i = ((int64_t)blockIdx.y * blockDim.x + threadIdx.x) * 4;
	if (*fault || follows[blockIdx.x] || i >= d)
		return;
	float sum[4], *to = dtable + ids[blockIdx.x] * d + i;
	zf_load<4, V>(sum, to, d - i);
	for (int64_t r = blockIdx.x; r >= 0; r = next[r]) {
		float g[4];
		zf_load<4, V>(g, dy + r * d + i, d - i);
#pragma unroll
		for (int k = 0; k < 4; k++)
			sum[k] += g[k];
	}
	zf_store<4, V>(to, sum, d - i);
}

ZF_EXPORT int zf_cuda_embedding_backward(zf_stream *s, int dtype, float *dtable, const void *dy, const int32_t *ids,
                                         int64_t rows, int64_t v, int64_t d) {
	ZF_TRY(zf_check_ids(s, ids, rows, 0, v, ZF_FAULT_EMBEDDING));
	void *scratch;
	ZF_TRY(zf_scratch_of(s, 2 * rows * (int64_t)sizeof(int), &scratch));
	int *next = (int *)scratch, *follows = next + rows;
	ZF_TRY(zf_enter(s));
	ZF_CUDA(cudaMemsetAsync(follows, 0, (size_t)rows * sizeof(int), s->on));
	ZF_TRY(zf_launch(link_rows, dim3((unsigned)zf_ceil(rows, 8)), 256, 0, s, next, follows, ids, (const int *)s->fault,
	                 rows));
	const int threads = zf_row_threads(zf_ceil(d, 4), 256);
	return zf_with_act(dtype, d % 8 == 0 && zf_aligned(dtable, dy), [&](auto t, auto vector) {
		using T = decltype(t);
		return zf_launch(scatter<T, decltype(vector)::value>,
		                 dim3((unsigned)rows, (unsigned)zf_ceil(d, (int64_t)threads * 4)), threads, 0, s, dtable,
		                 (const T *)dy, ids, (const int *)next, (const int *)follows, (const int *)s->fault, d);
	});
}
