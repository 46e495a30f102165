"""The other side of bench/train: one training step of transformers and torch on the CPU, on demand.

Reads a line of JSON from stdin for each request and answers with one on stdout:
    {"sequences": B, "tokens": T, "precision": "f32"|"bf16"}  ->  {"seconds": S, "loss": L}
A step is forward, backward, clipping to norm 1 and AdamW (fused), on random tokens. bf16 is torch.autocast
over f32 parameters, which is what a Trainer's bf16=True does and what zerofleet's bf16 with f32 masters computes.
"""

import json
import sys
import time

import torch
import transformers


def build(config, threads):
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(transformers.LlamaConfig(**config), dtype=torch.float32,
                                                          attn_implementation="sdpa")
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    return model, optimizer


def step(model, optimizer, request):
    ids = torch.randint(0, model.config.vocab_size, (request["sequences"], request["tokens"]))
    start = time.perf_counter()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=request["precision"] == "bf16"):
        loss = model(input_ids=ids, labels=ids, use_cache=False).loss
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return dict(loss=loss.item(), seconds=time.perf_counter() - start)


def main():
    config, threads = json.loads(sys.argv[1]), int(sys.argv[2])
    model, optimizer = build(config, threads)
    versions = dict(torch=torch.__version__, transformers=transformers.__version__)
    print(json.dumps(versions), flush=True)
    for line in sys.stdin:
        print(json.dumps(step(model, optimizer, json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
