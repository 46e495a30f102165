"""A rank of bench/collectives that exchanges through torch.distributed and Gloo.

It says where its peers find it, reads where all are, says "ready", and answers each order, a line "OPERATION BYTES TIMES CHECK",
with the seconds of one operation. It ends when its input does.
"""

import json
import sys
import time

import torch
import torch.distributed as dist

rank, ranks, host = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]


def say(*words):
    print(*words, flush=True)


def prepare(operation, elements):
    """An operation on buffers of its own, what a rank fills before it, and what it then has: a list of (values, want)."""
    if operation == "all-gather":
        full = torch.zeros(ranks * elements)
        parts = full.view(ranks, elements)
        own = parts[rank]
        return lambda: dist.all_gather_into_tensor(full, own), own, lambda: [(parts[r], r + 1) for r in range(ranks)]
    total = ranks * (ranks + 1) // 2
    full = torch.zeros(ranks * elements)
    if operation == "all-reduce":
        return lambda: dist.all_reduce(full), full, lambda: [(full, total)]
    if operation == "reduce-scatter":
        own = torch.zeros(elements)
        return lambda: dist.reduce_scatter_tensor(own, full), full, lambda: [(own, total)]
    raise ValueError(f"no operation {operation}")


def do(operation, size, times, check):
    operate, fill, results = prepare(operation, size // 4)
    if check:
        fill.fill_(rank + 1)
    operate()
    if check:
        for values, want in results():
            if values.min() != want or values.max() != want:
                raise ValueError(f"{operation} gives {values.min()} to {values.max()}, want {want}")
        fill.zero_()  # sums of sums would leave what f32 holds
    dist.barrier()
    start = time.perf_counter()
    for _ in range(times):
        operate()
    return (time.perf_counter() - start) / times


def main():
    torch.set_num_threads(1)
    if rank == 0:
        store = dist.TCPStore(host, 0, ranks, True, wait_for_workers=False)
        say(f"{host}:{store.port}")
    else:
        say("-")
    where, _, port = json.loads(sys.stdin.readline())[0].rpartition(":")
    if rank > 0:
        store = dist.TCPStore(where, int(port), ranks, False)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=ranks)
    say("ready")
    for line in sys.stdin:
        operation, size, times, check = line.split()
        try:
            say("ok", do(operation, int(size), int(times), check == "true"))
        except (RuntimeError, ValueError) as e:
            say("error", str(e).replace("\n", "; "))


if __name__ == "__main__":
    main()
