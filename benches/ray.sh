#!/usr/bin/env bash
# A suite on a real Ray of two nodes on this machine, one of which is killed in the midst of it, held against the same suite made
# here; then a suite that is cut off on Ray and finished here. Ports and directories are its own.
#
# HARDY=target/release/hardy RAY=/path/to/venv/bin/ray benches/ray.sh [DIRECTORY]
set -euo pipefail
hardy=$(realpath "${HARDY:-target/release/hardy}") ray=${RAY:-ray} work=${1:-$(mktemp -d)}
head=6391 dashboard=8268 steps=${STEPS:-40}
export RAY_USAGE_STATS_ENABLED=0 RAY_DISABLE_IMPORT_WARNING=1
mkdir -p "$work" && cd "$work"

for name in clean noise; do
    cat > $name.toml <<TOML
name = "$name"
[model]
path = "builtin:tiny"
[train]
steps = $steps
prompts_per_step = 8
learning_rate = 3e-4
[eval]
n = 50
every = 0
noise_levels = [0.0, 0.05]
[checkpoint]
every = 2
TOML
done
printf '[[noise]]\nerror = { kind = "relative_gaussian", scale = 0.1 }\nops = ["linear"]\n' >> noise.toml
printf 'name = "small"\npresets = ["clean.toml", "noise.toml"]\nseeds = [0, 1]\nbaseline = "clean.toml"\n' > small.toml

# Every node in a session of its own, so that a node is killed with all that it started.
node() {
    setsid "$ray" start --block --disable-usage-stats "$@" > "node-${#nodes[@]}.log" 2>&1 &
    nodes+=($!)
}
nodes=()
# What a node started has sessions of its own in part, and all have the node's directory in their command lines.
end() {
    for node in "${nodes[@]}"; do kill -KILL -- "-$node" 2> /dev/null || true; done
    pgrep -f -- "$work/ray" | xargs -r kill -KILL 2> /dev/null || true
}
trap end EXIT
node --head --port=$head --dashboard-port=$dashboard --num-cpus=1 --temp-dir="$work/ray" --node-ip-address=127.0.0.1
until curl -sf "http://127.0.0.1:$dashboard/api/version" > /dev/null; do sleep 1; done
node --address=127.0.0.1:$head --num-cpus=1 --node-name=other
until "$ray" status --address=127.0.0.1:$head 2> /dev/null | grep -q '/2.0 CPU'; do sleep 1; done

on=("$hardy" suite small.toml --on "ray://127.0.0.1:$dashboard" --jobs 2 --hardy "$hardy")

echo "== a node is killed in the midst"
(until compgen -G 'there/*/*/checkpoints/step-000004' > /dev/null; do sleep 0.2; done
 sleep 1; kill -KILL -- "-${nodes[1]}"; echo "killed the second node") &
"${on[@]}" --out there > there.txt 2> there.log || { cat there.log; exit 1; }
grep -E 'goes on as another|finished, ' there.log
"$hardy" suite small.toml --out here --jobs 2 > here.txt 2> here.log
cmp here/table.json there/table.json && cmp here/table.md there/table.md && echo "the tables are equal to the byte"

echo "== a suite is cut off on Ray and finished here"
"${on[@]}" --out cut > cut.txt 2> cut.log & suite=$!
until grep -q 'finished, 1 of' cut.log; do sleep 0.2; done
kill -INT $suite; wait $suite || echo "it ended with exit code $?: $(tail -1 cut.log)"
"$hardy" suite small.toml --out cut --jobs 2 > cut.txt 2> cut-here.log
cmp here/table.json cut/table.json && echo "the tables are equal to the byte"

echo "== a job that no node can take"
"${on[@]}" --out never --gpus 1 --start-timeout 10 2> never.log || echo "it ended with exit code $?: $(tail -1 never.log)"

echo "== Ray is gone"
end
timeout 120 "$hardy" suite small.toml --out gone --on "ray://127.0.0.1:$dashboard" --hardy "$hardy" 2> gone.log || echo "it ended with exit code $?: $(tail -1 gone.log)"
