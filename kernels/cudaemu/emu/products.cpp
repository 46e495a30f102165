// The emulator has no library of matrix products: all are our own.
#include "products.h"

#include <stdio.h>

int zf_products_open(zf_device *d, char *name, int64_t bytes) {
	d->products = nullptr;
	snprintf(name, (size_t)bytes, "zerofleet");
	return ZF_OK;
}
int zf_products_close(zf_device *) { return ZF_OK; }
int zf_products_stream(zf_stream *) { return ZF_OK; }
int zf_products_stream_close(zf_stream *) { return ZF_OK; }
int zf_products_run(zf_stream *, const zf_product *) { return ZF_EPRODUCT; }
