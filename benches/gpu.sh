#!/usr/bin/env bash
# Tests and measures on a GPU in one call of at most ten minutes, with binaries that were built without one.
#
#   benches/gpu.sh build OUT     # where there is a compiler: the binary, the device tests and the benchmark, into OUT
#   benches/gpu.sh run OUT       # where there is a GPU: doctor, device tests, figures beside PyTorch's; writes OUT/report.txt
#
# PyTorch and transformers are used where they are installed; without CUDA headers, pip's nvidia-cuda-runtime-cu12 and
# nvidia-cuda-nvrtc-cu12 count once CUDA_PATH and LD_LIBRARY_PATH name them (`hardy doctor` says what is missing, also for bf16 on
# tensor cores). The report has f32 and bf16, and says whether tensor cores were in use; HARDY_PEAKS="67 989" names the GPU's peaks in
# TFLOP/s, of which it then prints the share.
set -euo pipefail
cd "$(dirname "$0")/.."
what=${1:?build or run} out=$(mkdir -p "${2:?a directory}" && cd "$2" && pwd)
devices=${HARDY_DEVICES:-cuda}

build() {
    local features=hardy-cube/cuda,hardy-train/cuda
    cargo build --release -p hardy --features hardy/cuda,hardy/vulkan
    cp target/release/hardy "$out/hardy"
    local artefacts
    artefacts=$(cargo test --release --no-run --message-format json \
        -p hardy-cube -p hardy-train --features "$features" --lib --test device --bench work)
    # The executables that cargo names, one a line.
    printf '%s\n' "$artefacts" | sed -n 's/.*"target":{[^}]*"name":"\([^"]*\)".*"executable":"\([^"]*\)".*/\1 \2/p' |
        while read -r name path; do cp "$path" "$out/$name"; done
    cp benches/peers/compare_gpu.py "$out/"
    ls -l "$out"
}

measure() {
    nvidia-smi || true
    "$out/hardy" doctor || true
    for tests in hardy_cube device; do
        echo "== $tests (CUDA)"
        timeout 100 "$out/$tests" || echo "$tests FAILED"
    done
    for device in $devices; do
        echo "== one step of quickstart's kind ($device)"
        timeout 60 "$out/hardy" eval --model builtin:tiny --data builtin:arith --n 20 --device "$device" || true
    done
    echo "== figures"
    local peaks=()
    [ -z "${HARDY_PEAKS:-}" ] || read -ra peaks <<< "--peak-tflops $HARDY_PEAKS"
    timeout 330 python3 "$out/compare_gpu.py" --work "$out/work" --device "${devices%% *}" "${peaks[@]}" || true
}

case $what in
    build) build ;;
    run) measure 2>&1 | tee "$out/report.txt" ;;
    *) echo "build or run, not $what" >&2; exit 2 ;;
esac
