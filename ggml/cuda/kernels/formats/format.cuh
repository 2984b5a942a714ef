// The format that a module is compiled for, FORMAT. Others are left out: compilers keep the tables of what they do not use.
#pragma once

#define SOURCE_f32 "plain.cuh"
#define SOURCE_f16 "plain.cuh"
#define SOURCE_bf16 "plain.cuh"
#define SOURCE_q4_0 "simple.cuh"
#define SOURCE_q4_1 "simple.cuh"
#define SOURCE_q5_0 "simple.cuh"
#define SOURCE_q5_1 "simple.cuh"
#define SOURCE_q8_0 "simple.cuh"
#define SOURCE_q2_k "k.cuh"
#define SOURCE_q3_k "k.cuh"
#define SOURCE_q4_k "k.cuh"
#define SOURCE_q5_k "k.cuh"
#define SOURCE_q6_k "k.cuh"
#define SOURCE_iq1_s "iq1.cuh"
#define SOURCE_iq1_m "iq1.cuh"
#define SOURCE_iq2_xxs "iq2_xxs.cuh"
#define SOURCE_iq2_xs "iq2_xs.cuh"
#define SOURCE_iq2_s "iq2_s.cuh"
#define SOURCE_iq3_xxs "iq3_xxs.cuh"
#define SOURCE_iq3_s "iq3_s.cuh"
#define SOURCE_iq4_nl "four.cuh"
#define SOURCE_iq4_xs "four.cuh"
#define SOURCE_tq1_0 "ternary.cuh"
#define SOURCE_tq2_0 "ternary.cuh"
#define SOURCE_mxfp4 "four.cuh"
#define SOURCE_nvfp4 "four.cuh"
#define SOURCE_OF_(format) SOURCE_##format
#define SOURCE_OF(format) SOURCE_OF_(format)
#include SOURCE_OF(FORMAT)
