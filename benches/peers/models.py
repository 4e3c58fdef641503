"""Hardy beside transformers on random checkpoints of every family that it reads: logits, gradients, greedy tokens.

    cargo build --release
    python benches/peers/models.py check [--only gemma,qwen3_moe] [--hardy target/release/hardy]
    python benches/peers/models.py write crates/hardy-model/tests/families

`check` makes a middling checkpoint of each family, runs `hardy score --logits --grads` and `hardy generate` on it and
prints the largest relative differences, ‖ours − theirs‖/‖theirs‖ of all logits and of one parameter's gradient. `write`
makes the small ones that the tests read, with transformers' numbers beside them. Seeds are fixed. Nothing is installed:
PyTorch, transformers and safetensors must be there.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile

import torch
import transformers
from safetensors.torch import load_file, save_file

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
SMALL = dict(vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4)
MIDDLING = dict(vocab_size=500, hidden_size=128, intermediate_size=320, num_hidden_layers=4, num_attention_heads=8)
LLAMA3 = dict(
    rope_type="llama3",
    rope_theta=500_000.0,
    factor=8.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=32,
)
# Class of the model and what its config has beside the sizes.
FAMILIES = {
    "qwen2": ("Qwen2", dict(num_key_value_heads=2)),
    "qwen2_tied": ("Qwen2", dict(num_key_value_heads=2, tie_word_embeddings=True)),
    "qwen2_window": (
        "Qwen2",
        dict(num_key_value_heads=1, use_sliding_window=True, sliding_window=5, max_window_layers=1),
    ),
    "qwen3": ("Qwen3", dict(num_key_value_heads=2, head_dim=6)),
    "qwen3_tied": ("Qwen3", dict(num_key_value_heads=2, head_dim=8, tie_word_embeddings=True)),
    "llama3": ("Llama", dict(num_key_value_heads=2, tie_word_embeddings=True, rope_parameters=LLAMA3)),
    "llama_biases": ("Llama", dict(num_key_value_heads=4, attention_bias=True, mlp_bias=True)),
    "llama_linear": (
        "Llama",
        dict(num_key_value_heads=2, rope_parameters=dict(rope_type="linear", rope_theta=1e4, factor=4.0)),
    ),
    "qwen2_yarn": (
        "Qwen2",
        dict(
            num_key_value_heads=2,
            rope_parameters=dict(
                rope_type="yarn", rope_theta=1e6, factor=4.0, original_max_position_embeddings=32
            ),
        ),
    ),
    "smollm2": (
        "Llama",
        dict(
            num_key_value_heads=1,
            tie_word_embeddings=True,
            rope_theta=100_000.0,
            rope_interleaved=False,
            is_llama_config=True,
        ),
    ),
    "smollm3": ("SmolLM3", dict(num_key_value_heads=2, no_rope_layer_interval=2)),
    "mistral": ("Mistral", dict(num_key_value_heads=2, sliding_window=5)),
    "mistral_nemo": ("Mistral", dict(num_key_value_heads=2, sliding_window=None, head_dim=6)),
    "gemma": ("Gemma", dict(num_key_value_heads=1, head_dim=8)),
    "qwen2_moe": (
        "Qwen2Moe",
        dict(
            num_key_value_heads=2,
            num_experts=4,
            num_experts_per_tok=2,
            moe_intermediate_size=12,
            shared_expert_intermediate_size=20,
            mlp_only_layers=[0],
        ),
    ),
    "qwen3_moe": (
        "Qwen3Moe",
        dict(
            num_key_value_heads=2,
            head_dim=6,
            num_experts=6,
            num_experts_per_tok=2,
            moe_intermediate_size=8,
            norm_topk_prob=True,
        ),
    ),
}


def random_model(family, sizes, seed=0):
    name, more = FAMILIES[family]
    kind, config = (getattr(transformers, name + part) for part in ("ForCausalLM", "Config"))
    settings = dict(max_position_embeddings=64, bos_token_id=None, eos_token_id=None, pad_token_id=None)
    torch.manual_seed(seed)
    model = kind(config(**sizes, **{**settings, **more}, attn_implementation="eager")).float().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(0.0, 0.1 if parameter.dim() == 1 else parameter.shape[-1] ** -0.5)
            # Gemma's norms add the 1 themselves.
            if "norm" in name and not family.startswith("gemma"):
                parameter.add_(1.0)
    return model


def gradients(model):
    """Every parameter's gradient under the name that it has in a file, where experts stand one by one."""
    named = {}
    for name, parameter in model.named_parameters():
        grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        stem, fused = name.rsplit(".", 1)
        if fused == "gate_up_proj":
            for index, one in enumerate(grad):
                named[f"{stem}.{index}.gate_proj.weight"], named[f"{stem}.{index}.up_proj.weight"] = one.chunk(2)
        elif fused == "down_proj":
            named |= {f"{stem}.{index}.down_proj.weight": one for index, one in enumerate(grad)}
        else:
            named[name] = grad
    return {f"grad/{name}": grad.contiguous() for name, grad in named.items()}


def golden(model, lengths, new_tokens):
    """What transformers makes of a right-padded batch and of two prompts."""
    vocab, longest = model.config.vocab_size, max(lengths)
    ids = torch.randint(1, vocab, (len(lengths), longest))
    mask = (torch.arange(longest)[None] < torch.tensor(lengths)[:, None]).int()
    logits = model(input_ids=ids * mask, attention_mask=mask).logits
    targets = logits[:, :-1].log_softmax(-1).gather(-1, (ids * mask)[:, 1:, None]).squeeze(-1)
    log_probs = targets * mask[:, 1:]
    loss = -log_probs.sum() / mask[:, 1:].sum()
    loss.backward()
    prompts = torch.randint(1, vocab, (2, 4))
    with torch.no_grad():
        greedy = model.generate(
            prompts, attention_mask=torch.ones_like(prompts), max_new_tokens=new_tokens, do_sample=False
        )
    return {
        "input_ids": (ids * mask).int(),
        "attention_mask": mask,
        "logits": logits.detach() * mask[..., None],
        "logprobs": log_probs.detach(),
        "loss": loss.detach()[None],
        "prompt_ids": prompts.int(),
        "greedy_ids": greedy[:, prompts.shape[1] :].int().contiguous(),
        **gradients(model),
    }


def write(family, directory, sizes, lengths, new_tokens):
    model = random_model(family, sizes)
    model.save_pretrained(directory)
    save_file(golden(model, lengths, new_tokens), os.path.join(directory, "golden.safetensors"))
    generation = os.path.join(directory, "generation_config.json")
    if os.path.exists(generation):
        os.remove(generation)


def relative(ours, theirs):
    return ((ours - theirs).double().norm() / theirs.double().norm()).item()


def check(family, hardy):
    with tempfile.TemporaryDirectory() as directory:
        write(family, directory, MIDDLING, [48, 33, 12], 24)
        file = os.path.join(directory, "golden.safetensors")
        out = os.path.join(directory, "scores.safetensors")
        command = ["score", "--model", directory, "--batch", file, "--out", out, "--logits", "--grads"]
        subprocess.run([hardy, *command], check=True, stdout=subprocess.DEVNULL)
        generate = ["generate", "--json", "--model", directory, "--batch", file, "--max-new-tokens", "24"]
        said = subprocess.run([hardy, *generate], check=True, stdout=subprocess.PIPE).stdout
        ours, theirs = load_file(out), load_file(file)
    mask = theirs["attention_mask"].bool()
    logits = relative(ours["logits"][mask], theirs["logits"][mask])
    worst, where = 0.0, ""
    for name, grad in theirs.items():
        # Where the true gradient is 0, as of a key bias, both are rounding errors.
        if name.startswith("grad/") and grad.norm() > 1e-6:
            worst, where = max((worst, where), (relative(ours[name], grad), name[5:]))
    greedy = [sequence["ids"] for sequence in json.loads(said)["sequences"]] == theirs["greedy_ids"].tolist()
    print(f"{family:14} logits {logits:.1e}   gradients {worst:.1e} ({where})   greedy {'equal' if greedy else 'DIFFERENT'}")
    return logits <= 1e-5 and worst <= 1e-5 and greedy


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=["check", "write"])
    parser.add_argument("directory", nargs="?", help="where `write` puts the checkpoints")
    parser.add_argument("--only", help="families, with commas between them")
    parser.add_argument("--hardy", default=os.path.join(ROOT, "target", "release", "hardy"))
    arguments = parser.parse_args()
    families = arguments.only.split(",") if arguments.only else list(FAMILIES)
    if arguments.what == "check":
        sys.exit(0 if all([check(family, arguments.hardy) for family in families]) else 1)
    for family in families:
        write(family, os.path.join(arguments.directory, family), SMALL, [11, 8, 3], 10)


if __name__ == "__main__":
    main()
