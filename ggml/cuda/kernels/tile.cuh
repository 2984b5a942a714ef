// What a block of a product of many rows works on: MATMUL_ROWS rows of activations, and MATMUL_OUT rows of weights; of gate and up in
// turns of 16, so that a thread has both of an output.
#pragma once

#include "products.cuh"

#define NO_ROW 0xffffffffu

struct Rows {
    u32 n;       // how many of the tile there are
    u32 matrix;
};

// Fills in which activations each row of the tile has, and which row of y it is. False if the tile is empty.
DEVICE bool find_rows(const MatmulArgs& a, u32 (&x_row)[MATMUL_ROWS], u32 (&y_row)[MATMUL_ROWS], Rows& rows) {
    const u32 i = threadIdx.x;
    if (a.tile_list) {
        if (blockIdx.y >= __ldg(a.n_tiles)) return false;
        const Tile tile = a.tile_list[blockIdx.y];
        rows = {tile.n, tile.matrix};
        if (i < MATMUL_ROWS) {
            const u32 pair = i < tile.n ? __ldg(a.order + tile.first + i) : 0;
            x_row[i] = i < tile.n ? pair / a.m.x_div : NO_ROW;
            y_row[i] = pair;
        }
    } else {
        const u32 group = blockIdx.z, first = blockIdx.y * MATMUL_ROWS;
        rows = {min(a.m.n_rows - first, u32(MATMUL_ROWS)), a.m.ids ? __ldg(a.m.ids + group) : group};
        if (i < MATMUL_ROWS) {
            x_row[i] = i < rows.n ? (first + i) * a.m.x_groups + group / a.m.x_div : NO_ROW;
            y_row[i] = first + i;
        }
    }
    return true;
}

// The weights of row i of the tile; beyond n_out the last ones again.
DEVICE const u8* weight_row(const MatvecArgs& m, u32 matrix, u32 i) {
    if (!m.w_up) {
        const u32 out = min(blockIdx.x * MATMUL_OUT + i, m.n_out - 1);
        return m.w + matrix * m.matrix_bytes + out * m.row_bytes;
    }
    const u32 out = min(blockIdx.x * MATMUL_GATE_UP_OUT + i / 32 * 16 + i % 16, m.n_out - 1);
    return (i & 16 ? m.w_up + matrix * m.matrix_bytes_up : m.w + matrix * m.matrix_bytes) + out * m.row_bytes;
}

// A warp has rows 32 (warp % 4) .. + 32 of weights in two tiles of 16, and rows 32 (warp / 4) .. + 32 of activations in four of 8.
// Its sums go to y; v[m][n] is tile m, n as mma lays it out.
DEVICE void write_tile(const MatvecArgs& a, const u32 (&y_row)[MATMUL_ROWS], u32 n_rows, const float (&v)[2][4][4]) {
    const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;
    float* y = a.y.at + (blockIdx.z * a.y.head);
#pragma unroll
    for (int n = 0; n < 4; n++) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const u32 row = warp / 4 * 32 + n * 8 + 2 * t + i % 2;
            if (row >= n_rows) continue;
            float* to = y + y_row[row] * a.y.stride;
            if (a.w_up) {
                const u32 out = blockIdx.x * MATMUL_GATE_UP_OUT + warp % 4 * 16 + g + i / 2 * 8;
                if (out < a.n_out) to[out] = silu(v[0][n][i]) * v[1][n][i];
            } else {
#pragma unroll
                for (int m = 0; m < 2; m++) {
                    const u32 out = blockIdx.x * MATMUL_OUT + warp % 4 * 32 + m * 16 + g + i / 2 * 8;
                    if (out >= a.n_out) continue;
                    float sum = v[m][n][i];
                    if (a.bias) sum += __ldg(a.bias + out);
                    if (a.add) sum += to[out];
                    to[out] = sum;
                }
            }
        }
    }
}
