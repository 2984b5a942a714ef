// What the kernels of attention share.
//
// Scores are kept in units of log2(e), so that weights are powers of two of their differences.
#pragma once

#include "intrin.cuh"

#define LOG2_E 1.44269504088896341f

// A number of keys divided into spans: positions in each.
DEVICE u32 attend_span(u32 n) {
    const u32 least = (n + MAX_SPANS - 1) / MAX_SPANS;
    return max((u32)MIN_SPAN, (least + MIN_SPAN - 1) / MIN_SPAN * MIN_SPAN);
}

// Rows of values as those of keys are described.
DEVICE CacheRows attend_values(const AttendArgs& a) {
    CacheRows v = a.v;
    if (v.row == 0) {
        v = a.k;
        v.dim = a.v.dim;
    }
    return v;
}

// The row of a position; those after it in its chunk follow.
DEVICE const u8* attend_row(const AttendArgs& a, const CacheRows& rows, u32 table, u32 kv, u32 pos) {
    const u8* chunk = (const u8*)__ldg(a.batch.chunks + table + pos / CHUNK);
    return chunk + rows.offset + (u64)(kv * CHUNK + pos % CHUNK) * rows.row;
}

DEVICE float attend_element(const u8* row, u32 type, u32 c) {
    if (type == CACHE_F32) return ((const float*)row)[c];
    if (type == CACHE_F16) return half_to_float(((const u16*)row)[c]);
    const u8* block = row + c / 32 * 34;
    return half_to_float(*(const u16*)block) * (float)((const s8*)block)[2 + c % 32];
}

DEVICE const float* attend_query(const AttendArgs& a, u32 row, u32 head) {
    return a.q.at + row * a.q.stride + head * a.q.head;
}

// Where span s of a head of a row leaves its sums: v.dim weighted values, the largest score, the sum of weights.
DEVICE float* attend_partial(const AttendArgs& a, u32 row, u32 head, u32 span) {
    return a.partial + (((u64)row * a.n_head + head) * a.n_spans + span) * (a.v.dim + 2);
}

// 2^(x - most), 0 where nothing has been seen.
DEVICE float attend_weight(float x, float most) { return most == -INFINITY ? 0.0f : exp2f(x - most); }
