#!/usr/bin/env bash
# Builds what a machine with a GPU needs to test and measure, for device.sh there: the binary and two tests, in target/device.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
out=target/device
mkdir -p "$out"
cargo build --release --locked
cp target/release/fathom "$out/fathom"
# test package name
test_binary() {
    cargo test -p "$1" --test "$2" --no-run --locked --message-format=json 2>/dev/null |
        grep -o '"executable":"[^"]*"' | cut -d '"' -f 4 | tail -n 1
}
cp "$(test_binary ggml-sys conformance)" "$out/conformance"
cp "$(test_binary models cuda)" "$out/models"
strip "$out"/{fathom,conformance,models}
# Tests look for fixtures where they were built.
pwd >"$out/root"
du -sh "$out"
