// A rank of bench/collectives that exchanges through MPI. Rank 0 speaks for all: it reads orders, lines of "OPERATION BYTES
// TIMES CHECK", passes them on, and answers each with the seconds of one operation on the slowest rank. Between orders no
// rank uses a core. All end when rank 0's input does.
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { ALL_GATHER, REDUCE_SCATTER, ALL_REDUCE, OPERATIONS };
static const char *const names[OPERATIONS] = {"all-gather", "reduce-scatter", "all-reduce"};

typedef struct {
	long operation; // -1: the end
	long elements;  // f32 a rank
	long times;
	long check;
} order;

static int rank, ranks;

// memory is zeroed, in huge pages where it is long, as the other contenders' is.
static float *memory(size_t elements) {
	void *p = mmap(NULL, elements * sizeof(float), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p == MAP_FAILED) {
		perror("mmap");
		MPI_Abort(MPI_COMM_WORLD, 1);
	}
	if (elements * sizeof(float) >= 4 << 20) {
		madvise(p, elements * sizeof(float), MADV_HUGEPAGE);
	}
	return p;
}

static void operate(const order *o, float *full, float *own) {
	int n = (int)o->elements;
	switch (o->operation) {
	case ALL_GATHER:
		MPI_Allgather(MPI_IN_PLACE, 0, MPI_DATATYPE_NULL, full, n, MPI_FLOAT, MPI_COMM_WORLD);
		break;
	case REDUCE_SCATTER:
		MPI_Reduce_scatter_block(full, own, n, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
		break;
	default:
		MPI_Allreduce(MPI_IN_PLACE, full, n * ranks, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
	}
}

static void fill(const order *o, float *full, float value) {
	size_t first = 0, end = (size_t)o->elements * ranks;
	if (o->operation == ALL_GATHER) {
		first = (size_t)o->elements * rank;
		end = first + o->elements;
	}
	for (size_t i = first; i < end; i++) {
		full[i] = value;
	}
}

// wrong says whether a result is not what it should be.
static int wrong(const order *o, const float *full, const float *own) {
	const float *got = o->operation == REDUCE_SCATTER ? own : full;
	size_t n = (size_t)o->elements * (o->operation == REDUCE_SCATTER ? 1 : ranks);
	for (size_t i = 0; i < n; i++) {
		float want = o->operation == ALL_GATHER ? i / o->elements + 1 : ranks * (ranks + 1) / 2;
		if (got[i] != want) {
			return 1;
		}
	}
	return 0;
}

// follow carries an order out: the slowest rank's seconds of one operation, on rank 0; below 0 for a wrong result.
static double follow(const order *o) {
	size_t n = (size_t)o->elements;
	float *full = memory(n * ranks), *own = memory(n);
	int bad = 0, worst = 0;
	if (o->check) {
		fill(o, full, rank + 1);
	}
	operate(o, full, own);
	if (o->check) {
		bad = wrong(o, full, own);
		fill(o, full, 0); // sums of sums would leave what f32 holds
	}
	MPI_Barrier(MPI_COMM_WORLD);
	double start = MPI_Wtime();
	for (long i = 0; i < o->times; i++) {
		operate(o, full, own);
	}
	double took = (MPI_Wtime() - start) / o->times, slowest = 0;
	MPI_Reduce(&took, &slowest, 1, MPI_DOUBLE, MPI_MAX, 0, MPI_COMM_WORLD);
	MPI_Reduce(&bad, &worst, 1, MPI_INT, MPI_MAX, 0, MPI_COMM_WORLD);
	munmap(full, n * ranks * sizeof(float));
	munmap(own, n * sizeof(float));
	return worst ? -1 : slowest;
}

static order end(void) { return (order){-1, 0, 0, 0}; }

// read_order reads rank 0's next order, and passes it on.
static order read_order(void) {
	char line[128], name[32], check[8];
	order o = end();
	if (fgets(line, sizeof line, stdin)) {
		if (sscanf(line, "%31s %ld %ld %7s", name, &o.elements, &o.times, check) != 4) {
			fprintf(stderr, "order %s", line);
		} else {
			for (int i = 0; i < OPERATIONS; i++) {
				if (!strcmp(name, names[i])) {
					o.operation = i;
				}
			}
			o.elements /= (long)sizeof(float);
			o.check = !strcmp(check, "true");
		}
	}
	for (int r = 1; r < ranks; r++) {
		MPI_Send(&o, 4, MPI_LONG, r, 0, MPI_COMM_WORLD);
	}
	return o;
}

// await_order is read_order for the others: it looks once a millisecond, since MPI's waiting takes a core.
static order await_order(void) {
	order o;
	for (int there = 0; !there; usleep(1000)) {
		MPI_Iprobe(0, 0, MPI_COMM_WORLD, &there, MPI_STATUS_IGNORE);
	}
	MPI_Recv(&o, 4, MPI_LONG, 0, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
	return o;
}

int main(int argc, char **argv) {
	char line[128];
	MPI_Init(&argc, &argv);
	MPI_Comm_rank(MPI_COMM_WORLD, &rank);
	MPI_Comm_size(MPI_COMM_WORLD, &ranks);
	if (rank == 0) {
		setvbuf(stdout, NULL, _IOLBF, 0);
		puts("-");
		if (fgets(line, sizeof line, stdin)) { // where all are, which mpirun has told them
			puts("ready");
		}
	}
	for (;;) {
		order o = rank == 0 ? read_order() : await_order();
		if (o.operation < 0) {
			break;
		}
		double seconds = follow(&o);
		if (rank == 0 && seconds < 0) {
			puts("error a wrong result");
		} else if (rank == 0) {
			printf("ok %.9f\n", seconds);
		}
	}
	MPI_Finalize();
	return 0;
}
