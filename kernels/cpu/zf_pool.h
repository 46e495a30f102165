/* A pool of threads that run the tiles of one kernel at a time.
 *
 * A kernel cuts its work into tiles whose number and extent follow from the
 * shapes alone, and no tile reads what another one writes. So it does not matter
 * which thread runs a tile: results never depend on the number of threads.
 *
 * A pool is used by one caller at a time (the Backend's lock sees to it).
 * Workers sleep on a futex after a bounded spin, and do not spin at all when the
 * pool has more threads than the process has cores. */
#ifndef ZF_POOL_H
#define ZF_POOL_H

#include <stddef.h>
#include <stdint.h>

typedef struct zf_pool zf_pool;

/* zf_pool_new starts threads - 1 workers; the caller of zf_parallel is thread 0.
 * NULL when threads < 1 or when a thread or memory cannot be had. */
zf_pool *zf_pool_new(int threads);

/* zf_pool_free ends the workers, waits for them and frees all scratch. NULL is allowed. */
void zf_pool_free(zf_pool *p);

int zf_pool_threads(const zf_pool *p);

/* zf_parallel calls tile(arg, i, thread) once for every i in [0, tiles) and returns when
 * all calls have. thread is in [0, zf_pool_threads(p)), and no two calls at the same time
 * have the same one. Tiles start in ascending order. A tile must not call zf_parallel. */
void zf_parallel(zf_pool *p, int64_t tiles, void (*tile)(void *arg, int64_t tile, int thread), void *arg);

/* zf_scratch is at least bytes of memory for one thread, 64-byte aligned, with any
 * content, good until that thread's next zf_scratch. NULL when there is no memory: the
 * kernel returns ZF_ENOMEM. It may be called by the thread itself inside a tile, or by
 * the caller of zf_parallel for any thread before it starts the tiles, which is where a
 * failure is easiest to report. */
void *zf_scratch(zf_pool *p, int thread, size_t bytes);

#endif
