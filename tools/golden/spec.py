"""Writes model/spec/testdata/golden.json: what transformers makes of some config.json files.

For each configuration: the file itself, the rotary frequencies' f32 bits, and every
parameter's name and shape in definition order (a tied head, being the embedding, is
absent). Needs torch and transformers.

    $(tools/venv.sh) tools/golden/spec.py
"""

import json
import pathlib

import torch
import transformers
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig

OUT = pathlib.Path(__file__).parents[2] / "model/spec/testdata/golden.json"

LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 8192}
SMALL = {"vocab_size": 97, "num_hidden_layers": 2, "intermediate_size": 40, "bos_token_id": None, "eos_token_id": 2}

CONFIGS = {
    "llama": LlamaConfig(hidden_size=128, num_attention_heads=2, num_key_value_heads=1, rope_theta=10000.0, **SMALL),
    "tied": LlamaConfig(hidden_size=192, num_attention_heads=3, num_key_value_heads=3, rope_theta=100000,
                        tie_word_embeddings=True, **SMALL),
    "llama3": LlamaConfig(hidden_size=256, num_attention_heads=2, num_key_value_heads=1, rope_theta=500000.0,
                          max_position_embeddings=131072, rope_scaling=LLAMA3, **SMALL),
    "llama3.2": LlamaConfig(hidden_size=256, num_attention_heads=4, num_key_value_heads=2, rope_theta=500000.0,
                            max_position_embeddings=131072, rope_scaling=LLAMA3 | {"factor": 32.0}, **SMALL),
    "linear": LlamaConfig(hidden_size=160, num_attention_heads=2, num_key_value_heads=2, rope_theta=10000.0,
                          rope_scaling={"type": "linear", "factor": 3.0}, **SMALL),
    "mistral": MistralConfig(hidden_size=128, num_attention_heads=8, num_key_value_heads=2, head_dim=32,
                             sliding_window=None, rope_theta=1000000.0, **SMALL),
}


def case(name, config):
    with torch.device("cpu"):
        model = AutoModelForCausalLM.from_config(config)
    rotary = model.model.rotary_emb
    assert rotary.attention_scaling == 1.0
    return {
        "name": name,
        "config": json.loads(model.config.to_json_string(use_diff=False)),
        "inv_freq_bits": rotary.inv_freq.view(torch.int32).tolist(),
        "parameters": [{"name": n, "shape": list(p.shape)} for n, p in model.named_parameters()],
    }


def main():
    golden = {
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "cases": [case(name, config) for name, config in CONFIGS.items()],
    }
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps(golden) + "\n")


if __name__ == "__main__":
    main()
