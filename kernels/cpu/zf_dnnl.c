/* oneDNN's matrix product, each tile by one thread.
 *
 * The library is opened at run time, so that one binary runs with and without it, and
 * nothing is needed to link. Debian's build splits work over OpenMP threads by itself: each of our
 * threads tells it once to use one, which makes it sequential there. */
#define _GNU_SOURCE
#include "zf_matmul.h"

#if defined(__has_include)
#if __has_include(<dnnl.h>)
#include <dnnl.h>
#if DNNL_VERSION_MAJOR == 2
#define HAVE_DNNL 1
#endif
#endif
#endif

#ifndef HAVE_DNNL

int zf_dnnl_version(void) { return 0; }

zf_status zf_dnnl_matmul(zf_pool *p, const struct zf_product *o) {
	(void)p;
	(void)o;
	return ZF_EPRODUCT;
}

#else

#include <dlfcn.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>

/* Every function of the library that is used. */
#define DNNL_FUNCTIONS(F)                                                                                              \
	F(dnnl_version)                                                                                                    \
	F(dnnl_engine_create)                                                                                              \
	F(dnnl_stream_create)                                                                                              \
	F(dnnl_stream_destroy)                                                                                             \
	F(dnnl_memory_desc_init_by_strides)                                                                                \
	F(dnnl_memory_desc_get_size)                                                                                       \
	F(dnnl_memory_create)                                                                                              \
	F(dnnl_memory_destroy)                                                                                             \
	F(dnnl_matmul_desc_init)                                                                                           \
	F(dnnl_primitive_attr_create)                                                                                      \
	F(dnnl_primitive_attr_destroy)                                                                                     \
	F(dnnl_primitive_attr_set_scratchpad_mode)                                                                         \
	F(dnnl_primitive_attr_set_post_ops)                                                                                \
	F(dnnl_post_ops_create)                                                                                            \
	F(dnnl_post_ops_destroy)                                                                                           \
	F(dnnl_post_ops_append_sum)                                                                                        \
	F(dnnl_primitive_desc_create)                                                                                      \
	F(dnnl_primitive_desc_destroy)                                                                                     \
	F(dnnl_primitive_desc_query_md)                                                                                    \
	F(dnnl_primitive_create)                                                                                           \
	F(dnnl_primitive_destroy)                                                                                          \
	F(dnnl_primitive_execute)

static struct {
#define FIELD(name) __typeof__(name) *name;
	DNNL_FUNCTIONS(FIELD)
#undef FIELD
	void (*omp_set_num_threads)(int);
	dnnl_engine_t engine;
	int version; /* 0: not found */
} lib;

static void open_library(void) {
	void *h = dlopen("libdnnl.so.2", RTLD_NOW | RTLD_LOCAL);
	if (!h)
		return;
#define LOAD(name)                                                                                                     \
	lib.name = (__typeof__(name) *)dlsym(h, #name);                                                                    \
	if (!lib.name)                                                                                                     \
		return;
	DNNL_FUNCTIONS(LOAD)
#undef LOAD
	/* Found through the library's own dependencies; absent when it was built without OpenMP. */
	*(void **)&lib.omp_set_num_threads = dlsym(h, "omp_set_num_threads");
	const dnnl_version_t *v = lib.dnnl_version();
	/* The description of a memory is a struct that this file was compiled with. */
	if (v->major != DNNL_VERSION_MAJOR || v->minor != DNNL_VERSION_MINOR)
		return;
	if (!lib.omp_set_num_threads && v->cpu_runtime != DNNL_RUNTIME_SEQ)
		return;
	if (lib.dnnl_engine_create(&lib.engine, dnnl_cpu, 0) != dnnl_success)
		return;
	lib.version = v->major * 10000 + v->minor * 100 + v->patch;
}

int zf_dnnl_version(void) {
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	pthread_once(&once, open_library);
	return lib.version;
}

static void be_sequential(void) {
	static __thread bool done;
	if (!done && lib.omp_set_num_threads)
		lib.omp_set_num_threads(1);
	done = true;
}

/* A plan is a compiled product of one tile shape. */
struct plan_key {
	int64_t m, n, k, lda, ldb, ldc;
	int32_t in_dtype, out_dtype, trans_a, trans_b, accumulate, zero;
};

struct plan {
	struct plan_key key;
	dnnl_memory_desc_t a, b, c, scratch;
	dnnl_primitive_t primitive; /* NULL: the slot is free */
	size_t scratch_bytes;
	uint64_t used; /* when, by plans.clock */
	int users;
};

/* A training job has some thirty tile shapes; text generation adds one for each length of a
 * prompt, which is what the eviction is for. */
#define PLANS 128

static struct {
	pthread_mutex_t mu;
	uint64_t clock;
	struct plan slot[PLANS];
} plans = {.mu = PTHREAD_MUTEX_INITIALIZER};

static dnnl_data_type_t dnnl_type(int dtype) { return dtype == ZF_F32 ? dnnl_f32 : dnnl_bf16; }

static bool describe(dnnl_memory_desc_t *d, int64_t rows, int64_t cols, int dtype, int64_t ld, int trans) {
	dnnl_dims_t dims = {rows, cols}, strides = {trans ? 1 : ld, trans ? ld : 1};
	return lib.dnnl_memory_desc_init_by_strides(d, 2, dims, dnnl_type(dtype), strides) == dnnl_success;
}

static bool make_primitive(struct plan *l, dnnl_primitive_attr_t attr) {
	dnnl_matmul_desc_t d;
	dnnl_primitive_desc_t pd;
	if (lib.dnnl_matmul_desc_init(&d, &l->a, &l->b, NULL, &l->c) != dnnl_success)
		return false;
	if (lib.dnnl_primitive_desc_create(&pd, &d, attr, lib.engine, NULL) != dnnl_success)
		return false;
	const dnnl_memory_desc_t *s = lib.dnnl_primitive_desc_query_md(pd, dnnl_query_scratchpad_md, 0);
	l->scratch_bytes = s ? lib.dnnl_memory_desc_get_size(s) : 0;
	if (s)
		l->scratch = *s;
	bool ok = lib.dnnl_primitive_create(&l->primitive, pd) == dnnl_success;
	lib.dnnl_primitive_desc_destroy(pd);
	return ok;
}

static bool make_plan(struct plan *l, const struct plan_key *k) {
	*l = (struct plan){.key = *k};
	if (!describe(&l->a, k->m, k->k, k->in_dtype, k->lda, k->trans_a) ||
	    !describe(&l->b, k->k, k->n, k->in_dtype, k->ldb, k->trans_b) ||
	    !describe(&l->c, k->m, k->n, k->out_dtype, k->ldc, 0))
		return false;
	dnnl_primitive_attr_t attr;
	if (lib.dnnl_primitive_attr_create(&attr) != dnnl_success)
		return false;
	/* Scratch of ours, per thread: the library's own would be shared by the threads that run one primitive. */
	bool ok = lib.dnnl_primitive_attr_set_scratchpad_mode(attr, dnnl_scratchpad_mode_user) == dnnl_success;
	if (ok && k->accumulate) {
		dnnl_post_ops_t ops;
		ok = lib.dnnl_post_ops_create(&ops) == dnnl_success;
		if (ok) {
			ok = lib.dnnl_post_ops_append_sum(ops, 1.0f) == dnnl_success &&
			     lib.dnnl_primitive_attr_set_post_ops(attr, ops) == dnnl_success;
			lib.dnnl_post_ops_destroy(ops);
		}
	}
	ok = ok && make_primitive(l, attr);
	lib.dnnl_primitive_attr_destroy(attr);
	return ok;
}

/* borrow finds or makes the plan of a tile shape; NULL when the library refuses. */
static struct plan *borrow(const struct plan_key *k) {
	struct plan *found = NULL, *oldest = NULL;
	pthread_mutex_lock(&plans.mu);
	for (int i = 0; i < PLANS && !found; i++) {
		struct plan *l = &plans.slot[i];
		if (l->primitive && memcmp(&l->key, k, sizeof *k) == 0)
			found = l;
		else if (l->users == 0 && (!oldest || l->used < oldest->used))
			oldest = l;
	}
	if (!found && oldest) {
		if (oldest->primitive)
			lib.dnnl_primitive_destroy(oldest->primitive);
		oldest->primitive = NULL;
		if (make_plan(oldest, k))
			found = oldest;
		else
			*oldest = (struct plan){0};
	}
	if (found) {
		found->users++;
		found->used = ++plans.clock;
	}
	pthread_mutex_unlock(&plans.mu);
	return found;
}

static void give_back(struct plan *l) {
	if (!l)
		return;
	pthread_mutex_lock(&plans.mu);
	l->users--;
	pthread_mutex_unlock(&plans.mu);
}

static bool execute(const struct plan *l, const void *a, const void *b, void *c, void *scratch) {
	enum { OPERANDS = 4 };
	const dnnl_memory_desc_t *descs[OPERANDS] = {&l->a, &l->b, &l->c, &l->scratch};
	void *handles[OPERANDS] = {(void *)a, (void *)b, c, scratch};
	const int names[OPERANDS] = {DNNL_ARG_SRC, DNNL_ARG_WEIGHTS, DNNL_ARG_DST, DNNL_ARG_SCRATCHPAD};
	dnnl_exec_arg_t args[OPERANDS];
	dnnl_stream_t stream;
	if (lib.dnnl_stream_create(&stream, lib.engine, dnnl_stream_default_flags) != dnnl_success)
		return false;
	bool ok = true;
	int n = 0;
	for (int i = 0; i < OPERANDS && ok; i++) {
		if (i == 3 && l->scratch_bytes == 0)
			continue;
		args[n].arg = names[i];
		ok = lib.dnnl_memory_create(&args[n].memory, descs[i], lib.engine, handles[i]) == dnnl_success;
		n += ok;
	}
	ok = ok && lib.dnnl_primitive_execute(l->primitive, stream, n, args) == dnnl_success;
	for (int i = 0; i < n; i++)
		lib.dnnl_memory_destroy(args[i].memory);
	lib.dnnl_stream_destroy(stream);
	return ok;
}

static int64_t multiple(int64_t n, int64_t of) { return (n + of - 1) / of * of; }
static int64_t clamp(int64_t n, int64_t lo, int64_t hi) { return n < lo ? lo : n > hi ? hi : n; }

/* Tiles for about eight threads when the product is big enough. Measured with 2.6.3 at the shapes of a 135M
 * Llama: a tile should hold all of the side that is not split, and the split side is the one whose operand is packed
 * cheaply: columns for AB and AB', rows for A'B. */
static struct zf_grid choose_grid(const struct zf_product *o) {
	if (o->trans_a)
		return zf_grid_of(o->m, o->n, clamp(multiple(o->m / 8, 16), 64, 128), clamp(o->n, 16, 2048));
	return zf_grid_of(o->m, o->n, clamp(o->m, 1, 512), clamp(multiple(o->n / 8, 16), 96, 512));
}

struct tiles {
	zf_pool *pool;
	const struct zf_product *o;
	struct zf_grid grid;
	int64_t lda, ldb, ldc;
	struct plan *plan[2][2]; /* [last row of tiles][last column of tiles] */
	_Atomic int status;
};

static int width(int dtype) { return dtype == ZF_F32 ? 4 : 2; }

static void run_tile(void *arg, int64_t t, int thread) {
	struct tiles *g = arg;
	const struct zf_product *o = g->o;
	int64_t i, j, rows, cols;
	zf_grid_tile(&g->grid, o, t, &i, &j, &rows, &cols);
	const struct plan *l = g->plan[rows != g->grid.tm][cols != g->grid.tn];
	void *scratch = zf_scratch(g->pool, thread, l->scratch_bytes);
	if (!scratch) {
		atomic_store(&g->status, ZF_ENOMEM);
		return;
	}
	be_sequential();
	int in = width(o->in_dtype), out = width(o->out_dtype);
	const char *a = (const char *)o->a + (o->trans_a ? i : i * g->lda) * in;
	const char *b = (const char *)o->b + (o->trans_b ? j * g->ldb : j) * in;
	if (!execute(l, a, b, (char *)o->out + (i * g->ldc + j) * out, scratch))
		atomic_store(&g->status, ZF_EPRODUCT);
}

zf_status zf_dnnl_matmul(zf_pool *p, const struct zf_product *o) {
	struct tiles g = {.pool = p, .o = o, .grid = choose_grid(o)};
	g.lda = o->trans_a ? o->m : o->k;
	g.ldb = o->trans_b ? o->k : o->n;
	g.ldc = o->n;
	be_sequential(); /* plans are made for one thread too */
	int64_t last_rows = o->m - (g.grid.rows - 1) * g.grid.tm, last_cols = o->n - (g.grid.cols - 1) * g.grid.tn;
	zf_status status = ZF_OK;
	for (int r = 0; r < 2; r++)
		for (int c = 0; c < 2; c++) {
			if ((r == 0 && o->m < g.grid.tm) || (c == 0 && o->n < g.grid.tn) || (r == 1 && last_rows == g.grid.tm) ||
			    (c == 1 && last_cols == g.grid.tn))
				continue;
			struct plan_key k;
			memset(&k, 0, sizeof k);
			k.m = r ? last_rows : g.grid.tm;
			k.n = c ? last_cols : g.grid.tn;
			k.k = o->k;
			k.lda = g.lda;
			k.ldb = g.ldb;
			k.ldc = g.ldc;
			k.in_dtype = o->in_dtype;
			k.out_dtype = o->out_dtype;
			k.trans_a = o->trans_a;
			k.trans_b = o->trans_b;
			k.accumulate = o->accumulate;
			g.plan[r][c] = borrow(&k);
			if (!g.plan[r][c])
				status = ZF_EPRODUCT;
		}
	if (status == ZF_OK) {
		zf_parallel(p, g.grid.rows * g.grid.cols, run_tile, &g);
		status = atomic_load(&g.status);
	}
	for (int r = 0; r < 2; r++)
		for (int c = 0; c < 2; c++)
			give_back(g.plan[r][c]);
	return status;
}

#endif
