/* libzerofleet_cuda.so, opened at run time. One library per process: its functions are the table zf_library, and
 * zf_call_<name> calls one. */
#ifndef ZF_LIBRARY_H
#define ZF_LIBRARY_H

#include "zf_cuda.h"

#define ZF_POINTER(name, parameters, arguments) int(*name) parameters;
extern struct zf_library { ZF_CUDA_FUNCTIONS(ZF_POINTER) } zf_library;
#undef ZF_POINTER

#define ZF_CALL(name, parameters, arguments)                                                                           \
	static inline int zf_call_##name parameters { return zf_library.name arguments; }
ZF_CUDA_FUNCTIONS(ZF_CALL)
#undef ZF_CALL

/* zf_library_open fills in the table from the library at path. NULL, or what is wrong: text that lasts. */
const char *zf_library_open(const char *path);

#endif
