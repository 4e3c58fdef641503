"""Hardy beside transformers on a random checkpoint of the shape of Qwen2.5-0.5B (494 M parameters, bfloat16 on disk), in f32.

    cargo build --release
    python benches/peers/half.py [--hardy target/release/hardy] [--only load,score,prefill,generate,step] [--rounds 3]
        [--gsm8k train.jsonl] [--model DIR]

load      `hardy score` of one batch of two tokens against `cat` of the checkpoint, both with the file in the page cache
score     log-probabilities of 4 x 512 tokens, loading included, as `hardy score` and as transformers
prefill   one sequence of 2,048 tokens, scored: the share that its products have of the rate of PyTorch's
generate  16 greedy sequences of 64 tokens, loading included
step      one GRPO step on GSM8K (--gsm8k): 8 prompts x 4 samples, up to 128 + 128 tokens: rollout, update, memory, disk

Programs take turns, each in a process of its own; figures are the smallest of the rounds, wall time and processor time, and
the kernel's peak of memory. A random model never ends an answer, so that all are as long as they may be. Nothing is
installed: PyTorch, transformers and safetensors must be there.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
SHAPE = dict(
    vocab_size=151_936,
    hidden_size=896,
    intermediate_size=4864,
    num_hidden_layers=24,
    num_attention_heads=14,
    num_key_value_heads=2,
    max_position_embeddings=4096,
    tie_word_embeddings=True,
)
HEAD = SHAPE["vocab_size"] * SHAPE["hidden_size"]
# Parameters of linear layers in the decoder's layers.
LAYERS = 24 * (2 * 896 * 896 + 2 * 896 * 128 + 3 * 896 * 4864)
GIB = 2**30

STEP = """
name = "half"
[model]
path = "{model}"
[data]
train = "{data}"
eval = "{data}"
max_prompt_tokens = 128
overlong_prompts = "drop"
[train]
steps = 1
prompts_per_step = 8
samples_per_prompt = 4
max_new_tokens = 128
micro_batch_tokens = 1024
minibatches = {minibatches}
[eval]
n = 1
noise_levels = [0.0]
max_new_tokens = 1
[checkpoint]
every = 0
"""


def run(command):
    """Wall and processor seconds and the peak of memory, in bytes, of a command, and what it printed."""
    with tempfile.TemporaryFile() as out:
        started = time.perf_counter()
        child = subprocess.Popen(command, stdout=out)
        _, status, usage = os.wait4(child.pid, 0)
        seconds = time.perf_counter() - started
        child.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        text = out.read().decode()
    if child.returncode:
        sys.exit(f"{command[:3]} failed with {child.returncode}")
    return seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024, text


def checkpoint(directory):
    """A random model with the tokenizer of Hardy's built-in one."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    model = Qwen2ForCausalLM(Qwen2Config(**SHAPE, bos_token_id=0, eos_token_id=0)).to(torch.bfloat16)
    model.save_pretrained(directory)
    for name in ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja"]:
        shutil.copy(os.path.join(ROOT, "assets", "tiny", name), directory)


def batches(directory):
    """The inputs, as Hardy reads them."""
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(1)
    ids = lambda *shape: torch.randint(1, 400, shape)
    for name, batch in {"score": ids(4, 512), "prefill": ids(1, 2048), "load": ids(1, 2)}.items():
        mask = torch.ones_like(batch)
        save_file({"input_ids": batch, "attention_mask": mask}, os.path.join(directory, name + ".safetensors"))
    save_file({"prompt_ids": ids(16, 16)}, os.path.join(directory, "generate.safetensors"))


def peer(work, model, inputs):
    """What transformers does, in a process of its own."""
    if work == "checkpoint":
        return checkpoint(model)
    import torch
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(os.cpu_count())
    decoder = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    batch = load_file(os.path.join(inputs, work + ".safetensors"))
    with torch.no_grad():
        if work == "score":
            logits = decoder(batch["input_ids"]).logits[:, :-1]
            picked = logits.gather(-1, batch["input_ids"][:, 1:, None])[..., 0] - logits.logsumexp(-1)
            print(picked.sum().item())
        else:
            prompts = batch["prompt_ids"]
            mask = torch.ones_like(prompts)
            how = dict(attention_mask=mask, max_new_tokens=64, min_new_tokens=64, do_sample=False, pad_token_id=0)
            print(decoder.generate(prompts, **how).sum().item())


def rate():
    """Floating-point operations a second of PyTorch's plain f32 products of these shapes, the best of several."""
    import torch

    torch.set_num_threads(os.cpu_count())
    x, w = torch.randn(1024, 896), torch.randn(896, 4864)
    times = []
    for _ in range(20):
        started = time.perf_counter()
        x @ w
        times.append(time.perf_counter() - started)
    return 2 * 1024 * 896 * 4864 / min(times)


def smallest(rounds):
    return [min(column) for column in list(zip(*rounds))[:2]] + [max(r[2] for r in rounds)]


def beside(work, ours, theirs, rounds):
    """Two commands taking turns."""
    found = {"hardy": [], "transformers": []}
    for _ in range(rounds):
        found["hardy"].append(run(ours))
        found["transformers"].append(run(theirs))
    (seconds, processor, peak), other = map(smallest, (found["hardy"], found["transformers"]))
    print(f"{work:<9} hardy        {seconds:7.2f} s  {processor:7.2f} s processor  {peak / GIB:5.2f} GiB")
    print(f"{'':<9} transformers {other[0]:7.2f} s  {other[1]:7.2f} s processor  {other[2] / GIB:5.2f} GiB")
    ratios = [seconds / other[0], processor / other[1], peak / other[2]]
    print(f"{'':<9} ratio        {ratios[0]:7.2f}    {ratios[1]:7.2f}            {ratios[2]:5.2f}", flush=True)


def load(hardy, model, inputs, rounds):
    """Loading against reading the file, warm."""
    weights = os.path.join(model, "model.safetensors")
    score = [hardy, "score", "--model", model, "--batch", os.path.join(inputs, "load.safetensors")]
    cat, ours = [], []
    for _ in range(rounds + 1):
        # `cat` to /dev/null copies through its buffer, so it reads all.
        started = time.perf_counter()
        with open(os.devnull, "wb") as null:
            subprocess.run(["cat", weights], stdout=null, check=True)
        cat.append(time.perf_counter() - started)
        ours.append(run(score + ["--out", os.path.join(inputs, "out.safetensors")]))
    size = os.path.getsize(weights)
    seconds, processor, peak = smallest(ours)
    print(f"load      {size / 1e9:.2f} GB: read {min(cat):.2f} s, hardy {seconds:.2f} s ({processor:.2f} s processor, "
          f"{peak / GIB:.2f} GiB): {seconds / min(cat):.1f} times", flush=True)


def prefill(hardy, model, inputs, rounds):
    """One long sequence, without what loading takes; the rate of products is measured between the rounds."""
    score = [hardy, "score", "--model", model, "--out", os.path.join(inputs, "out.safetensors"), "--batch"]
    loading, all_of_it, rates = [], [], []
    for _ in range(rounds):
        loading.append(run(score + [os.path.join(inputs, "load.safetensors")])[0])
        all_of_it.append(run(score + [os.path.join(inputs, "prefill.safetensors")])[0])
        rates.append(rate())
    seconds = min(all_of_it) - min(loading)
    reached = 2 * 2048 * (LAYERS + HEAD) / seconds
    print(f"prefill   2,048 tokens in {seconds:.2f} s, {2048 / seconds:.0f} tokens/s, {reached / 1e9:.0f} GFLOP/s, "
          f"{100 * reached / max(rates):.0f} % of {max(rates) / 1e9:.0f}", flush=True)


def step(hardy, model, data, minibatches):
    """One GRPO step."""
    with tempfile.TemporaryDirectory() as directory:
        config, out = os.path.join(directory, "half.toml"), os.path.join(directory, "run")
        with open(config, "w") as file:
            file.write(STEP.format(model=model, data=os.path.abspath(data), minibatches=minibatches))
        seconds, processor, peak, _ = run([hardy, "run", config, "--out", out])
        with open(os.path.join(out, "metrics.jsonl")) as file:
            line = json.loads(file.readline())
        size = sum(os.path.getsize(os.path.join(at, name)) for at, _, names in os.walk(out) for name in names)
    responses = 8 * 4 * 128
    prompts = line["tokens"] // 4 - 8 * 128  # every sample counts its prompt, which is computed once
    rollout = 2 * (prompts * LAYERS + responses * (LAYERS + HEAD))
    forward = 2 * ((prompts + responses) * LAYERS + responses * HEAD)
    # The head's logits are computed once more on the way back.
    update = 3 * forward + 2 * responses * HEAD
    old = line.get("old_log_probs_seconds", 0.0)
    peak_rate = rate()
    parts = [("rollout", line["rollout_seconds"], rollout, responses)]
    if old > 1e-3:
        parts.append(("old log-probabilities", old, forward, prompts + responses))
    parts.append(("update", line["train_seconds"] - old, update, prompts + responses))
    print(f"step      {minibatches} update(s), prompts of {prompts / 8:.0f} tokens on average: {line['step_seconds']:.1f} s, "
          f"peak {peak / GIB:.2f} GiB, run directory {size / 1e9:.2f} GB; whole process {seconds:.0f} s, processor {processor:.0f} s")
    for name, taken, flop, tokens in parts:
        share = flop / taken / peak_rate
        print(f"          {name:<22} {taken:6.1f} s  {tokens / taken:7.0f} tokens/s  {flop / taken / 1e9:5.0f} GFLOP/s, "
              f"{100 * share:3.0f} % of {peak_rate / 1e9:.0f}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hardy", default=os.path.join(ROOT, "target", "release", "hardy"))
    parser.add_argument("--only", default="load,score,prefill,generate,step")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--gsm8k", help="GSM8K's train.jsonl, for `step`")
    parser.add_argument("--model", help="a checkpoint that is there already, or is made there")
    parser.add_argument("--peer", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peer:
        return peer(*args.peer)
    only = args.only.split(",")
    with tempfile.TemporaryDirectory() as inputs:
        model = args.model or os.path.join(inputs, "model")
        here = [sys.executable, os.path.abspath(__file__), "--peer"]
        # In a process of its own: the peak of a child is at least what its parent holds when it is started.
        if not os.path.exists(os.path.join(model, "config.json")):
            run(here + ["checkpoint", model, inputs])
        batches(inputs)
        named = lambda work: os.path.join(inputs, work + ".safetensors")
        if "load" in only:
            load(args.hardy, model, inputs, args.rounds)
        if "score" in only:
            ours = [args.hardy, "score", "--model", model, "--batch", named("score"), "--out", named("out")]
            beside("score", ours, here + ["score", model, inputs], args.rounds)
        if "prefill" in only:
            prefill(args.hardy, model, inputs, args.rounds)
        if "generate" in only:
            ours = [args.hardy, "generate", "--model", model, "--batch", named("generate"), "--max-new-tokens", "64"]
            beside("generate", ours + ["--temperature", "0"], here + ["generate", model, inputs], args.rounds)
        if "step" in only and args.gsm8k:
            for minibatches in (1, 2):
                step(args.hardy, model, args.gsm8k, minibatches)


if __name__ == "__main__":
    main()
