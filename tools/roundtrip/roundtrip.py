"""Compares a model folder that zerofleet wrote as transformers reads it with what zerofleet itself makes of it.

    $(tools/venv.sh) tools/roundtrip/roundtrip.py RUN|FOLDER...

RUN is a run folder, whose model/ is taken; FOLDER is a Hugging Face folder. For each, AutoModelForCausalLM and
AutoTokenizer load it, and must find all weights and no others. For a few texts, and one chat in the model's
template, the tokens, the text they decode to, and the logits at every token are compared with zerofleet's, which
tools/roundtrip/main.go computes from the same folder. The difference is the norm of the logits' difference over the
norm of transformers' f32 logits. Bounds:
    f32   1e-4 for each text
    bf16  over all texts together, twice the difference of transformers' own bf16: what rounding costs depends on the
          model, and on one text two roundings as good as each other may be a factor apart
The exit status is 1 when anything differs.
"""

import base64
import json
import pathlib
import subprocess
import sys

import numpy as np
import torch
import transformers

ROOT = pathlib.Path(__file__).resolve().parents[2]
F32_BOUND = 1e-4
TEXTS = [
    "The quick brown fox jumps over the lazy dog. It was the best of times, it was the worst of times.",
    "func Cut(s, sep string) (before, after string, found bool) {\n\tif i := Index(s, sep); i >= 0 {\n",
    "Zürich, 你好 👍🏽   naïve\u00a0Ωmega — 12345.678\r\n\tтест",
]
QUESTION = "What does strings.Cut do?"


def zerofleet(folder, precision):
    """zerofleet's answers, the logits as arrays [tokens, V]."""
    request = json.dumps(dict(texts=TEXTS, question=QUESTION))
    out = subprocess.run(["go", "run", "./tools/roundtrip", "-model", str(folder), "-precision", precision], cwd=ROOT, input=request,
                         stdout=subprocess.PIPE, text=True, check=True).stdout
    answers = json.loads(out)
    for a in answers:
        a["logits"] = np.frombuffer(base64.b64decode(a["logits"]), "<f4").reshape(len(a["tokens"]), -1)
    return answers


def load(folder, dtype):
    model, info = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, output_loading_info=True)
    faults = [f"{what}: {sorted(map(str, keys))}" for what, keys in info.items() if keys]
    return model.eval(), faults


@torch.no_grad()
def logits(model, ids):
    return model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].float().numpy()


def difference(got, want):
    got, want = got.astype(np.float64), want.astype(np.float64)
    return np.linalg.norm(got - want) / np.linalg.norm(want)


def texts_of(tokenizer):
    """The texts that zerofleet was asked for too, as transformers makes them."""
    texts = list(TEXTS)
    if tokenizer.chat_template:
        chat = [dict(role="user", content=QUESTION)]
        texts.append(tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False))
    return texts


def compare(folder):
    """The faults of a folder, in words; prints a line a text."""
    ours, ours_bf16 = zerofleet(folder, "f32"), zerofleet(folder, "bf16")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    (model, faults), (model_bf16, _) = load(folder, torch.float32), load(folder, torch.bfloat16)
    texts = texts_of(tokenizer)
    if len(texts) != len(ours):
        return faults + [f"{len(ours)} texts with zerofleet's chat template, {len(texts)} with transformers'"]
    print(f"{folder}: {type(model).__name__}, {sum(p.numel() for p in model.parameters())} parameters, "
          f"tied {model.config.tie_word_embeddings}, saved in {saved_dtype(folder)}")
    print(f"  {'tokens':>6} {'f32':>9} {'bf16':>9} {'bf16 of transformers':>21}")
    wanted, rounded, theirs = [], [], []
    for text, a, b in zip(texts, ours, ours_bf16):
        if a["text"] != text:
            faults.append(f"chat template: zerofleet renders {a['text']!r}, transformers {text!r}")
            continue
        ids = tokenizer(text, add_special_tokens=False).input_ids
        if a["tokens"] != ids:
            faults.append(f"tokens of {text!r}: zerofleet's {a['tokens']}, transformers' {ids}")
            continue
        decoded = tokenizer.decode(ids)
        if a["decoded"] != decoded:
            faults.append(f"tokens decode to {a['decoded']!r} with zerofleet, {decoded!r} with transformers")
        want, their = logits(model, ids), logits(model_bf16, ids)
        f32 = difference(a["logits"], want)
        print(f"  {len(ids):6} {f32:9.2e} {difference(b['logits'], want):9.2e} {difference(their, want):21.2e}")
        if not f32 <= F32_BOUND:
            faults.append(f"f32 logits of {text!r} differ by {f32:.2e}, want at most {F32_BOUND:.0e}")
        wanted.append(want)
        rounded.append(b["logits"])
        theirs.append(their)
    if wanted:
        want = np.concatenate(wanted)
        bf16, their = difference(np.concatenate(rounded), want), difference(np.concatenate(theirs), want)
        print(f"  {'all':>6} {'':9} {bf16:9.2e} {their:21.2e}")
        if not bf16 <= 2 * their:
            faults.append(f"bf16 logits differ by {bf16:.2e}, want at most {2 * their:.2e}")
    return faults


def saved_dtype(folder):
    config = json.loads((folder / "config.json").read_text())
    return config.get("dtype") or config.get("torch_dtype")


def main(paths):
    if not paths:
        sys.exit(__doc__)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    print(f"torch {torch.__version__}, transformers {transformers.__version__}")
    failed = False
    for path in paths:
        folder = pathlib.Path(path).resolve()
        if (folder / "model" / "config.json").exists():
            folder = folder / "model"
        for fault in compare(folder):
            failed = True
            print(f"  {fault}")
    sys.exit(failed)


if __name__ == "__main__":
    main(sys.argv[1:])
