// Rotary position embeddings.
#include "rope.cuh"

// The angle is a product of floats, as in the implementations that models are trained and compared with. It may be a hundred thousand
// radians: cosf would then take its slow way through local memory, and there are few enough angles for doubles.
KERNEL(rope_table, 64, RopeTableArgs) {
    float* y = a.y.at + blockIdx.x * a.y.stride;
    const float pos = (float)a.pos[blockIdx.x];
    for (u32 i = threadIdx.x; i < a.pairs; i += blockDim.x) {
        double s, c;
        sincos((double)(pos * a.freqs[i]), &s, &c);
        y[i] = (float)c * a.scale;
        y[a.pairs + i] = (float)s * a.scale;
    }
}

KERNEL(rope, 64, RopeArgs) { rope_head(a, blockIdx.x, blockIdx.y); }
