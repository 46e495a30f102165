#include "zf_library.h"

#include <dlfcn.h>
#include <string.h>

struct zf_library zf_library;

/* find sets *to, a function pointer, whose width C does not let a cast from an object's cross. */
static int find(void *library, const char *name, void *to) {
	void *symbol = dlsym(library, name);
	memcpy(to, &symbol, sizeof symbol);
	return symbol != 0;
}

const char *zf_library_open(const char *path) {
	void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
	if (!library)
		return dlerror();
#define ZF_FIND(name, parameters, arguments)                                                                           \
	if (!find(library, "zf_cuda_" #name, &zf_library.name))                                                            \
		return "it has no function zf_cuda_" #name;
	ZF_CUDA_FUNCTIONS(ZF_FIND)
#undef ZF_FIND
	if (zf_library.abi() != ZF_CUDA_ABI)
		return "it was built for another version of this program";
	return 0;
}
