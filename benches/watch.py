"""`hardy watch` and `hardy report` on long runs: how soon the page is there, how much memory it takes, how large a report is.

    cargo build --release
    python benches/watch.py RUN [--binary target/release/hardy] [--runs 20] [--steps 10000] [--evaluations 40]

RUN is a finished run, such as runs/quickstart/noise. Longer ones are made from it in a temporary directory: its lines of metrics
again and again with a little added to every number, its evaluations spread over the steps, its receipts. Goals: 20 runs of 10,000 steps open in 1 s
and take 200 MB; the report of 10 runs is 2 MB at most. Nothing is installed.
"""

import argparse
import json
import os
import random
import re
import subprocess
import tempfile
import time
import urllib.request

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")


def jittered(value, by):
    """Every number of a line of metrics, a little changed."""
    return value * (1.0 + by.uniform(-0.1, 0.1)) if isinstance(value, float) else value


def make(source, target, name, steps, evaluations, seed):
    """A run of so many steps in `target`."""
    by = random.Random(seed)
    os.makedirs(os.path.join(target, "eval"))
    with open(os.path.join(source, "config.toml")) as file:
        config = re.sub(r'(?m)^name = .*$', f'name = "{name}"', file.read(), count=1)
        config = re.sub(r"(?m)^seed = .*$", f"seed = {seed}", config, count=1)
    with open(os.path.join(target, "config.toml"), "w") as file:
        file.write(config)
    with open(os.path.join(source, "metrics.jsonl")) as file:
        lines = [json.loads(line) for line in file]
    with open(os.path.join(target, "metrics.jsonl"), "w") as file:
        for step in range(1, steps + 1):
            line = {key: jittered(value, by) for key, value in lines[step % len(lines)].items()}
            file.write(json.dumps(line | {"step": step}) + "\n")
    with open(os.path.join(source, "receipts.json")) as file:
        receipts = file.read()
    with open(os.path.join(target, "receipts.json"), "w") as file:
        file.write(receipts)
    names = sorted(os.listdir(os.path.join(source, "eval")))
    for i in range(evaluations + 1):
        with open(os.path.join(source, "eval", names[min(i, len(names) - 1)])) as file:
            record = json.load(file)
        record["step"] = i * steps // evaluations
        with open(os.path.join(target, "eval", f"step-{record['step']:06}.json"), "w") as file:
            json.dump(record, file)


def peak_mb(pid):
    """The most memory that a process has held, in MB (10^6)."""
    with open(f"/proc/{pid}/status") as status:
        return int(re.search(r"VmHWM:\s+(\d+) kB", status.read())[1]) * 1024 / 1e6


def watch(binary, runs):
    """Seconds from the start of the command to the page, those of a second look, and the memory at the end."""
    began = time.monotonic()
    server = subprocess.Popen([binary, "watch", runs, "--port", "0", "--json"], stdout=subprocess.PIPE, text=True)
    try:
        text = ""
        while "}" not in text:
            text += server.stdout.readline()
        url = json.loads(text)["url"]
        page = urllib.request.urlopen(url + "now").read()
        opened = time.monotonic() - began
        began = time.monotonic()
        urllib.request.urlopen(url + "now").read()
        return opened, time.monotonic() - began, len(page), peak_mb(server.pid)
    finally:
        server.terminate()
        server.wait()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run")
    parser.add_argument("--binary", default=os.path.join(ROOT, "target/release/hardy"))
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--evaluations", type=int, default=40)
    parser.add_argument("--turns", type=int, default=3)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        runs = [os.path.join(directory, "runs", f"run-{i:02}") for i in range(asked.runs)]
        for i, run in enumerate(runs):
            make(asked.run, run, f"run-{i:02}", asked.steps, asked.evaluations, i)
        for _ in range(asked.turns):
            opened, again, size, memory = watch(asked.binary, os.path.join(directory, "runs"))
            print(f"watch, {asked.runs} runs of {asked.steps} steps: opens in {opened:.2f} s (goal 1), again in {again:.2f} s, "
                  f"page {size / 1e6:.2f} MB, memory {memory:.0f} MB (goal 200)")
        ten = runs[:10]
        report = os.path.join(directory, "report.html")
        began = time.monotonic()
        subprocess.run([asked.binary, "report", *ten, "--out", report], check=True, stdout=subprocess.DEVNULL)
        print(f"report of {len(ten)} runs: {os.path.getsize(report) / 1e6:.2f} MB (goal 2), {time.monotonic() - began:.2f} s")


if __name__ == "__main__":
    main()
