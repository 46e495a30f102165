// SwiGLU and its gradient; kernels/cpu/zf_swiglu.c has the formulas and why they are in this form. A block takes a row.
#include "host.cuh"

// The sigmoids of g and of -g.
__device__ __forceinline__ void sigmoids(float g, float *s, float *t) {
	float e = zf_exp(g < 0 ? g : -g), a = 1.0f / (1.0f + e), b = e * a;
	*s = g < 0 ? b : a;
	*t = g < 0 ? a : b;
}

// Reads gate and up, writes y: 3 elements' bytes for each of y.
template <class T, bool V> __global__ void glu(T *y, const T *gate_up, int64_t f) {
	constexpr int n = zf_group<T>::n;
	const T *gate = gate_up + blockIdx.x * 2 * f, *up = gate + f;
	for (int64_t i = (int64_t)threadIdx.x * n; i < f; i += (int64_t)blockDim.x * n) {
		float g[n], u[n];
		zf_load<n, V>(g, gate + i, f - i);
		zf_load<n, V>(u, up + i, f - i);
#pragma unroll
		for (int k = 0; k < n; k++) {
			float s, t;
			sigmoids(g[k], &s, &t);
			u[k] = g[k] * s * u[k];
		}
		zf_store<n, V>(y + blockIdx.x * f + i, u, f - i);
	}
}

// Reads gate, up and dy, writes both gradients: 5 elements' bytes for each of dy.
template <class T, bool V> __global__ void glu_backward(T *dgate_up, const T *dy, const T *gate_up, int64_t f) {
	constexpr int n = zf_group<T>::n;
	const T *gate = gate_up + blockIdx.x * 2 * f, *up = gate + f;
	T *dgate = dgate_up + blockIdx.x * 2 * f, *dup = dgate + f;
	for (int64_t i = (int64_t)threadIdx.x * n; i < f; i += (int64_t)blockDim.x * n) {
		float g[n], u[n], d[n];
		zf_load<n, V>(g, gate + i, f - i);
		zf_load<n, V>(u, up + i, f - i);
		zf_load<n, V>(d, dy + blockIdx.x * f + i, f - i);
#pragma unroll
		for (int k = 0; k < n; k++) {
			float s, t;
			sigmoids(g[k], &s, &t);
			u[k] = d[k] * u[k] * (s * (1.0f + g[k] * t));
			d[k] = d[k] * (g[k] * s);
		}
		zf_store<n, V>(dgate + i, u, f - i);
		zf_store<n, V>(dup + i, d, f - i);
	}
}

ZF_EXPORT int zf_cuda_swiglu(zf_stream *s, int dtype, void *y, const void *gate_up, int64_t rows, int64_t f) {
	return zf_with_act(dtype, f % 8 == 0 && zf_aligned(y, gate_up), [&](auto t, auto v) {
		using T = decltype(t);
		return zf_launch(glu<T, decltype(v)::value>, dim3((unsigned)rows),
		                 zf_row_threads(zf_ceil(f, zf_group<T>::n), 256), 0, s, (T *)y, (const T *)gate_up, f);
	});
}

ZF_EXPORT int zf_cuda_swiglu_backward(zf_stream *s, int dtype, void *dgate_up, const void *dy, const void *gate_up,
                                      int64_t rows, int64_t f) {
	return zf_with_act(dtype, f % 8 == 0 && zf_aligned(dgate_up, dy, gate_up), [&](auto t, auto v) {
		using T = decltype(t);
		return zf_launch(glu_backward<T, decltype(v)::value>, dim3((unsigned)rows),
		                 zf_row_threads(zf_ceil(f, zf_group<T>::n), 256), 0, s, (T *)dgate_up, (const T *)dy,
		                 (const T *)gate_up, f);
	});
}
