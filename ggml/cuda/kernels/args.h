// What the host hands to kernels: one struct by value each, mirrored field by field in src/cuda/args.rs.
//
// "Row" is a row of the batch unless said otherwise. Lengths are in elements, strides of floats in floats, of bytes in bytes.
// A launch is given as grid x, y, z and threads of a block.
#pragma once

typedef unsigned char u8;
typedef unsigned int u32;
typedef unsigned long long u64;

// Positions of a chunk of the cache, as in src/cache.rs.
#define CHUNK 256

// Rows of floats: element c of row r is at[r * stride + c].
struct View {
    float* at;
    u64 stride;
};

// Heads of rows of floats: element c of head h of row r is at[r * stride + h * head + c].
struct Heads {
    float* at;
    u64 stride;
    u64 head;
};

// Rows of 8-bit activations, as in src/act.rs: rows of k integers, a scale per 32 or 256, the sums of every 16 integers.
struct Q8 {
    signed char* qs;  // [rows, k]
    float* d;         // [rows, k / block]
    short* sums;      // [rows, k / 16]
};

// The batch. Position p of the sequence of row r lies in the chunk at chunks[table[r] + p / CHUNK].
struct Batch {
    const u32* token;
    const u32* pos;
    const u32* table;
    const u32* output;  // [n_outputs]: the rows whose output is wanted
    const u64* chunks;  // device addresses
};

#define CACHE_F32 0
#define CACHE_F16 1
#define CACHE_Q8_0 2
// dim halves, then dim halves of what their rounding has left: not in caches, but in what MLA expands. Values are no prefix of such keys.
#define CACHE_SPLIT 3

// Where in a chunk a layer's rows of keys or values lie: row p of head h at offset + (h * CHUNK + p) * row bytes.
struct CacheRows {
    u64 offset;
    u64 row;
    u32 type;  // CACHE_*
    u32 dim;   // elements of a row
};

// embed_FORMAT: y[r] = the decoded row token[r] of w. Grid rows; 128.
struct EmbedArgs {
    const u8* w;
    u64 row_bytes;
    const u32* token;
    View y;
    u32 k;
};

// select_outputs: y[j] = x[output[j]]. Grid n_outputs; 256.
struct SelectArgs {
    View x;
    View y;
    const u32* output;
    u32 width;
};

// rms_norm: groups of n columns of each row, y = x / sqrt(mean(x^2) + eps) * weight. Grid rows, groups; 256.
// y.at may be null. With one group, q32 and q256 (unless their qs are null) take the result as 8-bit activations.
struct NormArgs {
    View x;
    View y;
    const float* weight;  // [n]
    Q8 q32;
    Q8 q256;
    u32 n;
    float eps;
};

// quantize: row r, head h of x becomes row r * heads + h of q. Grid rows, heads; 256. k is a multiple of block.
struct QuantizeArgs {
    Heads x;
    Q8 q;
    u32 k;
    u32 block;  // 32 or 256
    u32 heads;
};

// rope_table: y[r] = [cos(pos f) scale | sin(pos f) scale]. Grid rows; 64.
struct RopeTableArgs {
    const u32* pos;
    const float* freqs;  // [pairs]
    View y;
    u32 pairs;
    float scale;
};

// rope: rotates the first 2 * pairs columns of each head, copies the rest up to width. y may be x. Grid rows, heads; 64.
struct RopeArgs {
    Heads x;
    Heads y;
    View table;
    u32 pairs;
    u32 width;
    u32 halves;  // 1: pairs are (i, i + pairs), 0: (2i, 2i + 1)
};

// store: encodes head h of row r into the cache row of its position. Grid rows, heads; 64.
struct StoreArgs {
    Heads x;
    CacheRows to;
    Batch batch;
};

// rope_store: heads of q and of k are rotated, the latter in place, and then keys and values stored, where that is all there is between
// projections and attention. Keys may begin before what is rotated of them and end after it. Grid rows, n_q + n_k and n_k again unless values
// are part of the keys; 64.
struct RopeStoreArgs {
    RopeArgs q;
    RopeArgs k;
    StoreArgs store_k;
    StoreArgs store_v;
    u32 n_q;
    u32 n_k;
};

// add: y += x. Grid ceil(n / 256), rows; 256.
struct AddArgs {
    View x;
    View y;
    u32 n;
};

// silu_mul: y = silu(gate) * up, for gates and ups of different formats. Grid ceil(n / 256), rows; 256.
struct SiluMulArgs {
    View gate;
    View up;
    View y;
    u32 n;
};

// Products of N rows with matrices; y[r][o] = bias[o] + sum over k of w[o][k] x[r][k], plus what y holds if add.
// matvec_FORMAT_N and gate_up_FORMAT_N for N in 1, 2, 4, 8 with n_rows <= N. Grid ceil(n_out / MATVEC_OUT), groups; MATVEC_THREADS.
// gate_up: y = silu(x w) * (x w_up), no bias, no add.
// Group g takes matrix m = ids ? ids[g] : g at w + m * matrix_bytes, unless that is SKIPPED: then it does nothing. It reads the activations of row r at
//   8-bit: row r * x_groups + g / x_div of q          (formats with blocks; k a multiple of the block)
//   float: x.at + r * x.stride + (g / x_div) * x.head (F32, F16, BF16)
// and writes y.at + r * y.stride + g * y.head + o.
struct MatvecArgs {
    const u8* w;
    const u8* w_up;
    u64 row_bytes;
    u64 matrix_bytes;
    u64 matrix_bytes_up;
    const u32* ids;
    Q8 q;
    Heads x;
    Heads y;
    const float* bias;  // null: none
    u32 k;
    u32 n_out;
    u32 n_rows;
    u32 x_groups;
    u32 x_div;
    u32 add;
};
#define SKIPPED 0xffffffffu
#define MATVEC_OUT 4
#define MATVEC_THREADS 128

// Products of many rows, matmul_FORMAT: as matvec, or, if w_up is not null, as gate_up, for any number of rows.
// Grid ceil(n_out / MATMUL_OUT), of gate_up ceil(n_out / MATMUL_GATE_UP_OUT), tiles, groups; MATMUL_THREADS.
// Without a grouping (tile_list null) tile t is rows t * MATMUL_ROWS .. of the n_rows, and group g = z is as in matvec.
// With one, z is 1 and tile t < *n_tiles is tile_list[t] = (matrix, first, n): for i < n, the pair p = order[first + i] reads
// activation row p / x_div and writes row p of y. Tiles beyond *n_tiles have nothing to do.
struct Tile {
    u32 matrix;
    u32 first;
    u32 n;
};
struct MatmulArgs {
    MatvecArgs m;
    const struct Tile* tile_list;
    const u32* n_tiles;
    const u32* order;
};
#define MATMUL_OUT 128
#define MATMUL_GATE_UP_OUT 64
#define MATMUL_ROWS 64
#define MATMUL_THREADS 256

// router: logits to the n_used chosen experts and their weights, as in src/ops/router.rs. Grid rows; 32.
// The largest number of experts is 1024.
struct RouterArgs {
    View logits;
    const float* bias;  // null: none
    u32* ids;           // [rows, n_used]
    float* weights;     // [rows, n_used]
    u32 n_expert;
    u32 n_used;
    u32 sigmoid;
    u32 n_groups;  // 1: no groups
    u32 used_groups;
    u32 top2;  // groups are ranked by the sum of their two best, not by the best
    u32 normalize;
    float scale;
};

// group: sorts the pairs (row, choice) by expert, pairs of an expert in ascending order, and cuts each expert's run into tiles of at
// most MATMUL_ROWS. Pairs with SKIPPED for an expert are in no tile. Grid 1; 1024. The same result every time.
struct GroupArgs {
    const u32* ids;  // [n_pairs]
    u32* order;      // [n_pairs]
    struct Tile* tile_list;
    u32* n_tiles;
    u32 n_pairs;
    u32 n_expert;  // at most 1024
};

// cut: the tiles of matrices first .. first + n of a grouping as a grouping of their own, whose matrices are counted from `first`. There is
// room for them. Grid 1; 256.
struct CutArgs {
    const struct Tile* tile_list;
    const u32* n_tiles;
    struct Tile* to;
    u32* n_to;
    u32 first;
    u32 n;
};

// combine: y[r] += sum over j in order of weights[r * n_used + j] * out[r * n_used + j]; where a weight is zero, nothing is read.
// Grid ceil(n / 256), rows; 256.
struct CombineArgs {
    const float* out;  // [rows * n_used, n]
    const float* weights;
    View y;
    u32 n;
    u32 n_used;
};

// Causal attention, as in src/ops/attention.rs. Head h of q reads key/value head h * n_head_kv / n_head.
// k.dim, v.dim <= ATTEND_DIM. If v.row is 0, the value of a row is the first v.dim elements of its key row.
//
// Batches of few rows take attend_few_* and attend_merge. The keys of a row are divided into spans by their number n = pos + 1 alone, so
// that a row has the same result in any batch: span s is keys s * span(n) .. (s + 1) * span(n), where span(n) = ceil(n / MAX_SPANS)
// rounded up to a multiple of MIN_SPAN. So a row has at most MAX_SPANS spans. n_spans may be any number that no row exceeds: the least
// one for the longest row, or MAX_SPANS where the launch is recorded for all lengths. Partial sums are put together by the last block of
// a row to come, which `arrived` counts: zeros before the first launch, and after each. Only attend_few_latent_* leave that to attend_merge.
// Grid n_spans, ceil(n_head / n_head_kv / HEADS) * n_head_kv, rows; ATTEND_THREADS. The first of these that fits, with its HEADS:
//   attend_few_latent_f16   k.dim = 576, v.dim = 512, v.row = 0, k F16              16, dynamic shared memory ATTEND_LATENT_SHARED bytes
//   attend_few_latent_wide  the same, other types                                   16, as well
//   attend_few_f16_64       F16, k.dim and v.dim <= 64 and multiples of 8            8
//   attend_few_f16_128      F16, k.dim and v.dim <= 128 and multiples of 8           8
//   attend_few_q8_0_64      Q8_0, k.dim and v.dim <= 64                              8
//   attend_few_q8_0_128     Q8_0, k.dim and v.dim <= 128                             8
//   attend_few_any                                                                   8
// attend_merge, after attend_few_latent_*: grid n_head, rows; 128.
//
// Prompts take attend_many_*: grid ceil(rows / ROWS), n_head, n_spans; ATTEND_THREADS. Rows of a tile may belong to different sequences.
// n_spans, at most MAX_SPANS, divides the keys where there are few blocks otherwise; it is 1 for *_any. Partial sums and counters are as
// for few rows: where n_spans > 1, there is a counter for every block of the first span.
// The first of these that fits, with its ROWS:
//   attend_many_latent_*  as for few rows; grid rows, ceil(n_head / n_head_kv / 16) * n_head_kv, n_spans
//   attend_many_f16_64   k and v F16, k.dim and v.dim <= 64                         64
//   attend_many_f16_128  k and v F16, k.dim and v.dim <= 128                        64
//   attend_many_wide_64  k.dim and v.dim <= 64                                      64
//   attend_many_wide_128 k.dim and v.dim <= 128                                     64
//   attend_many_wide_192 k.dim <= 192, v.dim <= 128                                 64
//   attend_many_any                                                                  8
#define MAX_SPANS 64
#define MIN_SPAN 64
#define ATTEND_HEADS 8
#define ATTEND_LATENT_HEADS 16
#define ATTEND_LATENT_SHARED 84992
#define ATTEND_ROWS 64
#define ATTEND_ANY_ROWS 8
#define ATTEND_THREADS 128
#define ATTEND_DIM 640
struct AttendArgs {
    Heads q;
    Heads y;
    CacheRows k;
    CacheRows v;
    Batch batch;
    float* partial;  // [rows, n_head, n_spans, v.dim + 2]: the weighted sum of values, the largest score, the sum of weights
    u32* arrived;    // [blocks that share their rows]
    u32 n_spans;
    u32 n_rows;
    u32 n_head;
    u32 n_head_kv;
    float scale;
};

// mla_expand: keys and values of heads first_head .. first_head + n_heads from cached latents, into CACHE_SPLIT rows laid out as a chunk
// with n_heads heads: keys [k_up c | r], values v_up c, of positions 0 .. n_pos of the sequence whose chunks begin at table0.
// The chunk c of the expanded rows begins at out + c * out_chunk bytes, keys at 0, values at out_v.
// Grid ceil(n_pos / EXPAND_ROWS), ceil((n_nope + n_v) / EXPAND_OUT), n_heads; 128.
// Matrices are decoded to F32 before: rows k_up[head] are [n_nope, rank] floats, v_up[head] [n_v, rank], of all heads.
#define EXPAND_ROWS 64
#define EXPAND_OUT 64
struct MlaExpandArgs {
    CacheRows latent;  // dim = rank + n_rope
    const u64* chunks;
    const float* k_up;
    const float* v_up;
    u8* out;
    u64 out_chunk;
    u64 out_v;
    u32 table0;
    u32 n_pos;
    u32 first_head;
    u32 n_heads;
    u32 rank;
    u32 n_nope;
    u32 n_rope;
    u32 n_v;
};

// sum_squares: adds squares to groups, as in src/ops/tally.rs, always in the same order: sums[g][c] += x^2, counts[g] += 1.
// Without ids head h belongs to group h. With them, choice j of row r belongs to group ids[r * n_used + j] and is head j, or
// head 0 if there is only one. Grid ceil(width / 128), groups; 128.
struct SumSquaresArgs {
    Heads x;
    const u32* ids;  // [rows, n_used], or null
    double* sums;    // [groups, width]
    u64* counts;     // [groups]
    u32 width;
    u32 heads;
    u32 n_used;
    u32 n_rows;
};

// measure_read: reads n times 16 bytes. Grid any; 256. `never` is a number that the sum is not.
struct MeasureReadArgs {
    const struct uint4* at;
    u32* out;
    u64 n;
    u32 never;
};

// measure_mma: each warp multiplies 8 * rounds tiles of 16 x 32 by 32 x 8 bytes. Grid any; 256.
struct MeasureMmaArgs {
    u32* out;
    u32 rounds;
    u32 never;
};
