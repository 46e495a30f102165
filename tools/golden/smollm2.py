"""Makes model/testdata/smollm2.json and smollm2.safetensors: what transformers says about SmolLM2-135M-Instruct.

    tools/fetch/smollm2.sh
    $(tools/venv.sh) tools/golden/smollm2.py [PATH.gguf]

transformers itself reads the GGUF: it dequantises the weights to f32 and undoes the
permutation of the query and key rows. For one chat prompt the golden has the mean loss over
the prompt and the 64 tokens that greedy decoding adds, with their text; and
    logits          f32 [rows, V], all logits of a few positions of the prompt
    logits.columns  f32 [T, V / COLUMNS], every COLUMNS-th logit of every position
"""

import hashlib
import importlib.metadata
import json
import pathlib
import sys

import safetensors.torch
import tokenizers
import torch
import transformers

ROOT = pathlib.Path(__file__).resolve().parents[2]
GGUF = ROOT / ".cache" / "smollm2" / "SmolLM2-135M-Instruct.Q4_1.gguf"
OUT = ROOT / "model" / "testdata" / "smollm2.json"
QUESTION = "Why is the sky blue? Answer in a few sentences."
NEW_TOKENS = 64
COLUMNS = 64


def main(path):
    transformers.logging.set_verbosity_error()
    load = dict(gguf_file=path.name)
    tokenizer = transformers.AutoTokenizer.from_pretrained(path.parent, **load)
    model = transformers.AutoModelForCausalLM.from_pretrained(path.parent, **load, dtype=torch.float32,
                                                              attn_implementation="eager").eval()
    prompt = tokenizer.apply_chat_template([dict(role="user", content=QUESTION)], add_generation_prompt=True, tokenize=False)
    ids = tokenizer(prompt, add_special_tokens=False, return_tensors="pt").input_ids
    with torch.no_grad():
        out = model(input_ids=ids, labels=ids)
        greedy = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS,
                                do_sample=False, eos_token_id=None, pad_token_id=0)
    logits, new = out.logits[0], greedy[0, ids.shape[1]:].tolist()
    with torch.no_grad():  # how near the runner-up is at each new token
        steps = model(input_ids=greedy).logits[0, ids.shape[1] - 1:-1]
    best = steps.topk(2).values
    rows = [0, 1, ids.shape[1] // 2, ids.shape[1] - 1]
    safetensors.torch.save_file({"logits": logits[rows].contiguous(), "logits.columns": logits[:, ::COLUMNS].contiguous()},
                                OUT.with_suffix(".safetensors"))
    OUT.with_suffix(".safetensors").chmod(0o644)
    OUT.write_text(json.dumps(dict(
        versions=dict(torch=torch.__version__, transformers=transformers.__version__, tokenizers=tokenizers.__version__,
                      safetensors=safetensors.__version__, gguf=importlib.metadata.version("gguf")),
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        question=QUESTION, prompt=prompt, tokens=ids[0].tolist(), loss=out.loss.item(), rows=rows, columns=COLUMNS,
        greedy=new, greedy_text=tokenizer.decode(new), smallest_margin=(best[:, 0] - best[:, 1]).min().item(),
    ), indent=1) + "\n")
    print(f"loss {out.loss.item():.4f}, smallest margin {(best[:, 0] - best[:, 1]).min().item():.3g}: {tokenizer.decode(new)!r}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else GGUF)
