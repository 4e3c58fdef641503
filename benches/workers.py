#!/usr/bin/env python3
"""What sharing a step out costs: two workers of one thread each against one worker of two threads, the bytes and messages of 1, 2, 4
and 8 workers, a model of the cost (compute, bytes, latency) fitted to what runs here, and what it says of a large model elsewhere.

    cargo build --release && cargo bench -p hardy-train --bench exchange --no-run
    benches/workers.py target/release/hardy "$(ls target/release/deps/exchange-* | grep -v '\\.d$')"

Nothing beside Python's own library is needed. The machine should have nothing else to do.
"""

import json, os, re, resource, shutil, socket, statistics, subprocess, sys, tempfile, time

HARDY, EXCHANGE = sys.argv[1:3]
TURNS, STEPS = 3, 8
# Of a run only its steps: no evaluation beyond the first problem, one checkpoint.
RUN = ["--set", "eval.n=1", "--set", "eval.every=0", "--set", "eval.noise_levels=[0.0]",
       "--set", "checkpoint.every=1000000"]


def run(workers, threads, steps, preset="e5b"):
    """Wall seconds a step (the median), processor seconds in all, and bytes and messages that the first worker sent."""
    work = tempfile.mkdtemp()
    out = os.path.join(work, "run")
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    command = [HARDY, "run", preset, *RUN, "--set", f"train.steps={steps}", "--threads", str(threads), "--out", out]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    env = lambda rank: {**os.environ, "RANK": str(rank), "WORLD_SIZE": str(workers), "MASTER_PORT": str(port)}
    pipe = dict(stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    all_of_them = [subprocess.Popen(command, env=env(rank), **pipe) for rank in range(workers)]
    said = [worker.communicate()[1] for worker in all_of_them]
    if any(worker.returncode for worker in all_of_them):
        sys.exit("\n".join(said))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    lines = [json.loads(line) for line in open(os.path.join(out, "metrics.jsonl"))]
    shutil.rmtree(work)
    sent = re.search(r"sent (\d+) bytes in (\d+) messages", said[0])
    return {
        "step": statistics.median(line["step_seconds"] for line in lines[1:] or lines),
        "cpu": sum(getattr(after, key) - getattr(before, key) for key in ("ru_utime", "ru_stime")),
        "sent": [int(x) for x in sent.groups()] if sent else [0, 0],
    }


def least_squares(rows):
    """seconds ≈ α·messages + bytes/β, each size with the same weight."""
    a = [[m / s, b / s] for m, b, s in rows]
    n = [[sum(r[i] * r[j] for r in a) for j in range(2)] for i in range(2)]
    y = [sum(r[i] for r in a) for i in range(2)]
    det = n[0][0] * n[1][1] - n[0][1] * n[1][0]
    alpha = (y[0] * n[1][1] - y[1] * n[0][1]) / det
    return alpha, det / (y[1] * n[0][0] - y[0] * n[1][0])


def median_of(turns, key):
    return statistics.median(turn[key] for turn in turns)


def main():
    print(f"{os.cpu_count()} processors\n\n== 2 workers of 1 thread against 1 worker of 2 threads, e5b of the tiny scale, {TURNS} turns")
    one, two, single = [], [], []
    for _ in range(TURNS):
        one.append(run(1, 2, STEPS))
        two.append(run(2, 1, STEPS))
    single = [run(1, 1, STEPS) for _ in range(2)]
    for name, turns in [("1 worker of 1 thread", single), ("1 worker of 2 threads", one), ("2 workers of 1 thread", two)]:
        spread = [turn["step"] for turn in turns]
        print(f"{name:22} {median_of(turns, 'step'):.3f} s a step ({min(spread):.3f} to {max(spread):.3f}), "
              f"{median_of(turns, 'cpu'):.1f} s of processors for {STEPS} steps and the start")
    print(f"ratio of the steps {median_of(one, 'step') / median_of(two, 'step'):.3f}, of the processors "
          f"{median_of(two, 'cpu') / median_of(one, 'cpu'):.3f}")

    print("\n== bytes and messages that the first worker sends in a step")
    a_step = {}
    for workers in (2, 4, 8):
        # Errors change nothing that is sent, and with few steps their schedule has none.
        short, long = run(workers, 1, 1, "baseline"), run(workers, 1, 3, "baseline")
        a_step[workers] = [(b - a) / 2 for a, b in zip(short["sent"], long["sent"])]
        print(f"{workers} workers: {a_step[workers][0]:,.0f} bytes in {a_step[workers][1]:.0f} messages")

    print("\n== an exchange over TCP on this machine")
    rows = [json.loads(line) for line in subprocess.run([EXCHANGE], capture_output=True, text=True).stdout.splitlines()]
    fits = {}
    for workers in (2, 4, 8):
        of = [(workers - 1, r["bytes"] * (workers - 1), r["seconds"]) for r in rows if r["workers"] == workers]
        fits[workers] = least_squares(of)
        worst = max(abs(fits[workers][0] * m + b / fits[workers][1] - s) / s for m, b, s in of)
        print(f"{workers} workers: {1e6 * fits[workers][0]:.0f} µs a message, {fits[workers][1] / 1e9:.2f} GB/s from each; "
              f"within {100 * worst:.0f} % of what was measured, 8 bytes to 4 MiB")

    print("\n== the model: a step of W workers of one thread = compute / W + α·messages + bytes/β")
    (size, messages), (alpha, beta) = a_step[2], fits[2]
    compute, took = median_of(single, "step"), median_of(two, "step")
    exchange = alpha * messages + size / beta
    print(f"2 workers: {compute / 2:.3f} s + {exchange:.4f} s = {compute / 2 + exchange:.3f} s; measured {took:.3f} s")

    print("\n== on paper: full fine-tuning of 1.54 G parameters in f32, 128 prompts × 5 answers of 500 tokens")
    n, tokens, flops = 1.54e9, 128 * 5 * 500, 400e12 * 0.4
    print("rates are those that makers give; 40 % of 400 TFLOP/s; rollouts left out; nobody has run this")
    for name, workers, rate, latency in [
        ("8 GPUs, NVLink at 450 GB/s", 8, 450e9, 5e-6),
        ("8 GPUs, Ethernet at 100 Gbit/s for all", 8, 12.5e9 / 8, 50e-6),
        ("64 GPUs, 400 Gbit/s each", 64, 50e9, 10e-6),
        ("64 GPUs, 8 a machine, 100 Gbit/s a machine", 64, 12.5e9 / 8, 50e-6),
    ]:
        sent = 2 * 4 * n * (workers - 1) / workers
        # Two exchanges of the gradients, about seven small ones.
        exchange, compute = sent / rate + 9 * (workers - 1) * latency, 6 * n * tokens / flops / workers
        print(f"{name:44} {sent / 1e9:5.1f} GB  {exchange:6.3f} s  compute {compute:6.3f} s  share {100 * exchange / compute:6.0f} %")


main()
