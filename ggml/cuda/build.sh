#!/usr/bin/env bash
# Compiles the kernels to PTX: one module for each .cu, and of format.cu one for each format.
#
#   NVCC=/path/to/nvcc ggml/cuda/build.sh [FOLDER]     FOLDER: where to; ggml/cuda/ptx if not given
#   PTXAS="/path/to/ptxas ..." as well: assembles every module with each of them, for each of ARCHS="sm_80 sm_86 sm_90", and lists
#   what kernels take of registers and memory
#
# The text in ptx/ is by nvcc 13.0 (wheels nvidia-cuda-nvcc, -nvvm, -crt, -runtime and -cccl, 13.0.*); the same compiler gives the same
# bytes. Kernels are for compute capability 8.0 and use nothing beyond PTX 7.0, so the version that the compiler writes is lowered for
# the sake of older drivers.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
nvcc=${NVCC:-nvcc}
out=$(mkdir -p "${1:-$here/ptx}" && cd "${1:-$here/ptx}" && pwd)
cd "$here/kernels"

# module source [format]
modules() {
    local source format
    for source in *.cu; do
        if [ "$source" = format.cu ]; then
            while read -r format; do echo "$format $source $format"; done <formats/list.txt
        else
            echo "${source%.cu} $source"
        fi
    done
}

compile() {
    local module=$1 source=$2 format=${3:-}
    "$nvcc" -O3 -std=c++17 --ptx -arch=compute_80 ${format:+-DFORMAT=$format} "$source" -o "$out/$module.part"
    # The version, and a hint of later ones; what depends on the folder, in names of static variables; comments and what else only makes
    # the text longer.
    sed -E -e '0,/^\.version .*/s//.version 7.0/' -e 's/_INTERNAL_[0-9a-f]{8}_([0-9]+_[a-z0-9_]+_cu)_[0-9a-f]{8}/\1/g' \
        -e '/^[[:space:]]*\.pragma "used_bytes_mask/d' -e '\,^[[:space:]]*//,d' -e '/^$/d' -e 's/^\t//' "$out/$module.part" >"$out/$module.ptx"
    rm "$out/$module.part"
}

assemble() {
    local ptxas=$1 arch=$2 module=$3 report
    report=$("$ptxas" -v -arch="$arch" "$out/$module.ptx" -o /dev/null 2>&1) || { echo "$report" >&2; exit 1; }
    # kernel, architecture, registers, bytes of stack, bytes of static shared memory
    awk -v arch="$arch" '
        /Compiling entry function/ { split($0, q, "\047"); name = q[2] }
        /bytes stack frame/ { stack = $1 == "ptxas" ? $5 : $1; sub(/^ */, "", stack) }
        /Used [0-9]+ registers/ {
            match($0, /Used [0-9]+/); registers = substr($0, RSTART + 5, RLENGTH - 5); shared = 0
            if (match($0, /[0-9]+ bytes smem/)) shared = substr($0, RSTART, RLENGTH) + 0
            printf "%-36s %s %4d registers %5d stack %6d shared\n", name, arch, registers, stack, shared
        }' <<<"$report"
}
export -f compile assemble
export nvcc out

jobs=$(nproc)
modules | xargs -P "$jobs" -L 1 bash -euo pipefail -c 'compile "$@"' compile
for ptxas in ${PTXAS:-}; do
    for arch in ${ARCHS:-sm_80 sm_86 sm_90}; do
        modules | cut -d ' ' -f 1 | xargs -P "$jobs" -L 1 bash -euo pipefail -c 'assemble "$@"' assemble "$ptxas" "$arch" | sort
    done
done
# What is no longer made.
for file in "$out"/*.ptx; do
    modules | cut -d ' ' -f 1 | grep -qx "$(basename "$file" .ptx)" || rm "$file"
done
