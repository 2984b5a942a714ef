// The kernels of one format, FORMAT: its module.
#include "embed.cuh"
#include "matmul.cuh"
#include "matmul_plain.cuh"
#include "matvec.cuh"

typedef FORMAT Format;

KERNEL(CAT(embed_, FORMAT), 128, EmbedArgs) { embed<Format>(a); }

#define MATVEC(N)                                                                                       \
    KERNEL(CAT(CAT3(matvec_, FORMAT, _), N), MATVEC_THREADS, MatvecArgs) { matvec<Format, N, false>(a); } \
    KERNEL(CAT(CAT3(gate_up_, FORMAT, _), N), MATVEC_THREADS, MatvecArgs) { matvec<Format, N, true>(a); }
MATVEC(1)
MATVEC(2)
MATVEC(4)
MATVEC(8)

KERNEL_OCCUPANCY(CAT(matmul_, FORMAT), MATMUL_THREADS, 2, MatmulArgs) {
    if constexpr (Format::PLAIN)
        matmul_plain<Format>(a);
    else
        matmul<Format>(a);
}
