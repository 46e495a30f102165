"""Writes gguf/testdata: a file made by the reference writer and what its reader makes of it.

tiny.gguf holds every metadata type and, of every tensor type that the project reads, one
tensor quantised from numbers and, of the quantised ones, one of random blocks. values.json
holds their dequantised f32 bits. Needs gguf and numpy.

    $(tools/venv.sh) tools/golden/gguf_files.py
"""

import importlib.metadata
import json
import pathlib

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Q
from gguf import GGUFValueType as V

OUT = pathlib.Path(__file__).parents[2] / "gguf/testdata"
TYPES = [Q.F32, Q.F16, Q.BF16, Q.Q8_0, Q.Q4_0, Q.Q4_1]


def random_blocks(kind, rows, row_elems, rng):
    """Any bytes, but no infinite or NaN scale."""
    block_elems, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    blocks = rng.integers(0, 256, (rows * row_elems // block_elems, block_bytes), dtype=np.uint8)
    for high in ([1, 3] if kind == Q.Q4_1 else [1]):
        blocks[:, high] &= 0xBF
    blocks[0, 1] = 0  # a subnormal scale
    return blocks.reshape(rows, -1)


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(1)
    writer = gguf.GGUFWriter(OUT / "tiny.gguf", "llama")
    writer.add_custom_alignment(64)
    for kind, value in [(V.UINT8, 200), (V.INT8, -100), (V.UINT16, 60000), (V.INT16, -30000), (V.UINT32, 2**32 - 1),
                        (V.INT32, -(2**31)), (V.UINT64, 2**63 - 1), (V.INT64, -(2**63)), (V.FLOAT32, 0.1),
                        (V.FLOAT64, 0.1), (V.BOOL, True), (V.STRING, "h\u00e9llo")]:
        writer.add_key_value(f"test.{kind.name.lower()}", value, kind)
    writer.add_array("test.texts", ["", "a", "\u0120the"])
    writer.add_array("test.ints", [1, -2, 3])
    writer.add_array("test.floats", [0.5, -1.5])
    writer.add_array("test.bools", [True, False])

    values = {}
    for kind in TYPES:
        numbers = rng.standard_normal((3, 64)).astype(np.float32)
        stored = gguf.quants.quantize(numbers, kind)
        writer.add_tensor(f"{kind.name}.numbers", stored, raw_dtype=kind)
        values[f"{kind.name}.numbers"] = gguf.quants.dequantize(stored, kind)
        if kind in (Q.Q8_0, Q.Q4_0, Q.Q4_1):
            stored = random_blocks(kind, 2, 96, rng)
            writer.add_tensor(f"{kind.name}.blocks", stored, raw_dtype=kind)
            values[f"{kind.name}.blocks"] = gguf.quants.dequantize(stored, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    golden = {
        "versions": {"gguf": importlib.metadata.version("gguf"), "numpy": np.__version__},
        "tensors": {name: {"shape": list(v.shape), "bits": v.astype("<f4").view(np.uint32).flatten().tolist()}
                    for name, v in values.items()},
    }
    (OUT / "values.json").write_text(json.dumps(golden) + "\n")


if __name__ == "__main__":
    main()
