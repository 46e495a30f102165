#define _GNU_SOURCE
#include "zf_pool.h"

#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

/* About 50 us of pause instructions on current x86: longer than the gap between two
 * kernels of a block, shorter than any wait for the network. */
#define ZF_SPINS 1000

#define ZF_OPEN 0x80000000u /* gate: workers may enter; the other bits count who is inside */

struct zf_scratch_slot {
	void *mem;
	size_t bytes;
	char pad[64 - sizeof(void *) - sizeof(size_t)]; /* a slot's cache line is one thread's */
};

struct zf_worker {
	zf_pool *pool;
	pthread_t thread;
	int index;
};

struct zf_pool {
	int threads;
	int spins;
	int started; /* workers that run */
	struct zf_worker *workers;
	struct zf_scratch_slot *scratch;

	/* The job. Written only while gate is 0: closed, with nobody inside. */
	void (*tile)(void *, int64_t, int);
	void *arg;
	int64_t tiles;

	_Alignas(64) _Atomic uint32_t seq; /* bumped for each job and at the end: workers sleep on it */
	_Atomic int32_t sleepers;
	_Atomic bool stop;
	_Alignas(64) _Atomic uint32_t gate; /* the caller sleeps on it */
	_Alignas(64) _Atomic int64_t next;  /* next tile to hand out */
};

static void futex_wait(_Atomic uint32_t *word, uint32_t seen) {
	syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0);
}

static void futex_wake(_Atomic uint32_t *word, int count) {
	syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, count, NULL, NULL, 0);
}

static inline void relax(void) {
#if defined(__x86_64__)
	__builtin_ia32_pause();
#else
	atomic_signal_fence(memory_order_seq_cst);
#endif
}

static void run_tiles(zf_pool *p, int thread) {
	for (;;) {
		int64_t i = atomic_fetch_add_explicit(&p->next, 1, memory_order_relaxed);
		if (i >= p->tiles)
			return;
		p->tile(p->arg, i, thread);
	}
}

/* A worker that wakes late finds the gate closed, or open for a later job, which is as
 * good: the caller never waits for a thread that has not begun. */
static bool enter(zf_pool *p) {
	uint32_t g = atomic_load(&p->gate);
	while (g & ZF_OPEN)
		if (atomic_compare_exchange_weak(&p->gate, &g, g + 1))
			return true;
	return false;
}

static void leave(zf_pool *p) {
	if (atomic_fetch_sub(&p->gate, 1) == 1)
		futex_wake(&p->gate, 1);
}

static void *worker_main(void *arg) {
	struct zf_worker *w = arg;
	zf_pool *p = w->pool;
	uint32_t seen = 0;
	for (;;) {
		for (int i = 0; i < p->spins && atomic_load(&p->seq) == seen; i++)
			relax();
		while (atomic_load(&p->seq) == seen) {
			/* seq_cst on both sides: either the caller sees this sleeper and wakes it,
			 * or the kernel sees the new seq and does not sleep. */
			atomic_fetch_add(&p->sleepers, 1);
			futex_wait(&p->seq, seen);
			atomic_fetch_sub(&p->sleepers, 1);
		}
		seen = atomic_load(&p->seq);
		if (atomic_load(&p->stop))
			return NULL;
		if (enter(p)) {
			run_tiles(p, w->index);
			leave(p);
		}
	}
}

static int usable_cores(void) {
	cpu_set_t set;
	if (sched_getaffinity(0, sizeof set, &set) == 0)
		return CPU_COUNT(&set);
	long n = sysconf(_SC_NPROCESSORS_ONLN);
	return n < 1 ? 1 : (int)n;
}

zf_pool *zf_pool_new(int threads) {
	if (threads < 1)
		return NULL;
	zf_pool *p;
	if (posix_memalign((void **)&p, 64, sizeof *p) != 0)
		return NULL;
	memset(p, 0, sizeof *p);
	p->threads = threads;
	p->spins = threads <= usable_cores() ? ZF_SPINS : 0;
	p->workers = calloc((size_t)threads, sizeof *p->workers);
	p->scratch = calloc((size_t)threads, sizeof *p->scratch);
	if (!p->workers || !p->scratch) {
		zf_pool_free(p);
		return NULL;
	}
	/* Signals belong to the Go runtime's threads. */
	sigset_t all, old;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	bool ok = true;
	for (int i = 1; i < threads && ok; i++) {
		struct zf_worker *w = &p->workers[p->started];
		*w = (struct zf_worker){.pool = p, .index = i};
		ok = pthread_create(&w->thread, NULL, worker_main, w) == 0;
		p->started += ok;
	}
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (!ok) {
		zf_pool_free(p);
		return NULL;
	}
	return p;
}

void zf_pool_free(zf_pool *p) {
	if (!p)
		return;
	atomic_store(&p->stop, true);
	atomic_fetch_add(&p->seq, 1);
	futex_wake(&p->seq, INT_MAX);
	for (int i = 0; i < p->started; i++)
		pthread_join(p->workers[i].thread, NULL);
	for (int i = 0; p->scratch && i < p->threads; i++)
		free(p->scratch[i].mem);
	free(p->scratch);
	free(p->workers);
	free(p);
}

int zf_pool_threads(const zf_pool *p) { return p->threads; }

void zf_parallel(zf_pool *p, int64_t tiles, void (*tile)(void *arg, int64_t tile, int thread), void *arg) {
	if (tiles <= 1 || p->started == 0) {
		for (int64_t i = 0; i < tiles; i++)
			tile(arg, i, 0);
		return;
	}
	p->tile = tile;
	p->arg = arg;
	p->tiles = tiles;
	atomic_store_explicit(&p->next, 0, memory_order_relaxed);
	atomic_store(&p->gate, ZF_OPEN);
	atomic_fetch_add(&p->seq, 1);
	if (atomic_load(&p->sleepers) > 0)
		futex_wake(&p->seq, tiles - 1 < p->started ? (int)(tiles - 1) : p->started);

	run_tiles(p, 0);

	uint32_t inside = atomic_fetch_and(&p->gate, ~ZF_OPEN) & ~ZF_OPEN;
	for (int i = 0; inside != 0; i++) {
		if (i < p->spins)
			relax();
		else
			futex_wait(&p->gate, inside);
		inside = atomic_load(&p->gate);
	}
}

void *zf_scratch(zf_pool *p, int thread, size_t bytes) {
	struct zf_scratch_slot *s = &p->scratch[thread];
	if (bytes > s->bytes) {
		free(s->mem);
		s->mem = NULL;
		s->bytes = 0;
		if (posix_memalign(&s->mem, 64, bytes) != 0) {
			s->mem = NULL;
			return NULL;
		}
		s->bytes = bytes;
	}
	if (!s->mem && bytes == 0)
		return zf_scratch(p, thread, 64);
	return s->mem;
}
