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

template <bool GATE_UP>
DEVICE void many(const MatmulArgs& a) {
    if constexpr (is_plain<Format>)
        matmul_plain<Format, GATE_UP>(a);
    else
        matmul<Format, GATE_UP>(a);
}
KERNEL_OCCUPANCY(CAT(matmul_, FORMAT), MATMUL_THREADS, 2, MatmulArgs) { many<false>(a); }
KERNEL_OCCUPANCY(CAT(matmul_gate_up_, FORMAT), MATMUL_THREADS, 2, MatmulArgs) { many<true>(a); }
