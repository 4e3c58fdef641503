"""What a training step costs against its tokens, the model's layers and its width: times, fitted exponents, and a picture.

    cargo bench -p hardy-train --bench work --no-run       # prints the path of the program
    python benches/scaling.py target/release/deps/work-HASH [--rounds 3] [--out docs/images/scaling.png]

From the small model of the benchmark `work` (hidden 256, MLP 704, 6 layers, vocabulary 512, f32) one size is changed at a time:

tokens    of a step, in sequences of 512
length    of one sequence, which is the step: attention's square shows
layers    at 2,048 tokens in sequences of 512
width     the same

Each point is the smallest of the rounds, after one that is not counted. The exponent is the slope between logarithms, over all
points and over the last two, where what does not grow has least weight. matplotlib draws the picture; without `--out` it
is not needed.
"""

import argparse
import json
import math
import os
import subprocess

SERIES = {
    "tokens": [dict(sequences=n // 512, tokens=512) for n in (512, 1024, 2048, 4096, 8192, 16384)],
    "length": [dict(sequences=1, tokens=n) for n in (512, 1024, 2048, 4096, 8192, 16384)],
    "layers": [dict(sequences=4, tokens=512, layers=n) for n in (2, 4, 8, 16, 32)],
    "width": [dict(sequences=4, tokens=512, hidden=n) for n in (128, 256, 512, 1024, 2048)],
}
LABELS = {
    "tokens": "tokens a step, sequences of 512",
    "length": "tokens of one sequence",
    "layers": "layers",
    "width": "width",
}


def seconds(program, size, rounds):
    """The smallest time of a training step of this size."""
    environment = dict(os.environ, HARDY_BENCH_SIZE=",".join(f"{key}={value}" for key, value in size.items()))
    asked = "train\n" * (rounds + 1)
    answer = subprocess.run([program], input=asked, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return min(float(line) for line in answer.stdout.split()[1:])


def size_of(name, size):
    return {
        "tokens": size["sequences"] * size["tokens"],
        "length": size["tokens"],
        "layers": size.get("layers"),
        "width": size.get("hidden"),
    }[name]


def slope(points):
    """Of the straight line through logarithms, by least squares."""
    x, y = ([math.log(point[i]) for point in points] for i in (0, 1))
    middle, mean = sum(x) / len(x), sum(y) / len(y)
    return sum((a - middle) * (b - mean) for a, b in zip(x, y)) / sum((a - middle) ** 2 for a in x)


def draw(found, path):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(found), figsize=(13, 3.4), sharey=True)
    for axis, (name, points) in zip(axes, found.items()):
        x, y = zip(*points)
        axis.loglog(x, y, "o-", color="#2a6fb0", base=2)
        axis.loglog(x, [y[-1] * a / x[-1] for a in x], ":", color="#999999", base=2, label="in proportion")
        if name in ("length", "width"):
            axis.loglog(x, [y[-1] * (a / x[-1]) ** 2 for a in x], "--", color="#999999", base=2, label="the square")
        axis.set_xticks(x, [f"{a:,}" for a in x], rotation=30)
        axis.set_xlabel(LABELS[name])
        axis.set_title(f"exponent {slope(points):.2f}, at the end {slope(points[-2:]):.2f}", fontsize=10)
        axis.grid(alpha=0.3)
        axis.legend(frameon=False, fontsize=8)
    ticks = [2.0**power for power in range(-4, 6)]
    axes[0].set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes[0].set_ylabel("seconds a training step")
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", help="the built benchmark `work`")
    parser.add_argument("--only", default=",".join(SERIES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", help="where the picture goes")
    parser.add_argument("--json", help="where the times go")
    args = parser.parse_args()
    found = {}
    for name in args.only.split(","):
        found[name] = []
        for size in SERIES[name]:
            found[name].append((size_of(name, size), seconds(args.program, size, args.rounds)))
            print(f"{name:<7} {found[name][-1][0]:>6,} {found[name][-1][1]:9.3f} s", flush=True)
        print(f"{name:<7} exponent {slope(found[name]):.2f}, at the end {slope(found[name][-2:]):.2f}", flush=True)
    if args.json:
        with open(args.json, "w") as file:
            json.dump(found, file, indent=1)
    if args.out:
        draw(found, args.out)


if __name__ == "__main__":
    main()
