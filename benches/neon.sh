#!/bin/sh
# The unit tests of hardy-numerics and hardy-ops on ARM's NEON, emulated: cross-compiled for aarch64, run by qemu-user.
#
#     sh benches/neon.sh             # says what is missing, else runs the tests
#     sh benches/neon.sh --install   # first installs, as root: the Rust target aarch64-unknown-linux-gnu (by rustup),
#                                    # gcc-aarch64-linux-gnu, libc6-dev-arm64-cross and qemu-user (by apt-get)
#     sh benches/neon.sh --debian    # installs Debian's rustc-web with its arm64 library instead of the target of rustup's,
#                                    # and compiles with that
#
# Compiling takes some minutes, and emulated tests ten times as long as others; names of tests may follow, such as `gemm`.
set -eu
cd "$(dirname "$0")/.."
target=aarch64-unknown-linux-gnu

emulator="gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user"
case "${1:-}" in
--install)
    shift
    rustup target add $target
    apt-get install -y --no-install-recommends $emulator
    ;;
--debian)
    shift
    dpkg --add-architecture arm64
    apt-get update
    apt-get install -y --no-install-recommends rustc-web cargo-web libstd-rust-web-dev:arm64 $emulator
    # Debian's before rustup's, wherever that is.
    export PATH="/usr/bin:$PATH"
    ;;
esac
for program in aarch64-linux-gnu-gcc qemu-aarch64; do
    command -v $program >/dev/null || { echo "$program is not here; see the head of $0" >&2; exit 1; }
done

# Debian's arm64 packages bring a C library beside the cross-compiler's: the loader of one with the library of the other never
# starts a thread.
[ -e /lib/ld-linux-aarch64.so.1 ] && library=/ || library=/usr/aarch64-linux-gnu
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="qemu-aarch64 -L $library"
export CC_aarch64_unknown_linux_gnu=aarch64-linux-gnu-gcc
# Fewer tries of tests that try many values.
export PROPTEST_CASES="${PROPTEST_CASES:-16}"
# The long statistical tests say nothing about a SIMD level, and are left to the processor itself.
cargo test --target $target -p hardy-numerics --lib -- "$@" --skip moments_and_tails --skip within_two_ulp \
    --skip over_half_a_turn --skip uncorrelated
cargo test --target $target -p hardy-ops --lib --tests -- "$@"
