#include <stdatomic.h>

#include "../zf_kernels.h"

static _Atomic int forced = -1;

int zf_isa_best(void) {
#if defined(__x86_64__)
	__builtin_cpu_init();
	if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c")) {
		if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
		    __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
			return ZF_ISA_AVX512;
		return ZF_ISA_AVX2;
	}
#endif
	return ZF_ISA_PORTABLE;
}

int zf_isa(void) {
	int isa = atomic_load_explicit(&forced, memory_order_relaxed);
	if (isa < 0) {
		isa = zf_isa_best();
		atomic_store_explicit(&forced, isa, memory_order_relaxed);
	}
	return isa;
}

zf_status zf_isa_force(int isa) {
	if (isa < ZF_ISA_PORTABLE || isa > zf_isa_best())
		return ZF_EINVAL;
	atomic_store_explicit(&forced, isa, memory_order_relaxed);
	return ZF_OK;
}
