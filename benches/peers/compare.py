"""Hardy beside PyTorch, transformers and TRL: the same work on the same machine, taking turns.

    cargo bench -p hardy-train --bench work --no-run     # once, so that building is not measured
    python benches/peers/compare.py [--rounds 5] [--threads 2] [--only train,generate_1]

Nothing is installed. Without PyTorch and transformers only Hardy's figures are printed; without TRL the GRPO step has
no peer. Sizes: hidden 256, MLP 704, 6 layers, 8 heads, 4 key-value heads, vocabulary 512, f32.
"""

import argparse
import os
import statistics
import subprocess
import tempfile
import time

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
GOALS = {
    "train": 0.85,
    "train_noisy": 0.4,
    "generate_256": 0.2,
    "generate_32": None,
    "generate_1": 0.1,
    "grpo": 0.25,
}
# Floating-point operations of the linear layers of a training step: three products of 4,096 tokens.
PRODUCT_FLOP = 6 * 4096 * (12 * 256 * 256 + 12 * 256 * 128 + 12 * 256 * 704 + 6 * 704 * 256 + 256 * 512)


class Hardy:
    """The benchmark `work` of hardy-train, which does one piece of work for every line that it is sent."""

    def __init__(self, threads):
        environment = dict(os.environ, RAYON_NUM_THREADS=str(threads), MIMALLOC_PURGE_DELAY="-1")
        command = ["cargo", "bench", "-q", "-p", "hardy-train", "--bench", "work"]
        self.process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(self, work):
        self.process.stdin.write(work + "\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline())


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
        for count, inner, outer in [(12, 256, 256), (12, 256, 128), (12, 256, 704), (6, 704, 256), (1, 256, 512)]:
            x, w, dy = torch.ones(4096, inner), torch.ones(outer, inner), torch.ones(4096, outer)
            for _ in range(count):
                x @ w.T, dy @ w, dy.T @ x

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


def measure(hardy, peer, work, rounds):
    """Median seconds of both, in alternation after one round that is not counted."""

    def rested(run):
        # Threads that spin for more work must be asleep before the other's turn.
        time.sleep(0.5)
        return run(work)

    times = [(rested(hardy.run), peer and rested(peer.run)) for _ in range(rounds + 1)][1:]
    ours = statistics.median(t for t, _ in times)
    theirs = [t for _, t in times if t is not None]
    return ours, statistics.median(theirs) if theirs else None


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", default=",".join([*GOALS, "products"]))
    arguments = parser.parse_args()
    hardy, peer = Hardy(arguments.threads), peers(arguments.threads)
    print("| work | Hardy | peer | Hardy / peer | goal |\n|---|---|---|---|---|")
    ours = {}
    for work in arguments.only.split(","):
        ours[work], theirs = measure(hardy, peer, work, arguments.rounds)
        ratio, shown = (f"{ours[work] / theirs:.2f}", f"{theirs:.3f} s") if theirs else ("–", "–")
        print(f"| {work} | {ours[work]:.3f} s | {shown} | {ratio} | {GOALS.get(work) or '–'} |", flush=True)
    if {"train", "train_noisy"} <= ours.keys():
        print(f"noisy step / clean step: {ours['train_noisy'] / ours['train']:.2f} (goal 1.10)")
    if "products" in ours:
        rate = lambda seconds: f"{PRODUCT_FLOP / seconds / 1e9:.0f} GFLOP/s"
        print(f"the linear layers' products alone: {rate(ours['products'])}", end="")
        print(f"; in the clean training step: {rate(ours['train'])}" if "train" in ours else "")


main()
