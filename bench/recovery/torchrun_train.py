"""The other side of bench/recovery torchrun: what torchrun starts, the loop of its documentation's elastic example.

A worker that begins loads the newest snapshot, if there is one, and trains with DistributedDataParallel over gloo; rank 0 writes a
snapshot after each step. When a worker dies the agent ends all of them and starts them again. Each worker appends lines of
JSON to a file: what it has come to, and when.
"""

import json
import os
import sys
import time

log = open(sys.argv[3], "a", buffering=1)


def tell(what, **fields):
    log.write(json.dumps(dict(what=what, time=time.time(), pid=os.getpid(), rank=int(os.environ["RANK"]),
                              restart=int(os.environ["TORCHELASTIC_RESTART_COUNT"]), **fields)) + "\n")


tell("started")

import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402
from torch.nn.parallel import DistributedDataParallel  # noqa: E402
from transformers.models.llama.configuration_llama import LlamaConfig  # noqa: E402
from transformers.models.llama.modeling_llama import LlamaForCausalLM  # noqa: E402

tell("imported", torch=torch.__version__)


def save(path, model, optimizer, step):
    """A snapshot is there whole or not at all."""
    torch.save(dict(model=model.module.state_dict(), optimizer=optimizer.state_dict(), step=step), path + ".new")
    os.replace(path + ".new", path)


def main():
    config, shape, path = json.loads(sys.argv[1]), json.loads(sys.argv[2]), sys.argv[4]
    torch.set_num_threads(1)
    torch.manual_seed(0)
    dist.init_process_group("gloo")
    tell("joined")
    rank, world = dist.get_rank(), dist.get_world_size()
    model = DistributedDataParallel(LlamaForCausalLM(LlamaConfig(**config)))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    step = 0
    if os.path.exists(path):
        snapshot = torch.load(path)
        model.module.load_state_dict(snapshot["model"])
        optimizer.load_state_dict(snapshot["optimizer"])
        step = snapshot["step"]
    tell("loaded", step=step)
    while True:
        step += 1
        generator = torch.Generator().manual_seed(step * world + rank)
        ids = torch.randint(0, config["vocab_size"], (shape["batch"] // world, shape["sequence"]), generator=generator)
        loss = model(input_ids=ids, labels=ids, use_cache=False).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if rank == 0:
            save(path, model, optimizer, step)
        tell("step", step=step)


if __name__ == "__main__":
    main()
