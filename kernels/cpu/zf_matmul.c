#include "zf_matmul.h"

#include <stdatomic.h>

static _Atomic int own;

zf_status zf_products_force(int which) {
	if (which != ZF_PRODUCTS_AUTO && which != ZF_PRODUCTS_OWN)
		return ZF_EINVAL;
	atomic_store(&own, which == ZF_PRODUCTS_OWN);
	return ZF_OK;
}

int zf_products_library(void) {
	/* A lower instruction set is chosen so that unlike machines agree, and the library looks at the machine. */
	if (atomic_load(&own) || zf_isa() != zf_isa_best())
		return 0;
	return zf_dnnl_version();
}

zf_status zf_matmul(zf_pool *p, int in_dtype, int out_dtype, void *out, const void *a, const void *b, int64_t m,
                    int64_t n, int64_t k, int trans_a, int trans_b, int accumulate) {
	if ((in_dtype != ZF_F32 && in_dtype != ZF_BF16) || (out_dtype != ZF_F32 && out_dtype != in_dtype) ||
	    (accumulate && out_dtype != ZF_F32))
		return ZF_EINVAL;
	struct zf_product o = {in_dtype, out_dtype, out, a, b, m, n, k, trans_a, trans_b, accumulate};
	return zf_products_library() ? zf_dnnl_matmul(p, &o) : zf_gemm_matmul(p, &o);
}
