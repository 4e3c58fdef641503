"""Hardy beside PyTorch and transformers on a GPU: the same work in turns, at the shape of a Qwen2.5-1.5B.

    benches/gpu.sh build out && benches/gpu.sh run out
    python benches/peers/compare_gpu.py --work out/work [--device cuda] [--size 1.5b|tiny] [--rounds 2] [--only train]

Both compute in f32, PyTorch with TF32 off, and in bf16, PyTorch as its autocast does; whether tensor cores compute Hardy's
products in bf16 is printed. The share of the GPU's peak that Hardy's products reach is printed where `--peak-tflops` says what
the peaks in f32 and in bf16 are. Without PyTorch Hardy's figures stand alone.
"""

import argparse
import os
import subprocess
import time

PRECISIONS = {"f32": "float32", "bf16": "bfloat16"}
WORKS = ["train", "train_noisy", "generate_64", "products"]
GOALS = {"train": 1.3, "generate_64": 0.5}
SIZES = {
    "tiny": dict(vocab=512, hidden=256, mlp=704, layers=6, heads=8, kv=4, theta=1e4, batch=(32, 128), prompt=64, new=64),
    "1.5b": dict(
        vocab=151_936, hidden=1536, mlp=8960, layers=28, heads=12, kv=2, theta=1e6, batch=(8, 1024), prompt=128, new=256
    ),
}


class Hardy:
    """The benchmark `work`, which does one piece of work for every line that it is sent."""

    def __init__(self, path, device, size, precision):
        environment = dict(
            os.environ, HARDY_BENCH_DEVICE=device, HARDY_BENCH_SIZE=size, HARDY_BENCH_PRECISION=precision
        )
        pipe = subprocess.PIPE
        self.process = subprocess.Popen([path], env=environment, stdin=pipe, stdout=pipe, text=True)

    def ask(self, what):
        self.process.stdin.write(what + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def run(self, work):
        answer = self.ask(work)
        return float(answer) if answer else None

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def memory():
    """Bytes in use on the first GPU, as nvidia-smi tells."""
    query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    try:
        return int(subprocess.run(query, capture_output=True, text=True).stdout.split()[0]) << 20
    except (OSError, IndexError, ValueError):
        return None


class Peer:
    """PyTorch eager with SDPA, gradient checkpointing and fused AdamW; transformers' generate."""

    def __init__(self, size, dtype):
        import torch
        from transformers import Qwen2Config, Qwen2ForCausalLM

        self.torch, self.size = torch, SIZES[size]
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.manual_seed(0)
        s = self.size
        config = Qwen2Config(
            vocab_size=s["vocab"],
            hidden_size=s["hidden"],
            intermediate_size=s["mlp"],
            num_hidden_layers=s["layers"],
            num_attention_heads=s["heads"],
            num_key_value_heads=s["kv"],
            max_position_embeddings=4096,
            rope_theta=s["theta"],
            tie_word_embeddings=True,
            eos_token_id=None,
            pad_token_id=0,
        )
        config._attn_implementation = "sdpa"
        self.dtype = getattr(torch, dtype)
        self.model = Qwen2ForCausalLM(config).to("cuda")
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4, weight_decay=0.01, fused=True)

    def run(self, work):
        torch = self.torch
        do = {"train": self.train, "generate_64": lambda: self.generate(64), "products": self.products}.get(work)
        if do is None:
            return None
        torch.cuda.synchronize()
        started = time.perf_counter()
        with torch.autocast("cuda", dtype=self.dtype, enabled=self.dtype != torch.float32):
            do()
        torch.cuda.synchronize()
        return time.perf_counter() - started

    def train(self):
        torch, (sequences, tokens) = self.torch, self.size["batch"]
        vocab = self.size["vocab"]
        ids = [[(i * 31 + t * 7) % vocab for t in range(tokens + 1)] for i in range(sequences)]
        ids = torch.tensor(ids, device="cuda")
        self.model.gradient_checkpointing_enable()
        self.model.train()
        logits = self.model(input_ids=ids[:, :-1], use_cache=False).logits
        torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), ids[:, 1:].flatten()).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def generate(self, batch):
        torch, s = self.torch, self.size
        ids = [[(i * 31 + t * 7) % s["vocab"] for t in range(s["prompt"])] for i in range(batch)]
        ids = torch.tensor(ids, device="cuda")
        self.model.gradient_checkpointing_disable()
        self.model.eval()
        with torch.inference_mode():
            self.model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                do_sample=False,
                min_new_tokens=s["new"],
                max_new_tokens=s["new"],
            )

    def products(self):
        torch, tokens = self.torch, self.size["batch"][0] * self.size["batch"][1]
        for count, inner, outer in shapes(self.size):
            x, w, dy = (torch.ones(shape, device="cuda") for shape in [(tokens, inner), (outer, inner), (tokens, outer)])
            for _ in range(count):
                x @ w.T, dy @ w, dy.T @ x


def shapes(s):
    """How many linear layers there are of every size: count, in, out."""
    hidden, kv = s["hidden"], s["hidden"] // s["heads"] * s["kv"]
    layers = s["layers"]
    return [
        (2 * layers, hidden, hidden),
        (2 * layers, hidden, kv),
        (2 * layers, hidden, s["mlp"]),
        (layers, s["mlp"], hidden),
        (1, hidden, s["vocab"]),
    ]


def product_flop(s):
    return 6 * s["batch"][0] * s["batch"][1] * sum(count * inner * outer for count, inner, outer in shapes(s))


def best(runner, work, rounds):
    """The least of some rounds after one that warms up."""
    found = [runner.run(work) for _ in range(rounds + 1)][1:]
    return None if any(seconds is None for seconds in found) else min(found)


def measure_hardy(args, works, precision):
    """Hardy's seconds by work."""
    before, ours = memory(), {}
    hardy = Hardy(args.work, args.device, args.size, precision)
    if precision == "bf16":
        there = {"true": "on tensor cores", "false": "NOT on tensor cores"}.get(hardy.ask("tensor_cores"), "unknown")
        print(f"Hardy bf16: products {there}", flush=True)
    for work in works:
        ours[work] = best(hardy, work, args.rounds)
        used = memory()
        note = f", {(used - before) / 2**30:.1f} GiB in use" if used and before is not None else ""
        print(f"Hardy {precision:<4} {work:<12} {ours[work]} s{note}", flush=True)
    hardy.close()
    return ours


def measure_peer(args, works, dtype, ours):
    """PyTorch's seconds beside Hardy's of the same precision; False where there is no PyTorch."""
    try:
        peer = Peer(args.size, dtype)
    except Exception as missing:
        print(f"no PyTorch on a GPU: {missing}")
        return False
    for work in works:
        seconds = best(peer, work, args.rounds)
        if seconds is None:
            continue
        ratios = [f"Hardy {name} / PyTorch {of[work] / seconds:.2f}" for name, of in ours.items() if of.get(work)]
        goal = f" (goal {GOALS[work]}, bf16)" if work in GOALS and dtype == "bfloat16" else ""
        print(f"PyTorch {dtype} {work:<12} {seconds:.3f} s, {', '.join(ratios)}{goal}", flush=True)
    print(f"PyTorch {dtype} peak memory {peer.torch.cuda.max_memory_allocated() / 2**30:.1f} GiB")
    del peer
    __import__("torch").cuda.empty_cache()
    return True


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", required=True, help="the benchmark `work`, built with the device's feature")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--size", default="1.5b", choices=SIZES)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--only", default=",".join(WORKS))
    parser.add_argument("--peak-tflops", type=float, nargs=2, metavar=("F32", "BF16"), help="the GPU's peaks")
    args = parser.parse_args()
    works = args.only.split(",")
    # The precision of the goals first, should the time run out.
    ours = {precision: measure_hardy(args, works, precision) for precision in ["bf16", "f32"]}
    for peak, (precision, of) in zip(reversed(args.peak_tflops or [None, None]), ours.items()):
        if of.get("train") and of.get("train_noisy"):
            print(f"noisy / clean, Hardy {precision}: {of['train_noisy'] / of['train']:.2f} (goal 1.10)")
        if of.get("products"):
            rate = product_flop(SIZES[args.size]) / of["products"] / 1e12
            share = f", {rate / peak:.0%} of the peak" if peak else ""
            print(f"products, Hardy {precision}: {rate:.1f} TFLOP/s{share}", flush=True)
    for precision in ours:
        if not measure_peer(args, works, PRECISIONS[precision], ours):
            break


if __name__ == "__main__":
    main()
