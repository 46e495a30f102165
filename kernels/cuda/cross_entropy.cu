// Cross-entropy with softmax by rows, one block each; kernels/cpu/zf_cross_entropy.c has the formulas.
#include "host.cuh"

// The first pass finds the maximum m and z = sum(exp(x - m)) together: each thread keeps z relative to the largest number it has
// seen (Milakov and Gimelshein 2018, arXiv:1805.02867, algorithm 3), in f64 so that bringing it to a larger one costs no
// accuracy. The second writes the gradient. Reads the logits twice, since a row of a large vocabulary leaves the
// cache, and writes the gradient once: 12 bytes an element, 10 in bf16. The label's logit is read between the two, before a gradient
// in place overwrites it.
//
// m passes NaNs over, as comparisons do, but z does not: a row with a NaN or +inf has a loss and a gradient of NaN.
template <class T, bool V>
__global__ void rows(float *loss, T *dlogits, const float *logits, const int32_t *labels, const int *fault, int64_t v,
                     float scale) {
	constexpr int n = 4;
	if (*fault)
		return;
	const float *x = logits + blockIdx.x * v;
	T *d = dlogits ? dlogits + blockIdx.x * v : nullptr;
	const int64_t label = labels[blockIdx.x], step = (int64_t)blockDim.x * n;
	if (label < 0) {
		const float zero[n] = {0};
		if (threadIdx.x == 0)
			loss[blockIdx.x] = 0;
		for (int64_t i = (int64_t)threadIdx.x * n; d && i < v; i += step)
			zf_store<n, V>(d + i, zero, v - i);
		return;
	}
	float m = -INFINITY, shift = 0; // while all are -inf: their exponentials are 0
	double z = 0;
	for (int64_t i = (int64_t)threadIdx.x * n; i < v; i += step) {
		float l[n];
		zf_load<n, V>(l, x + i, v - i);
		float most = -INFINITY;
#pragma unroll
		for (int k = 0; k < n; k++)
			if (i + k < v)
				most = fmaxf(most, l[k]);
		if (most > m) {
			z *= (double)zf_exp(m - most);
			m = shift = most;
		}
		float sum = 0;
#pragma unroll
		for (int k = 0; k < n; k++)
			if (i + k < v)
				sum += zf_exp(l[k] - shift);
		z += (double)sum;
	}
	double *buf = zf_shared<double>();
	const float top = zf_block_reduce(m, zf_greater{}, -INFINITY, reinterpret_cast<float *>(buf));
	const float by = top > -INFINITY ? top : 0;
	// A thread that has seen nothing but -inf and NaN has z = 0 or NaN, whatever its shift.
	z = zf_block_reduce(m > -INFINITY ? z * (double)zf_exp(m - by) : z, zf_plus{}, 0.0, buf);
	const float at = x[label];
	__syncthreads(); // before a gradient in place is written
	if (threadIdx.x == 0)
		loss[blockIdx.x] = (float)((double)top - (double)at + (double)zf_log((float)z));
	if (!d)
		return;
	const float factor = (float)((double)scale / z);
	for (int64_t i = (int64_t)threadIdx.x * n; i < v; i += step) {
		float l[n];
		zf_load<n, V>(l, x + i, v - i);
#pragma unroll
		for (int k = 0; k < n; k++)
			l[k] = i + k == label ? (float)((double)scale * ((double)zf_exp(at - by) / z - 1))
			                      : zf_exp(l[k] - by) * factor;
		zf_store<n, V>(d + i, l, v - i);
	}
}

ZF_EXPORT int zf_cuda_cross_entropy(zf_stream *s, int ddtype, float *loss, void *dlogits, const float *logits,
                                    const int32_t *labels, int64_t n, int64_t v, float scale) {
	ZF_TRY(zf_check_ids(s, labels, n, -1, v, ZF_FAULT_CROSS_ENTROPY));
	return zf_with_act(dlogits ? ddtype : ZF_F32, v % 8 == 0 && zf_aligned(dlogits, logits), [&](auto t, auto vector) {
		using T = decltype(t);
		return zf_launch(rows<T, decltype(vector)::value>, dim3((unsigned)n), zf_row_threads(zf_ceil(v, 4), 512),
		                 32 * sizeof(double), s, loss, (T *)dlogits, logits, labels, (const int *)s->fault, v, scale);
	});
}
