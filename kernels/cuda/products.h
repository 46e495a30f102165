// The border to the library of matrix products: cuBLASLt, or none (in the emulator), when all products are our own.
#pragma once

#include "host.cuh"

struct zf_product {
	int in_dtype, out_dtype;
	void *out;
	const void *a, *b;
	int64_t m, n, k;
	int trans_a, trans_b, accumulate;
};

// zf_products_open sets d->products, NULL where there is no library, and names it and its version.
int zf_products_open(zf_device *d, char *name, int64_t bytes);
int zf_products_close(zf_device *d);
// zf_products_stream gives a stream the library's workspace; zf_products_stream_close takes it back.
int zf_products_stream(zf_stream *s);
int zf_products_stream_close(zf_stream *s);
// zf_products_run does one product whose operands are aligned to 16 bytes.
int zf_products_run(zf_stream *s, const zf_product *o);
