"""Writes model/weights/testdata: one small random model in three forms.

hf/ is transformers' own folder (f32, one file), sharded/ the same in bf16 over several
files, tiny.gguf the same in F32 with the rows of Q and K permuted and Llama 3's rotary
factors as llama.cpp's converter writes them; transformers' GGUF loader is asked to give the
original weights back. normal.json holds draws of the preset generator, computed by Python's
own implementation of the same quantile. Needs torch, transformers, gguf and numpy.

    $(tools/venv.sh) tools/golden/weights_files.py
"""

import hashlib
import importlib.metadata
import json
import math
import pathlib
import shutil
import statistics
import struct

import gguf
import numpy as np
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

OUT = pathlib.Path(__file__).parents[2] / "model/weights/testdata"

CONFIG = LlamaConfig(
    vocab_size=24, hidden_size=16, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=8,
    intermediate_size=20, max_position_embeddings=131072, rms_norm_eps=1e-5, rope_theta=500000.0, bos_token_id=1,
    eos_token_id=2, rope_scaling={"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0,
                                  "high_freq_factor": 4.0, "original_max_position_embeddings": 8192})

NAMES = {
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output", "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm", "model.layers.": "blk.",
}


def permute(w, heads):
    """llama.cpp, convert_hf_to_gguf.py, LlamaModel.permute."""
    return w.reshape(heads, 2, w.shape[0] // heads // 2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)


def rope_factors(c):
    """llama.cpp, convert_hf_to_gguf.py, LlamaModel.generate_extra_tensors."""
    rope, out = c.rope_parameters, []
    for freq in 1.0 / (rope["rope_theta"] ** (np.arange(0, c.head_dim, 2, dtype=np.float32) / c.head_dim)):
        wavelen, old = 2 * math.pi / freq, rope["original_max_position_embeddings"]
        low, high, factor = rope["low_freq_factor"], rope["high_freq_factor"], rope["factor"]
        if wavelen < old / high:
            out.append(1)
        elif wavelen > old / low:
            out.append(factor)
        else:
            smooth = (old / wavelen - low) / (high - low)
            out.append(1 / ((1 - smooth) / factor + smooth))
    return np.array(out, dtype=np.float32)


def write_gguf(model, path):
    c = model.config
    w = gguf.GGUFWriter(path, "llama")
    w.add_context_length(c.max_position_embeddings)
    w.add_embedding_length(c.hidden_size)
    w.add_block_count(c.num_hidden_layers)
    w.add_feed_forward_length(c.intermediate_size)
    w.add_head_count(c.num_attention_heads)
    w.add_head_count_kv(c.num_key_value_heads)
    w.add_key_length(c.head_dim)
    w.add_value_length(c.head_dim)
    w.add_rope_dimension_count(c.head_dim)
    w.add_rope_freq_base(c.rope_parameters["rope_theta"])
    w.add_layer_norm_rms_eps(c.rms_norm_eps)
    w.add_vocab_size(c.vocab_size)
    w.add_bos_token_id(c.bos_token_id)
    w.add_eos_token_id(c.eos_token_id)
    w.add_tensor("rope_freqs.weight", rope_factors(c))
    for name, tensor in model.state_dict().items():
        value = tensor.numpy()
        if "q_proj" in name:
            value = permute(value, c.num_attention_heads)
        if "k_proj" in name:
            value = permute(value, c.num_key_value_heads)
        for ours, theirs in NAMES.items():
            name = name.replace(ours, theirs)
        w.add_tensor(name, value)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def normal(seed, name, i):
    """The preset generator's draw i, before it is scaled."""
    mask = 2**64 - 1
    key, = struct.unpack("<Q", hashlib.sha256(struct.pack("<Q", seed) + name.encode()).digest()[:8])
    z = (key + (i + 1) * 0x9E3779B97F4A7C15) & mask
    z = ((z ^ z >> 30) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ z >> 27) * 0x94D049BB133111EB) & mask
    z ^= z >> 31
    return statistics.NormalDist().inv_cdf(((z >> 12) + 0.5) / 2**52)


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    for folder in ("hf", "sharded"):
        shutil.rmtree(OUT / folder, ignore_errors=True)
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(CONFIG)
    for p in model.parameters():
        torch.nn.init.normal_(p)
    model.save_pretrained(OUT / "hf")
    write_gguf(model, OUT / "tiny.gguf")
    again = AutoModelForCausalLM.from_pretrained(OUT, gguf_file="tiny.gguf", dtype=torch.float32)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
    model.bfloat16().save_pretrained(OUT / "sharded", max_shard_size="4KB")

    draws = [{"seed": seed, "name": name, "at": at, "f32_bits": struct.unpack("<I", np.float32(0.02 * normal(seed, name, at)).tobytes())[0]}
             for seed, name in [(0, "model.embed_tokens.weight"), (42, "model.layers.3.mlp.up_proj.weight"), (2**64 - 1, "lm_head.weight")]
             for at in [*range(60), 2**20, 2**40 + 12345]]
    versions = {n: importlib.metadata.version(n) for n in ("torch", "transformers", "gguf", "numpy", "safetensors")}
    (OUT / "normal.json").write_text(json.dumps({"versions": versions, "draws": draws}) + "\n")


if __name__ == "__main__":
    main()
