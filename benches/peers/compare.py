"""Hardy beside PyTorch, transformers and TRL: the same work on the same machine, taking turns; and beside its own limit.

    cargo bench --workspace --bench work --no-run        # once, so that building is not measured
    python benches/peers/compare.py [--rounds 5] [--threads 2] [--only train,generate_1]
    HARDY_SIMD=avx2 python benches/peers/compare.py      # the same at another SIMD level

Nothing is installed. Without PyTorch and transformers only Hardy's figures are printed; without TRL the GRPO step has
no peer. Sizes: hidden 256, MLP 704, 6 layers, 8 heads, 4 key-value heads, vocabulary 512, f32.

The limit of a work is the time of what it can not do without: its linear layers' products, alone and of the very same
shapes, as fast as the better of both libraries computed them in this run, or the bytes of weights and caches at the rate
of a plain copy in this run, whichever takes longer. Of the noisy step it is the clean step of the same round. Both
programs and the copies run one after another as children of one process, in one session and process group, the order
changing from round to round, so that a slow minute hits all of them; figures are medians, with the smallest and the
largest.
"""

import argparse
import ctypes
import os
import platform
import statistics
import subprocess
import tempfile
import threading
import time

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
# Of a work: the share of the peer's time, and the multiple of the limit, that it should take at most.
GOALS = {
    "train": (0.85, 1.20),
    "train_noisy": (0.4, 1.10),
    "generate_256": (0.2, 1.35),
    "generate_32": (None, 1.35),
    "generate_1": (0.1, 1.5),
    "grpo": (0.25, None),
}
# Linear layers of every size: how many, in, out; the head is the last.
SHAPES = [(12, 256, 256), (12, 256, 128), (12, 256, 704), (6, 704, 256), (1, 256, 512)]
WEIGHTS = sum(count * inner * outer for count, inner, outer in SHAPES)
# What computes the plain products of both programs.
LIBRARIES = {"hardy": "Hardy", "peer": "PyTorch"}
# Floating-point operations of the linear layers of a training step: three products of 4,096 tokens.
PRODUCT_FLOP = 6 * 4096 * WEIGHTS
# Bytes of a token's keys and values in all layers.
CACHE = 6 * 2 * 128 * 4
COPY_BYTES = 256 << 20
# Tokens of the update of a GRPO step, in which a prompt of 64 tokens is shared by its eight samples of 64.
UPDATE_TOKENS = 32 * 64 + 256 * 64


def generated_bytes(batch):
    """Bytes of weights and caches that 64 new tokens for each of `batch` prompts of 64 tokens take."""
    keys = batch * sum(64 + new for new in range(1, 64))
    return 64 * 4 * WEIGHTS + keys * CACHE


class Limits:
    """What works can not do without, measured in turns when it is first asked for."""

    def __init__(self, programs, rounds, threads):
        self.programs, self.rounds, self.kept = programs, rounds, {}
        copies = measure({"copy": Copy(threads)}, None, rounds)["copy"]
        self.bytes_per_second = 2 * COPY_BYTES / statistics.median(copies)

    def products(self, work):
        """The seconds of both libraries' products alone."""
        if work not in self.kept:
            self.kept[work] = measure(self.programs, work, self.rounds)
        return self.kept[work]

    def least(self, work):
        return min(statistics.median(times) for times in self.products(work).values() if times)

    def of(self, work, times):
        """The least time that a work can take, and what it is that takes it."""
        if "clean" in times:
            return statistics.median(times["clean"]), "the clean step"
        if work == "train":
            return self.least("products"), "products"
        if work == "grpo":
            return self.least("products_grpo") + self.least("products") * UPDATE_TOKENS / 4096, "products"
        batch = int(work.split("_")[1])
        read = (generated_bytes(batch) / self.bytes_per_second, "bytes")
        return read if batch == 1 else max((self.least(f"products_{batch}"), "products"), read)


def processor():
    """The processor's name, where the system tells it."""
    try:
        with open("/proc/cpuinfo") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or "unknown"


class Clean:
    """The clean step, whatever else takes its turn."""

    def __init__(self, hardy):
        self.hardy = hardy

    def run(self, _):
        return self.hardy.run("train")


class Copy:
    """A plain copy on all threads; `ctypes` lets go of the interpreter's lock meanwhile."""

    def __init__(self, threads):
        size = COPY_BYTES // threads
        self.parts = [(ctypes.create_string_buffer(size), ctypes.create_string_buffer(size)) for _ in range(threads)]
        self.run(None)

    def run(self, _):
        copy = lambda part: ctypes.memmove(part[1], part[0], len(part[0]))
        threads = [threading.Thread(target=copy, args=(part,)) for part in self.parts]
        started = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return time.perf_counter() - started


class Hardy:
    """The benchmark `work` of hardy-train, which does one piece of work for every line that it is sent."""

    def __init__(self, threads):
        environment = dict(os.environ, RAYON_NUM_THREADS=str(threads))
        command = ["cargo", "bench", "-q", "--workspace", "--bench", "work"]
        self.process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(self, work):
        self.process.stdin.write(work + "\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline())

    def simd(self):
        self.process.stdin.write("simd\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()


def config():
    from transformers import Qwen2Config

    return Qwen2Config(
        vocab_size=512,
        hidden_size=256,
        intermediate_size=704,
        num_hidden_layers=6,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=512,
        rope_theta=10_000.0,
        tie_word_embeddings=True,
        eos_token_id=None,
        pad_token_id=0,
    )


def noisy_operators(torch):
    """5 % relative Gaussian error on linear and matmul, on the output and on both gradients."""

    def noise(x):
        return x + torch.randn_like(x) * x.abs() * 0.05

    class NoisyMatmul(torch.autograd.Function):
        @staticmethod
        def forward(ctx, a, b):
            ctx.save_for_backward(a, b)
            return noise(a @ b)

        @staticmethod
        def backward(ctx, grad):
            a, b = ctx.saved_tensors
            return noise(grad @ b.transpose(-1, -2)), noise(a.transpose(-1, -2) @ grad)

    class NoisyLinear(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, weight, bias):
            ctx.save_for_backward(x, weight)
            ctx.has_bias = bias is not None
            return noise(torch.nn.functional.linear(x, weight, bias))

        @staticmethod
        def backward(ctx, grad):
            x, weight = ctx.saved_tensors
            flat = grad.flatten(0, -2)
            bias = flat.sum(0) if ctx.has_bias else None
            return noise(grad @ weight), noise(flat.T @ x.flatten(0, -2)), bias

    return NoisyMatmul.apply, NoisyLinear.apply


class Peers:
    """PyTorch eager with SDPA and fused AdamW, transformers' generate, TRL's GRPOTrainer."""

    def __init__(self, threads):
        import torch
        from transformers import Qwen2ForCausalLM
        from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

        self.torch = torch
        torch.set_num_threads(threads)
        torch.manual_seed(0)
        matmul, linear = noisy_operators(torch)

        def attention(module, query, key, value, mask, scaling, dropout=0.0, **_):
            groups = query.shape[1] // key.shape[1]
            key, value = (x.repeat_interleave(groups, 1) for x in (key, value))
            scores = matmul(query, key.transpose(-1, -2)) * scaling
            causal = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
            weights = scores.masked_fill(causal, float("-inf")).softmax(-1)
            return matmul(weights, value).transpose(1, 2).contiguous(), weights

        ALL_ATTENTION_FUNCTIONS["noisy"] = attention
        self.clean = self.model(Qwen2ForCausalLM, "sdpa")
        self.noisy = self.model(Qwen2ForCausalLM, "noisy")
        for module in self.noisy[0].modules():
            if isinstance(module, torch.nn.Linear):
                module.forward = lambda x, module=module: linear(x, module.weight, module.bias)
        self.trainer = self.grpo_trainer()
        self.weights = None

    def model(self, kind, attention):
        settings = config()
        settings._attn_implementation = attention
        model = kind(settings).float()
        optimizer = self.torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.01, fused=True)
        return model, optimizer

    def run(self, work):
        if work == "grpo" and self.trainer is None:
            return None
        started = time.perf_counter()
        if work == "train":
            self.train(*self.clean)
        elif work == "train_noisy":
            self.train(*self.noisy)
        elif work == "grpo":
            self.grpo()
        elif work == "products":
            self.products()
        elif work.startswith("products_"):
            prompts, samples = {"grpo": (32, 256)}.get(work[9:]) or [int(work[9:])] * 2
            self.products_of_generation(prompts, samples)
        else:
            self.generate(int(work.split("_")[1]))
        return time.perf_counter() - started

    def train(self, model, optimizer):
        torch = self.torch
        ids = torch.tensor([[(i * 31 + t * 7) % 512 for t in range(129)] for i in range(32)])
        logits = model(input_ids=ids[:, :-1], use_cache=False).logits
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    def generate(self, batch):
        torch = self.torch
        ids = torch.tensor([[(i * 31 + t * 7) % 512 for t in range(64)] for i in range(batch)])
        with torch.inference_mode():
            out = self.clean[0].generate(
                ids,
                attention_mask=torch.ones_like(ids),
                do_sample=False,
                min_new_tokens=64,
                max_new_tokens=64,
            )
        assert out.shape[1] == 128

    def products(self):
        torch = self.torch
        for count, inner, outer in SHAPES:
            x, w, dy = torch.ones(4096, inner), torch.ones(outer, inner), torch.ones(4096, outer)
            for _ in range(count):
                x @ w.T, dy @ w, dy.T @ x

    def products_of_generation(self, prompts, samples):
        """Those of the prompts, and of every new token but the last, each with the weights of its own layer."""
        torch = self.torch
        layers = [(inner, outer) for count, inner, outer in SHAPES for _ in range(count)]
        if self.weights is None:
            self.weights = [torch.full((outer, inner), 0.1) for inner, outer in layers]

        def products_of(rows, weights):
            x = {inner: torch.ones(rows, inner) for inner, _ in layers}
            for w in weights:
                torch.nn.functional.linear(x[w.shape[1]], w)

        with torch.inference_mode():
            products_of(prompts * 64, self.weights[:-1])
            products_of(prompts, self.weights[-1:])
            for _ in range(63):
                products_of(samples, self.weights)

    def grpo_trainer(self):
        """A trainer for 32 prompts of 64 tokens, 8 samples of 64 tokens each, one update a step."""
        try:
            from datasets import Dataset
            from tokenizers import Tokenizer, models, pre_tokenizers
            from transformers import PreTrainedTokenizerFast
            from trl import GRPOConfig, GRPOTrainer
        except ImportError:
            return None
        words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(512)}, unk_token="w1"))
        words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="w0", eos_token="w2", unk_token="w1")
        prompt = lambda i: " ".join(f"w{(i * 31 + t * 7) % 512}" for t in range(64))
        settings = GRPOConfig(
            output_dir=tempfile.mkdtemp(),
            per_device_train_batch_size=256,
            gradient_accumulation_steps=1,
            num_generations=8,
            max_completion_length=64,
            generation_kwargs={"min_new_tokens": 64},
            beta=0.0,
            max_steps=1,
            learning_rate=1e-4,
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            report_to=[],
            logging_strategy="no",
            save_strategy="no",
            disable_tqdm=True,
        )
        return GRPOTrainer(
            model=self.clean[0],
            args=settings,
            processing_class=tokenizer,
            train_dataset=Dataset.from_dict({"prompt": [prompt(i) for i in range(32)]}),
            reward_funcs=lambda completions, **_: [float(len(c) % 2) for c in completions],
        )

    def grpo(self):
        self.trainer.train()


def peers(threads):
    try:
        return Peers(threads)
    except ImportError as missing:
        print(f"no peer: {missing}")
        return None


def measure(programs, work, rounds):
    """The seconds of all rounds of each program, in turns, after one round that is not counted."""

    def rested(run):
        # Threads that spin for more work must be asleep before the other's turn.
        time.sleep(0.5)
        times = [run(work)]
        # A processor that wakes is slow at first: of what takes less than a second, the median of a second.
        while times[0] is not None and sum(times) < 1:
            times.append(run(work))
        return statistics.median(times) if times[0] is not None else None

    times = {name: [] for name in programs}
    for turn in range(rounds + 1):
        for name in sorted(programs, reverse=turn % 2 == 1):
            times[name].append(rested(programs[name].run))
    return {name: [t for t in all[1:] if t is not None] for name, all in times.items()}


def spread(values, digits, unit=""):
    if not values:
        return "–"
    shown = [f"{x:.{digits}f}" for x in (statistics.median(values), min(values), max(values))]
    return f"{shown[0]}{unit} ({shown[1]} to {shown[2]})"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", default=",".join(GOALS))
    arguments = parser.parse_args()
    hardy, peer = Hardy(arguments.threads), peers(arguments.threads)
    programs = {"hardy": hardy} | ({"peer": peer} if peer else {})
    print(f"{processor()}, {hardy.simd()}, {arguments.threads} threads, {arguments.rounds} rounds, load {os.getloadavg()[0]:.1f}")
    limits = Limits(programs, arguments.rounds, arguments.threads)
    for name, times in limits.products("products").items():
        shown = spread([PRODUCT_FLOP / t / 1e9 for t in times], 0, " GFLOP/s")
        print(f"the linear layers' products alone, {LIBRARIES[name]}: {shown}")
    print(f"a plain copy, bytes read and written: {limits.bytes_per_second / 1e9:.1f} GB/s")
    print("| work | Hardy | peer | Hardy / peer | goal | limit | Hardy / limit | goal |\n|---|---|---|---|---|---|---|---|")
    for work in arguments.only.split(","):
        beside = {"clean": Clean(hardy)} if work == "train_noisy" else {}
        times = measure(programs | beside, work, arguments.rounds)
        ours, theirs = times["hardy"], times.get("peer", [])
        least, what = limits.of(work, times)
        floors = times.get("clean", [least] * len(ours))
        to_peer, to_limit = GOALS.get(work, (None, None))
        cells = [
            work,
            spread(ours, 3, " s"),
            spread(theirs, 3, " s"),
            spread([a / b for a, b in zip(ours, theirs)], 2),
            to_peer or "–",
            f"{least:.3f} s, {what}",
            spread([t / floor for t, floor in zip(ours, floors)], 2),
            to_limit or "–",
        ]
        print("|", " | ".join(map(str, cells)), "|", flush=True)
    for work, times in limits.kept.items():
        print(f"{work} alone:", ", ".join(f"{LIBRARIES[name]} {spread(all, 3, ' s')}" for name, all in times.items()))


main()
