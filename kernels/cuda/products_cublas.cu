// Products from cuBLASLt: f32 in true f32 (no TF32), bf16 with sums in f32.
//
// The algorithm of a shape is the heuristic's first one, asked for once, for operands aligned to 16 bytes whatever they are, without
// a reduction over parts of k: so it depends on the shape, the card and the library's version alone, and each sum is made by one
// block. cuBLAS promises the same bits for the same call on the same card.
#include "products.h"

#include <cublasLt.h>
#include <map>
#include <mutex>
#include <stdio.h>
#include <tuple>

#define WORKSPACE_BYTES (32 << 20)

struct plan {
	cublasLtMatmulDesc_t what;
	cublasLtMatrixLayout_t a, b, out;
	cublasLtMatmulAlgo_t how;
};

using shape = std::tuple<int, int, int64_t, int64_t, int64_t, int, int>;

struct zf_products {
	cublasLtHandle_t handle;
	std::mutex mu; // guards plans
	std::map<shape, plan> plans;
};

#define LT(call)                                                                                                       \
	do {                                                                                                               \
		if ((call) != CUBLAS_STATUS_SUCCESS)                                                                           \
			return ZF_EPRODUCT;                                                                                        \
	} while (0)

int zf_products_open(zf_device *d, char *name, int64_t bytes) {
	d->products = new zf_products;
	if (cublasLtCreate(&d->products->handle) != CUBLAS_STATUS_SUCCESS) {
		delete d->products;
		return ZF_EPRODUCT;
	}
	size_t v = cublasLtGetVersion();
	snprintf(name, (size_t)bytes, "cuBLASLt %zu.%zu.%zu", v / 10000, v / 100 % 100, v % 100);
	return ZF_OK;
}

static void forget(plan *p) {
	cublasLtMatrixLayoutDestroy(p->a);
	cublasLtMatrixLayoutDestroy(p->b);
	cublasLtMatrixLayoutDestroy(p->out);
	cublasLtMatmulDescDestroy(p->what);
}

int zf_products_close(zf_device *d) {
	for (auto &p : d->products->plans)
		forget(&p.second);
	cublasStatus_t e = cublasLtDestroy(d->products->handle);
	delete d->products;
	return e == CUBLAS_STATUS_SUCCESS ? ZF_OK : ZF_EPRODUCT;
}

int zf_products_stream(zf_stream *s) { return zf_cuda_status(cudaMalloc(&s->workspace, WORKSPACE_BYTES)); }
int zf_products_stream_close(zf_stream *s) { return zf_cuda_status(cudaFree(s->workspace)); }

// The library's matrices go down columns: row-major out = A'B' is its out^T = B'^T A'^T, so that b is its first operand.
static int make(zf_products *l, const zf_product *o, plan *p) {
	const cudaDataType_t in = o->in_dtype == ZF_F32 ? CUDA_R_32F : CUDA_R_16BF;
	const cudaDataType_t out = o->out_dtype == ZF_F32 ? CUDA_R_32F : CUDA_R_16BF;
	const cublasOperation_t ta = o->trans_a ? CUBLAS_OP_T : CUBLAS_OP_N, tb = o->trans_b ? CUBLAS_OP_T : CUBLAS_OP_N;
	const uint64_t m = (uint64_t)o->m, n = (uint64_t)o->n, k = (uint64_t)o->k;
	LT(cublasLtMatmulDescCreate(&p->what, CUBLAS_COMPUTE_32F, CUDA_R_32F));
	LT(cublasLtMatmulDescSetAttribute(p->what, CUBLASLT_MATMUL_DESC_TRANSA, &tb, sizeof tb));
	LT(cublasLtMatmulDescSetAttribute(p->what, CUBLASLT_MATMUL_DESC_TRANSB, &ta, sizeof ta));
	LT(o->trans_b ? cublasLtMatrixLayoutCreate(&p->b, in, k, n, o->k)
	              : cublasLtMatrixLayoutCreate(&p->b, in, n, k, o->n));
	LT(o->trans_a ? cublasLtMatrixLayoutCreate(&p->a, in, m, k, o->m)
	              : cublasLtMatrixLayoutCreate(&p->a, in, k, m, o->k));
	LT(cublasLtMatrixLayoutCreate(&p->out, out, n, m, o->n));
	cublasLtMatmulPreference_t want;
	LT(cublasLtMatmulPreferenceCreate(&want));
	const uint32_t scheme = CUBLASLT_REDUCTION_SCHEME_NONE, aligned = 16;
	const uint64_t workspace = WORKSPACE_BYTES;
	cublasLtMatmulPreferenceSetAttribute(want, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &scheme, sizeof scheme);
	cublasLtMatmulPreferenceSetAttribute(want, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace, sizeof workspace);
	for (auto of : {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
	                CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES})
		cublasLtMatmulPreferenceSetAttribute(want, of, &aligned, sizeof aligned);
	cublasLtMatmulHeuristicResult_t found;
	int n_found = 0;
	cublasStatus_t e =
		cublasLtMatmulAlgoGetHeuristic(l->handle, p->what, p->b, p->a, p->out, p->out, want, 1, &found, &n_found);
	cublasLtMatmulPreferenceDestroy(want);
	if (e != CUBLAS_STATUS_SUCCESS || n_found == 0)
		return ZF_EPRODUCT;
	p->how = found.algo;
	return ZF_OK;
}

int zf_products_run(zf_stream *s, const zf_product *o) {
	zf_products *l = s->device->products;
	const shape key{o->in_dtype, o->out_dtype, o->m, o->n, o->k, o->trans_a, o->trans_b};
	plan *p;
	{
		std::lock_guard<std::mutex> lock(l->mu);
		auto it = l->plans.find(key);
		if (it == l->plans.end()) {
			plan fresh = {};
			int status = make(l, o, &fresh);
			if (status != ZF_OK) {
				forget(&fresh);
				return status;
			}
			it = l->plans.emplace(key, fresh).first;
		}
		p = &it->second; // a map's elements stay where they are
	}
	ZF_TRY(zf_enter(s));
	const float one = 1, beta = o->accumulate ? 1 : 0;
	LT(cublasLtMatmul(l->handle, p->what, &one, o->b, p->b, o->a, p->a, &beta, o->out, p->out, o->out, p->out, &p->how,
	                  s->workspace, WORKSPACE_BYTES, s->on));
	return ZF_OK;
}
