// All formats. A module is compiled for one of them, FORMAT.
#pragma once

#include <type_traits>

#include "four.cuh"
#include "grid.cuh"
#include "k.cuh"
#include "plain.cuh"
#include "simple.cuh"
#include "ternary.cuh"

template <class F>
constexpr bool is_plain = std::is_same<F, f32>::value || std::is_same<F, f16>::value || std::is_same<F, bf16>::value;
