"""Makes model/testdata/golden: what transformers and torch say about small random decoders.

    $(tools/venv.sh) tools/golden/model.py

For each shape it writes a folder with
    config.json, model.safetensors  as transformers saves them
    golden.safetensors              inputs and answers, see below
    golden.json                     scalars, the versions that made them, and what bf16 costs transformers: the
                                    one thing that differs a little between CPUs, by how they multiply bf16

golden.safetensors holds the same documents in three forms, F = packed, padded, unpacked:
    F.tokens, F.labels, F.positions, F.doc_start   i32 [sequences, T]; unpacked is one document
                                                   after the other, golden.json has their lengths
    F.logits                                       f32 [counted rows, V], rows of labels != -1
and, of the mean loss over all counted tokens,
    grad.NAME                                      f32, the gradient of each parameter
and 20 steps of torch.optim.AdamW, each on a packed batch of its own,
    adamw.tokens, .labels, .positions, .doc_start  i32 [steps, sequences, T]
    adamw.param.NAME                               f32, one small tensor after the last step

Labels are shifted already: labels[i] is the token after i, or -1. The three forms are
three calls of transformers (its own masks; a block-diagonal mask for packed), which are
checked here to agree with each other.
"""

import copy
import json
import pathlib
import shutil

import safetensors
import safetensors.torch
import tokenizers
import torch
import transformers

OUT = pathlib.Path(__file__).resolve().parents[2] / "model" / "testdata" / "golden"
IGNORED = -100  # transformers' label that does not count; ours is -1
STEPS = 20
ADAMW = dict(lr=3e-3, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1)
MAX_NORM = 1.0

SHAPES = {
    "llama": transformers.LlamaConfig(
        vocab_size=101, hidden_size=36, num_hidden_layers=2, num_attention_heads=3, num_key_value_heads=1,
        intermediate_size=50, max_position_embeddings=128, rms_norm_eps=1e-5, tie_word_embeddings=False,
        bos_token_id=1, eos_token_id=2),
    "llama3-rope": transformers.LlamaConfig(
        vocab_size=67, hidden_size=40, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=44, max_position_embeddings=512, rms_norm_eps=1e-5, tie_word_embeddings=False,
        bos_token_id=1, eos_token_id=[2, 3],
        rope_parameters=dict(rope_type="llama3", rope_theta=10000.0, factor=8.0, low_freq_factor=1.0,
                             high_freq_factor=4.0, original_max_position_embeddings=64)),
    "mistral": transformers.MistralConfig(
        vocab_size=83, hidden_size=40, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2, head_dim=16,
        intermediate_size=52, max_position_embeddings=128, rms_norm_eps=1e-6, sliding_window=7,
        tie_word_embeddings=False, bos_token_id=1, eos_token_id=2),
    "tied": transformers.LlamaConfig(
        vocab_size=131, hidden_size=48, num_hidden_layers=3, num_attention_heads=6, num_key_value_heads=2,
        intermediate_size=80, max_position_embeddings=128, rms_norm_eps=1e-5, tie_word_embeddings=True,
        bos_token_id=1, eos_token_id=2),
}


def build(config, generator):
    """A decoder whose activations stay near 1, so that no part of it is idle."""
    config._attn_implementation = "eager"
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=generator)
            if p.dim() == 1:
                p.copy_(1 + 0.2 * noise)
            elif "embed_tokens" in name:
                p.copy_(noise * (0.3 if config.tie_word_embeddings else 1.0))
            else:
                p.copy_(noise * 1.5 / p.shape[1] ** 0.5)
    return model.eval()


def documents(config, generator, lengths):
    """Documents of the given lengths with the labels that count: not the first third of each. A token is
    mostly its predecessor plus 5, so there is something to learn."""
    docs = []
    for n in lengths:
        tokens = torch.randint(0, config.vocab_size, (n,), generator=generator)
        for i in range(1, n):
            if torch.rand((), generator=generator) < 0.8:
                tokens[i] = (tokens[i - 1] + 5) % config.vocab_size
        labels = torch.full((n,), -1)
        labels[n // 3:n - 1] = tokens[n // 3 + 1:]
        docs.append((tokens, labels))
    return docs


def rows(length, docs):
    """One sequence: documents end to end, then padding tokens, each a document of its own."""
    tokens, labels = torch.zeros(length, dtype=torch.long), torch.full((length,), -1)
    positions, starts = torch.zeros(length, dtype=torch.long), torch.arange(length)
    at = 0
    for t, l in docs:
        n = len(t)
        tokens[at:at + n], labels[at:at + n] = t, l
        positions[at:at + n], starts[at:at + n] = torch.arange(n), at
        at += n
    return tokens, labels, positions, starts


def batch(length, sequences):
    return tuple(torch.stack(column) for column in zip(*(rows(length, docs) for docs in sequences)))


def unshifted(labels):
    """transformers' labels for ours: it shifts them itself, so the first of a row is never used."""
    out = torch.full_like(labels, IGNORED)
    out[:, 1:] = torch.where(labels[:, :-1] >= 0, labels[:, :-1], IGNORED)
    return out


def run_packed(model, tokens, labels, positions, starts):
    """Sum of the losses and the logits, with a block-diagonal mask."""
    t = tokens.shape[1]
    i, j = torch.arange(t)[:, None], torch.arange(t)[None, :]
    seen = (j <= i) & (j >= starts[:, :, None])
    window = getattr(model.config, "sliding_window", None)
    if window:
        seen &= j > i - window
    mask = torch.zeros(seen.shape, dtype=model.dtype).masked_fill(~seen, torch.finfo(model.dtype).min)[:, None]
    out = model(input_ids=tokens, attention_mask=mask, position_ids=positions, labels=unshifted(labels),
                num_items_in_batch=torch.tensor(1), use_cache=False)
    return out.loss, out.logits[labels >= 0]


def run_padded(model, tokens, labels, positions, starts):
    """The same, one document a row, with transformers' own padding mask."""
    out = model(input_ids=tokens, attention_mask=(starts == 0).long(), labels=unshifted(labels),
                num_items_in_batch=torch.tensor(1), use_cache=False)
    return out.loss, out.logits[labels >= 0]


def run_unpacked(model, docs):
    """The same, one call a document."""
    outs = [(labels, model(input_ids=tokens[None], labels=unshifted(labels[None]), num_items_in_batch=torch.tensor(1),
                           use_cache=False)) for tokens, labels in docs]
    return sum(o.loss for _, o in outs), torch.cat([o.logits[0][labels >= 0] for labels, o in outs])


def gradients(model, loss_sum, count):
    model.zero_grad()
    (loss_sum / count).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters()}


def relative(a, b):
    return ((a - b).norm() / b.norm()).item()


def bf16_errors(model, packed, count, logits, grads):
    """What rounding parameters and activations to bf16 costs transformers itself, relative to f32."""
    rounded = copy.deepcopy(model).to(torch.bfloat16)
    loss, got = run_packed(rounded, *packed)
    errors = {tensor: relative(g.float(), grads[tensor]) for tensor, g in gradients(rounded, loss, count).items()}
    return dict(logits=relative(got.float(), logits), gradients=errors)


def train(model, batches):
    """STEPS steps of AdamW; weight decay on matrices only, as transformers' Trainer has it."""
    params = list(model.parameters())
    groups = [dict(params=[p for p in params if p.dim() > 1], weight_decay=ADAMW["weight_decay"]),
              dict(params=[p for p in params if p.dim() == 1], weight_decay=0.0)]
    optimizer = torch.optim.AdamW(groups, lr=ADAMW["lr"], betas=ADAMW["betas"], eps=ADAMW["eps"])
    losses, norms = [], []
    for b in batches:
        loss = run_packed(model, *b)[0] / (b[1] >= 0).sum()
        model.zero_grad()
        loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(params, MAX_NORM).item())
        optimizer.step()
        losses.append(loss.item())
    return losses, norms


def golden(name, config):
    generator = torch.Generator().manual_seed(sum(name.encode()))
    model = build(config, generator)
    folder = OUT / name
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)

    docs = documents(config, generator, [13, 9, 21, 5, 17])
    packed = batch(24, [[docs[0], docs[1]], [docs[2]], [docs[3], docs[4]]])
    padded = batch(21, [[d] for d in docs])
    count = sum((labels >= 0).sum().item() for _, labels in docs)

    loss, logits = run_packed(model, *packed)
    grads = gradients(model, loss, count)
    losses = {"packed": loss.item() / count}
    bf16 = bf16_errors(model, packed, count, logits, grads)
    tensors = {"packed.logits": logits}
    for form, (loss, logits) in {"padded": run_padded(model, *padded), "unpacked": run_unpacked(model, docs)}.items():
        for tensor, g in gradients(model, loss, count).items():
            assert relative(g, grads[tensor]) < 1e-5, (name, form, tensor, relative(g, grads[tensor]))
        losses[form], tensors[f"{form}.logits"] = loss.item() / count, logits
    unpacked = tuple(torch.cat([rows(len(t), [(t, l)])[k] for t, l in docs]) for k in range(4))
    fields = ("tokens", "labels", "positions", "doc_start")
    for form, columns in {"packed": packed, "padded": padded, "unpacked": unpacked}.items():
        for field, column in zip(fields, columns):
            tensors[f"{form}.{field}"] = column.to(torch.int32)
    for tensor, g in grads.items():
        tensors[f"grad.{tensor}"] = g

    batches = []
    for _ in range(STEPS):
        lengths = torch.randint(3, 12, (4,), generator=generator).tolist()
        d = documents(config, generator, lengths)
        batches.append(batch(24, [d[:2], d[2:]]))
    steps, norms = train(model, batches)
    for k, field in enumerate(fields):
        tensors[f"adamw.{field}"] = torch.stack([b[k] for b in batches]).to(torch.int32)
    last = "model.layers.0.self_attn.k_proj.weight"
    tensors[f"adamw.param.{last}"] = model.state_dict()[last]

    safetensors.torch.save_file({k: v.detach().contiguous() for k, v in tensors.items()}, folder / "golden.safetensors")
    record = dict(
        versions=dict(torch=torch.__version__, transformers=transformers.__version__,
                      safetensors=safetensors.__version__, tokenizers=tokenizers.__version__),
        loss_tokens=count, losses=losses, bf16_errors=bf16, document_lengths=[len(t) for t, _ in docs],
        adamw=dict(**ADAMW, max_grad_norm=MAX_NORM, losses=steps, grad_norms=norms))
    for file in folder.glob("*.safetensors"):
        file.chmod(0o644)
    (folder / "golden.json").write_text(json.dumps(record, indent=1) + "\n")
    return losses, steps


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    for name, config in SHAPES.items():
        losses, steps = golden(name, config)
        print(f"{name}: loss {losses['packed']:.6f}, AdamW {steps[0]:.4f} to {steps[-1]:.4f}")
