"""Writes safetensors/testdata: files made by the reference implementation.

mixed.safetensors holds every dtype, a scalar, an empty tensor, metadata, names that JSON
escapes, and f32 values with their roundings to f16 and bf16 and those widened again.
sharded/ is a state dict cut into files with an index. Needs torch, safetensors and
huggingface_hub.

    $(tools/venv.sh) tools/golden/safetensors_files.py
"""

import json
import pathlib
import shutil

import huggingface_hub
import safetensors
import torch
from huggingface_hub import save_torch_state_dict
from safetensors.torch import save_file

OUT = pathlib.Path(__file__).parents[2] / "safetensors/testdata"


def values():
    """f32 values around everything that rounding to 16 bits can get wrong."""
    generator = torch.Generator().manual_seed(1)
    bits = torch.randint(-(2**31), 2**31, (1024,), generator=generator, dtype=torch.int64).to(torch.int32)
    anything = bits.view(torch.float32)
    anything = anything[~anything.isnan()]
    halves = torch.arange(0, 0x7C00, 7, dtype=torch.int16).view(torch.float16).float()
    ties = (halves[:-1] + halves[1:]) / 2
    edges = torch.tensor([0.0, -0.0, 65504, 65519.996, 65520, -65520, 2.0**-24, 2.0**-25, 2.0**-25 * 1.0001,
                          2.0**-14, 2.0**-14 - 2.0**-25, 2.0**-126, 2.0**-149, 3.4028234e38, float("inf"), -float("inf")])
    return torch.cat([anything, ties[::4], -ties[::16], edges])


def main():
    shutil.rmtree(OUT, ignore_errors=True)
    (OUT / "sharded").mkdir(parents=True)
    f32 = values()
    tensors = {
        "values": f32,
        "values.f16": f32.half(),
        "values.f16.f32": f32.half().float(),
        "values.bf16": f32.bfloat16(),
        "values.bf16.f32": f32.bfloat16().float(),
        "scalar": torch.tensor(1.5),
        "empty": torch.zeros(0, 3),
        "matrix": torch.arange(6, dtype=torch.float64).reshape(2, 3),
        'name "quoted" <&> \u00e9 \U0001f600': torch.arange(3, dtype=torch.int64),
        "complex": torch.tensor([1 + 2j]),
        "i32": torch.arange(3, dtype=torch.int32),
        "i16": torch.arange(3, dtype=torch.int16),
        "i8": torch.arange(3, dtype=torch.int8),
        "u8": torch.arange(5, dtype=torch.uint8),
        "bool": torch.tensor([True, False]),
        "f8": torch.tensor([1.0, 2.0]).to(torch.float8_e4m3fn),
        "f8e5": torch.tensor([1.0]).to(torch.float8_e5m2),
    }
    save_file(tensors, OUT / "mixed.safetensors", metadata={"format": "pt"})

    state = {f"layer.{i}.weight": torch.full((4, 8), float(i)) for i in range(5)}
    save_torch_state_dict(state, OUT / "sharded", max_shard_size=300)

    versions = {m.__name__: m.__version__ for m in (torch, safetensors, huggingface_hub)}
    (OUT / "versions.json").write_text(json.dumps(versions) + "\n")


if __name__ == "__main__":
    main()
