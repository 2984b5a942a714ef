#!/usr/bin/env bash
# Tests and measures CUDA on a machine with a GPU. Builds nothing: pack.sh has made target/device before, on a machine with Rust.
#
#   ggml/cuda/device.sh [tests|races|bench]...      all of them if none is named
#   LLAMA_BENCH=/path/to/llama-bench MODELS=folder  as well: measures llama.cpp on the same device with the files in the folder
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
bin=$PWD/target/device
root=$(<"$bin/root")
[ -e "$root" ] || { mkdir -p "$(dirname "$root")" && ln -s "$PWD" "$root"; }
export FATHOM_CUDA_DRIVER=${FATHOM_CUDA_DRIVER:-libcuda.so.1} FATHOM_BACKENDS=cuda
failed=0
step() {
    printf '\n== %s\n' "$*"
    "$@" && return
    failed=1
    echo "FAILED: $*"
    return 1
}

tests() {
    step "$bin/fathom" show --devices
    # Paths of fixtures are relative to the packages.
    (cd ggml && step "$bin/conformance" --test-threads 4) || failed=1
    (cd models && step "$bin/models" --test-threads 2) || failed=1
}

# Races between threads, which the simulator does not see.
races() {
    local sanitizer
    sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda*/bin/compute-sanitizer 2>/dev/null | head -n 1)
    [ -n "$sanitizer" ] || { echo "there is no compute-sanitizer"; return; }
    for tool in racecheck synccheck memcheck; do
        for name in rotations norms squares mla_in_its eight_bits experts_in_every experts_come linear_with; do
            # Of a pipe the status is that of the step: it runs in a shell of its own.
            (cd ggml && step "$sanitizer" --tool "$tool" --error-exitcode 1 "$bin/conformance" "$name" --test-threads 1 | tail -n 12) || failed=1
        done
    done
}

bench() {
    local run=("$bin/fathom" -q bench -r 5)
    step "${run[@]}" --shape qwen2-7b --mix f16 -p 512 -n 128
    step "${run[@]}" --shape qwen2-7b --mix q4_k_m -p 512,4096 -n 128
    step "${run[@]}" --shape qwen2-1.5b --mix q4_k_m -p 512 -n 128
    step "${run[@]}" --shape deepseek2-lite --mix q4_k_m -p 512,4096 -n 128
    step "${run[@]}" --shape r1-slice --mix q4_k_m --cpu-moe -p 256 -n 64
    # Experts of prompts computed by the processor, and sent to the device.
    local sent
    for sent in never 32 auto; do
        step "${run[@]}" --shape deepseek2-lite --mix q4_k_m --cpu-moe -ub 2048 -p 64,128,256,512,1024,2048 -n 0 --stream-experts "$sent"
        step "${run[@]}" --shape r1-slice --mix q4_k_m --cpu-moe -ub 2048 -p 512,1024,2048 -n 0 --stream-experts "$sent"
    done
    # Experts of answers computed by the processor, and in slots on the device: some of 1664, and all.
    local slots
    for slots in 0 400 auto; do
        step "${run[@]}" --shape deepseek2-lite --mix q4_k_m --cpu-moe -p 0 -n 128 --expert-slots "$slots"
    done
    if [ -n "${LLAMA_BENCH:-}" ]; then
        for file in "${MODELS:-.}"/*.gguf; do
            step "$LLAMA_BENCH" -m "$file" -ngl 99 -p 512,4096 -n 128 -r 5
        done
    fi
}

[ $# -gt 0 ] || set -- tests races bench
for part in "$@"; do "$part"; done
exit $failed
