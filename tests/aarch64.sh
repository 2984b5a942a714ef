#!/bin/sh
# Runs the unit tests as aarch64 under qemu, once for each feature level that the kernels' dispatch knows.
#
#   tests/aarch64.sh [CARGO TEST ARGUMENTS]      default: -p ggml-sys --lib
#
# It installs nothing. It needs
#   - a rustc with the standard library of aarch64-unknown-linux-gnu: `rustup target add aarch64-unknown-linux-gnu`,
#     or Debian's rustc-web with libstd-rust-web-dev:arm64 (RUSTC names another rustc than the default);
#   - a linker for it: Debian's gcc-aarch64-linux-gnu (LINKER, default aarch64-linux-gnu-gcc);
#   - qemu's user mode: Debian's qemu-user-static (QEMU, default qemu-aarch64-static), with the C library of
#     the target in QEMU_LD_PREFIX (default /usr/aarch64-linux-gnu, where Debian's libc6-arm64-cross has it).
# CPUS lists the processors: by default one without dot products, one with, and everything qemu has.
set -eu
cd "$(dirname "$0")/.."

target=aarch64-unknown-linux-gnu
RUSTC=${RUSTC:-rustc}
LINKER=${LINKER:-aarch64-linux-gnu-gcc}
QEMU=${QEMU:-qemu-aarch64-static}
CPUS=${CPUS:-cortex-a72 neoverse-n1 max}
export RUSTC QEMU_LD_PREFIX="${QEMU_LD_PREFIX:-/usr/aarch64-linux-gnu}"

missing() {
    echo "aarch64.sh: $1; see the head of this script" >&2
    exit 2
}
command -v "$LINKER" >/dev/null || missing "no linker $LINKER"
command -v "$QEMU" >/dev/null || missing "no emulator $QEMU"
libdir=$("$RUSTC" --print target-libdir --target $target) || missing "no compiler $RUSTC"
ls "$libdir"/libstd-*.rlib >/dev/null 2>&1 || missing "$RUSTC has no standard library for $target"

[ $# -gt 0 ] || set -- -p ggml-sys --lib
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER="$LINKER"
for cpu in $CPUS; do
    echo "== $cpu"
    CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="$QEMU -cpu $cpu" \
        cargo test --target $target --target-dir target/aarch64 "$@"
done
