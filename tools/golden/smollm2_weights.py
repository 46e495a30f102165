"""Writes model/weights/testdata/smollm2.json: what transformers makes of SmolLM2's GGUF file.

For every tensor of the model, under its Hugging Face name: its shape and the SHA-256 of its
values as little-endian f32. Needs torch, transformers and gguf, and the file that
tools/fetch/smollm2.sh fetches.

    $(tools/venv.sh) tools/golden/smollm2_weights.py
"""

import hashlib
import importlib.metadata
import json
import pathlib
import subprocess

import torch
from transformers import AutoModelForCausalLM

ROOT = pathlib.Path(__file__).parents[2]


def main():
    path = pathlib.Path(subprocess.check_output([ROOT / "tools/fetch/smollm2.sh"], text=True).strip())
    model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    golden = {
        "versions": {n: importlib.metadata.version(n) for n in ("torch", "transformers", "gguf")},
        "tensors": {
            name: {"shape": list(p.shape), "sha256": hashlib.sha256(p.detach().numpy().astype("<f4").tobytes()).hexdigest()}
            for name, p in model.named_parameters()
        },
    }
    (ROOT / "model/weights/testdata/smollm2.json").write_text(json.dumps(golden, indent=0) + "\n")


if __name__ == "__main__":
    main()
