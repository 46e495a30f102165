// The emulator: blocks on a pool of OS threads, each thread of a block as a fiber with a stack of its own, so that a barrier or a
// shuffle switches to the next fiber.
//
// What is enqueued on a stream runs when that is synchronised, or a stream that waits for an event recorded after it: at the last
// moment, as in kernels/deferred. Device 1 does everything in another order: blocks and threads from the last to the first, and a warp as far
// as it can go before the next. A kernel in which two threads race gives other bits there, and the conformance suite compares them.
//
// These end the kernel with an error, cudaErrorLaunchFailure, as they would or might on a GPU:
//
//   - a barrier or a shuffle that not all threads of the block or warp reach, or not the same one;
//   - a shuffle whose mask is not the whole warp, a block that is no number of whole warps;
//   - an access of 8 or 16 bytes that is not aligned to them;
//   - a write to shared memory within 4 KiB after what the block has asked for.
//
// Shared memory and what cudaMalloc returns hold NaNs at first.
#include <cuda_runtime.h>

#include <atomic>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <stdio.h>
#include <stdlib.h>
#include <string>
#include <sys/mman.h>
#include <sys/sysinfo.h>
#include <thread>
#include <vector>
#ifndef __x86_64__
#include <ucontext.h>
#endif

static const int most_threads = 1024;
static const size_t stack_bytes = 128 << 10, guard_bytes = 4096, canary_bytes = 4096;
static const size_t most_shared = 227 << 10; // a block's on Hopper

// ---- Fibers -------------------------------------------------------------------------------------------------------

#ifdef __x86_64__
// A context is a stack pointer, under which lie the registers that a function keeps, and where it goes on.
typedef void *context;
extern "C" void zf_emu_switch(context *from, context to);
asm(R"(
.text
.globl zf_emu_switch
.hidden zf_emu_switch
.type zf_emu_switch, @function
zf_emu_switch:
	pushq %rbp
	pushq %rbx
	pushq %r12
	pushq %r13
	pushq %r14
	pushq %r15
	movq %rsp, (%rdi)
	movq %rsi, %rsp
	popq %r15
	popq %r14
	popq %r13
	popq %r12
	popq %rbx
	popq %rbp
	ret
.size zf_emu_switch, .-zf_emu_switch
)");
static void make(context *c, char *stack, void (*run)()) {
	void **top = reinterpret_cast<void **>(stack + stack_bytes);
	*--top = nullptr; // where run would return to: it does not; and the alignment that a call leaves
	*--top = reinterpret_cast<void *>(run);
	for (int i = 0; i < 6; i++)
		*--top = nullptr;
	*c = top;
}
static void change(context *from, context *to) { zf_emu_switch(from, *to); }
#else
typedef ucontext_t context;
static void make(context *c, char *stack, void (*run)()) {
	getcontext(c);
	c->uc_stack.ss_sp = stack;
	c->uc_stack.ss_size = stack_bytes;
	c->uc_link = nullptr;
	makecontext(c, run, 0);
}
static void change(context *from, context *to) { swapcontext(from, to); }
#endif

enum state { ready, at_barrier, at_exchange, ended };

struct fiber : zf_emu_thread {
	context at;
	char *stack;
	state is;
	unsigned exchange; // how many it has come to
};

struct warp {
	uint64_t values[2][32]; // of this exchange and the one before
	int come;
};

// One OS thread's block and its fibers, kept from block to block.
struct runner : zf_emu_block {
	fiber fibers[most_threads];
	warp warps[most_threads / 32];
	context scheduler;
	const std::function<void()> *body;
	int n;                  // threads
	int waiting, line, any; // those at the barrier, where it is, the or of their values
	int result;             // that of the barrier before
	bool failed;
};

__thread zf_emu_thread *zf_emu_self;
static __thread runner *own; // this OS thread's

static std::mutex why_mu;
static std::string why;
static std::atomic<bool> failed{false};

const char *zf_emu_why(void) { return failed ? why.c_str() : nullptr; }

static void note(const zf_emu_thread *t, const char *what) {
	std::lock_guard<std::mutex> lock(why_mu);
	if (failed)
		return;
	char text[512];
	const zf_emu_block *b = t->block;
	snprintf(text, sizeof text, "emulator: block (%u,%u,%u) of (%u,%u,%u), thread %u of %u: %s", b->index.x, b->index.y,
	         b->index.z, b->grid.x, b->grid.y, b->grid.z, t->index.x, b->size.x, what);
	why = text;
	failed = true;
}

static void pause() { change(&static_cast<fiber *>(zf_emu_self)->at, &own->scheduler); }

void zf_emu_fail(const char *what) {
	note(zf_emu_self, what);
	own->failed = true;
	for (;;)
		pause();
}

static void run_fiber() {
	(*own->body)();
	static_cast<fiber *>(zf_emu_self)->is = ended;
	for (;;)
		pause();
}

int zf_emu_barrier(int line, int value) {
	runner *b = own;
	if (b->waiting > 0 && b->line != line)
		zf_emu_fail("at a barrier while another thread of the block is at another one");
	b->line = line;
	b->any |= value;
	if (++b->waiting == b->n) {
		b->result = b->any;
		b->waiting = b->any = 0;
		for (int i = 0; i < b->n; i++)
			if (b->fibers[i].is == at_barrier)
				b->fibers[i].is = ready;
		return b->result;
	}
	static_cast<fiber *>(zf_emu_self)->is = at_barrier;
	pause();
	return b->result;
}

const uint64_t *zf_emu_exchange(unsigned mask, uint64_t value) {
	runner *b = own;
	fiber *f = static_cast<fiber *>(zf_emu_self);
	if (mask != 0xffffffffu)
		zf_emu_fail("a shuffle whose mask is not the whole warp");
	int first = (int)f->index.x / 32 * 32;
	warp *w = &b->warps[f->index.x / 32];
	uint64_t *values = w->values[f->exchange++ % 2];
	values[f->index.x % 32] = value;
	if (++w->come == 32) {
		w->come = 0;
		for (int i = first; i < first + 32; i++)
			if (b->fibers[i].is == at_exchange)
				b->fibers[i].is = ready;
		return values;
	}
	f->is = at_exchange;
	pause();
	return values;
}

// run_block runs one block to its end, or to its failure.
static void run_block(runner *b, bool turned, size_t shared) {
	memset(b->shared, 0xff, shared);
	b->waiting = b->any = 0;
	b->failed = false;
	for (int i = 0; i < b->n; i++) {
		fiber *f = &b->fibers[i];
		f->is = ready;
		f->exchange = 0;
		f->index = dim3((unsigned)i, 0, 0);
		make(&f->at, f->stack, run_fiber);
	}
	for (int i = 0; i < b->n / 32; i++)
		b->warps[i].come = 0;
	// In order, all threads take turns. Turned, a warp goes as far as it can, the last one first, before the next
	// begins: what one of its threads writes too early, without a barrier, the other warps then find.
	const int together = turned ? 32 : b->n;
	for (int left = b->n; left > 0;) {
		bool went = false;
		for (int from = 0; from < b->n; from += together) {
			for (bool again = true; again;) {
				again = false;
				for (int i = from; i < from + together; i++) {
					fiber *f = &b->fibers[turned ? b->n - 1 - i : i];
					if (f->is != ready)
						continue;
					went = again = true;
					zf_emu_self = f;
					change(&b->scheduler, &f->at);
					if (b->failed)
						return;
					left -= f->is == ended;
				}
			}
		}
		if (!went) {
			note(&b->fibers[0], "a barrier or a shuffle that not all threads reach");
			return;
		}
	}
	for (size_t i = 0; i < canary_bytes; i++)
		if (b->shared[shared + i] != 0xa5) {
			note(&b->fibers[0], "shared memory was written after its end");
			memset(b->shared + shared, 0xa5, canary_bytes);
			return;
		}
}

static runner *new_runner() {
	runner *b = new runner();
	const size_t each = stack_bytes + guard_bytes;
	char *stacks = static_cast<char *>(
		mmap(nullptr, each * most_threads, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
	if (stacks == MAP_FAILED)
		abort();
	for (int i = 0; i < most_threads; i++) {
		mprotect(stacks + each * i, guard_bytes, PROT_NONE);
		b->fibers[i].stack = stacks + each * i + guard_bytes;
		b->fibers[i].block = b;
	}
	b->shared = static_cast<unsigned char *>(aligned_alloc(256, most_shared + canary_bytes));
	return b;
}

// ---- The pool -----------------------------------------------------------------------------------------------------

struct launch {
	dim3 grid;
	int threads;
	size_t shared;
	std::function<void()> body;
	bool turned;
};

// It is never destroyed: a condition that threads wait for would hold up the process's exit.
static struct pool_state {
	std::mutex mu;
	std::condition_variable begin, done;
	bool started;
	int threads;
	int running; // threads that have not finished the launch
	unsigned turn;
	const launch *now;
	std::atomic<int64_t> next;
} &pool = *new pool_state();

static void take_blocks(runner *b, const launch *l) {
	b->size = dim3((unsigned)l->threads);
	b->grid = l->grid;
	b->n = l->threads;
	b->body = &l->body;
	memset(b->shared + l->shared, 0xa5, canary_bytes);
	const int64_t blocks = (int64_t)l->grid.x * l->grid.y * l->grid.z;
	for (int64_t i; (i = pool.next++) < blocks && !failed;) {
		const int64_t at = l->turned ? blocks - 1 - i : i;
		b->index = dim3((unsigned)(at % l->grid.x), (unsigned)(at / l->grid.x % l->grid.y),
		                (unsigned)(at / l->grid.x / l->grid.y));
		run_block(b, l->turned, l->shared);
	}
}

static void pool_thread() {
	own = new_runner();
	unsigned seen = 0;
	std::unique_lock<std::mutex> lock(pool.mu);
	for (;;) {
		pool.begin.wait(lock, [&] { return pool.turn != seen; });
		seen = pool.turn;
		const launch *l = pool.now;
		lock.unlock();
		take_blocks(own, l);
		lock.lock();
		if (--pool.running == 0)
			pool.done.notify_one();
	}
}

static void run_launch(const launch *l) {
	std::unique_lock<std::mutex> lock(pool.mu);
	if (!pool.started) { // its threads end with the process
		pool.started = true;
		pool.threads = (int)std::thread::hardware_concurrency();
		for (int i = 0; i < pool.threads; i++)
			std::thread(pool_thread).detach();
	}
	pool.now = l;
	pool.next = 0;
	pool.running = pool.threads;
	pool.turn++;
	pool.begin.notify_all();
	pool.done.wait(lock, [] { return pool.running == 0; });
}

// ---- Streams ------------------------------------------------------------------------------------------------------

struct task {
	std::function<void()> run; // empty for a wait
	zf_emu_stream *of;         // whose task number is waited for
	uint64_t number;
};

struct zf_emu_stream {
	std::deque<task> queue;
	uint64_t begun, enqueued; // how many tasks
	bool turned;
};

struct zf_emu_event {
	zf_emu_stream *of;
	uint64_t number;
};

static std::mutex streams; // over all of them, and over what runs
static thread_local int device;

static void run_to(zf_emu_stream *s, uint64_t number) {
	while (s->begun < number && !s->queue.empty()) {
		task t = std::move(s->queue.front());
		s->queue.pop_front();
		s->begun++;
		if (!t.run)
			run_to(t.of, t.number);
		else if (!failed)
			t.run();
	}
}

static cudaError_t state_of_all() { return failed ? cudaErrorLaunchFailure : cudaSuccess; }

static cudaError_t enqueue(zf_emu_stream *s, std::function<void()> run) {
	std::lock_guard<std::mutex> lock(streams);
	s->queue.push_back(task{std::move(run), nullptr, 0});
	s->enqueued++;
	return state_of_all();
}

cudaError_t zf_emu_enqueue(dim3 grid, int threads, size_t shared, cudaStream_t s, std::function<void()> body) {
	if (threads < 1 || threads > most_threads || threads % 32 != 0 || shared > most_shared || grid.x < 1 ||
	    grid.y < 1 || grid.z < 1 || grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535)
		return cudaErrorInvalidValue;
	launch l{grid, threads, shared, std::move(body), s->turned};
	return enqueue(s, [l] { run_launch(&l); });
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, int) {
	*s = new zf_emu_stream{{}, 0, 0, device == 1};
	return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t s) {
	std::lock_guard<std::mutex> lock(streams);
	run_to(s, s->enqueued);
	return state_of_all();
}

cudaError_t cudaStreamDestroy(cudaStream_t s) {
	delete s;
	return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *e, int) {
	*e = new zf_emu_event{};
	return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t e) {
	delete e;
	return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t s) {
	std::lock_guard<std::mutex> lock(streams);
	*e = zf_emu_event{s, s->enqueued};
	return cudaSuccess;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t s, cudaEvent_t e, int) {
	std::lock_guard<std::mutex> lock(streams);
	if (e->of && e->of != s) {
		s->queue.push_back(task{nullptr, e->of, e->number});
		s->enqueued++;
	}
	return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void *dst, const void *src, size_t bytes, int, cudaStream_t s) {
	return enqueue(s, [=] { memmove(dst, src, bytes); });
}

cudaError_t cudaMemsetAsync(void *p, int v, size_t bytes, cudaStream_t s) {
	return enqueue(s, [=] { memset(p, v, bytes); });
}

// ---- Memory and devices -------------------------------------------------------------------------------------------

cudaError_t cudaMemGetInfo(size_t *left, size_t *all) {
	struct sysinfo i;
	sysinfo(&i);
	*left = (size_t)i.freeram * i.mem_unit;
	*all = (size_t)i.totalram * i.mem_unit;
	return cudaSuccess;
}

cudaError_t cudaMalloc(void **p, size_t bytes) {
	size_t left, all;
	cudaMemGetInfo(&left, &all);
	if (bytes > all || !(*p = aligned_alloc(256, (bytes + 255) / 256 * 256)))
		return cudaErrorMemoryAllocation;
	memset(*p, 0xff, bytes);
	return cudaSuccess;
}

cudaError_t cudaFree(void *p) {
	free(p);
	return cudaSuccess;
}

cudaError_t cudaHostAlloc(void **p, size_t bytes, int) { return cudaMalloc(p, bytes); }
cudaError_t cudaFreeHost(void *p) { return cudaFree(p); }

cudaError_t cudaMemset(void *p, int v, size_t bytes) {
	memset(p, v, bytes);
	return cudaSuccess;
}

// Nothing relies on it but what is done at once here: streams wait for their own synchronisation.
cudaError_t cudaDeviceSynchronize(void) { return state_of_all(); }

cudaError_t cudaGetDeviceCount(int *n) {
	*n = 2;
	return cudaSuccess;
}

cudaError_t cudaSetDevice(int ordinal) {
	if (ordinal < 0 || ordinal > 1)
		return cudaErrorInvalidDevice;
	device = ordinal;
	return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int *v, cudaDeviceAttr a, int) {
	*v = a == cudaDevAttrMaxSharedMemoryPerBlockOptin ? (int)most_shared : 0;
	return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp *p, int ordinal) {
	snprintf(p->name, sizeof p->name, "emulator, device %d", ordinal);
	return cudaSuccess;
}

cudaError_t cudaGetLastError(void) { return state_of_all(); }

const char *cudaGetErrorName(cudaError_t e) {
	switch (e) {
	case cudaSuccess:
		return "cudaSuccess";
	case cudaErrorInvalidValue:
		return "cudaErrorInvalidValue";
	case cudaErrorMemoryAllocation:
		return "cudaErrorMemoryAllocation";
	case cudaErrorInvalidDevice:
		return "cudaErrorInvalidDevice";
	case cudaErrorLaunchFailure:
		return "cudaErrorLaunchFailure";
	}
	return "unknown error";
}

const char *cudaGetErrorString(cudaError_t e) { return cudaGetErrorName(e); }
