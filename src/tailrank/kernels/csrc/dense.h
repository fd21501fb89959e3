// Dense arithmetic of small batches: what one instruction set offers to the code above it.
//
// This header holds declarations and plain structs only, for it is included by files that are
// compiled for different instruction sets.
//
// Legend: B rows, K inputs, N outputs, F vectors, D dim.
#pragma once

#include <cstddef>
#include <cstdint>

namespace tailrank {

// The instruction sets of `isa.h`; AVX-512 that multiplies bytes (VNNI); that and products of bf16
// pairs as the widest.
enum class DenseIsa : int { portable = 0, avx2 = 1, avx512 = 2, avx512_vnni = 3, avx512_bf16 = 4 };

enum class DenseFormat : int { fp32 = 0, bf16 = 1, int8 = 2 };

// A row of int8 codes q stands for scale * (q - zero). The scale is NaN where a number was not finite.
struct RowScale {
  float scale;
  std::int32_t zero;
};

// y = act(x . W + initial): one layer on a block of rows.
//
// `x` holds floats, or bf16 whose rows end with zeros up to an even width, or codes with their
// `row_scales`. `packed` is what `pack_linear` wrote. Each row starts from `initial + initial_row[b] * initial_stride`, or from
// `initial` itself where `initial_row` is null: a bias, or what the user's share of the layer gave.
// Rows of `initial` and of the outputs are `padded_outputs` wide. The sum of a part of K is kept in
// `sums_BN`; in bf16, `y_bf16` receives the result as bf16 where it is not null.
struct LinearCall {
  const void* x;
  std::ptrdiff_t x_stride;  // in elements
  const RowScale* row_scales;
  std::int64_t num_rows;
  const void* packed;
  int num_inputs;
  int num_outputs;
  const float* initial;
  const std::int64_t* initial_row;
  std::ptrdiff_t initial_stride;
  float* sums_BN;
  std::ptrdiff_t sums_stride;
  std::uint16_t* y_bf16;
  std::ptrdiff_t y_bf16_stride;
  bool rectify;
};

// Dot products of vector i with every vector before it, for i from `first` to `count` - 1, one row
// of the lower triangle after the other. `work` has room for (D + 8) times as many floats as there
// are vectors, rounded up to 16.
struct InteractionCall {
  const float* const* vectors_F;
  int count;
  int first;
  int dim;
  float* work;
  float* out;
};

// One step of a gated recurrent unit for rows whose states are changed in place: h' = (1 - a u) h +
// a u c with u = sigmoid(x_u + U_u h), r = sigmoid(x_r + U_r h), c = tanh(x_c + r U_c h).
//
// `x` holds x_u, x_r and x_c of each place, of which row i takes number `place_R[i]`; rows of
// `of_state` hold U_u h, U_r h and U_c h. `scale_R` holds each row's a; null: all 1.
struct GruStep {
  const float* x;
  const std::int64_t* place_R;
  const float* scale_R;
  const float* of_state;
  std::ptrdiff_t of_state_stride;
  float* state;
  std::ptrdiff_t state_stride;
  std::int64_t num_rows;
  int hidden;
};

// x = p x + (1 - p) slope x in place, after a row of `added`, where there is any, was added to each.
// With `scale`, p = sigmoid(scale x + shift) (Dice); without, p is 1 above 0 and 0 elsewhere (PReLU).
// Rows, and what belongs to their columns, have room for whole registers.
struct ActivationCall {
  float* x;
  std::ptrdiff_t x_stride;
  std::int64_t num_rows;
  int width;
  const float* added;
  const std::int64_t* added_row;
  std::ptrdiff_t added_stride;
  const float* slope;
  const float* scale;
  const float* shift;
};

// C = A . B + initial. A lies in any order; rows of B are contiguous and end with whole registers,
// of which columns beyond `num_columns` are read and not used. `initial` is a row, or null for 0.
struct ProductCall {
  const float* a;
  std::ptrdiff_t a_row_stride, a_inner_stride;
  const float* b;
  std::ptrdiff_t b_stride;
  const float* initial;
  float* c;
  std::ptrdiff_t c_stride;
  std::int64_t num_rows, num_inner;
  int num_columns;
};

struct DenseKernels {
  int lanes;  // floats of a vector register, and what widths are padded to
  std::size_t (*packed_bytes)(DenseFormat format, int num_inputs, int num_outputs);
  void (*pack_linear)(DenseFormat format, const float* weight_NK, std::ptrdiff_t weight_stride,
                      int num_inputs, int num_outputs, void* packed);
  void (*linear)(DenseFormat format, const LinearCall& call);
  void (*interact)(const InteractionCall& call);
  void (*to_bf16)(const float* x_BK, std::ptrdiff_t x_stride, std::int64_t num_rows, int width,
                  std::uint16_t* out, std::ptrdiff_t out_stride);
  // Rows of `out` have room for a multiple of 16 codes.
  void (*to_int8)(const float* x_BK, std::ptrdiff_t x_stride, std::int64_t num_rows, int width,
                  std::uint8_t* out, std::ptrdiff_t out_stride, RowScale* row_scales);
  void (*gru_step)(const GruStep& call);
  void (*activate)(const ActivationCall& call);
  void (*product)(const ProductCall& call);
};

namespace portable { extern const DenseKernels kDense; }
namespace avx2 { extern const DenseKernels kDense; }
namespace avx512 { extern const DenseKernels kDense; }
namespace avx512_vnni { extern const DenseKernels kDense; }
namespace avx512_bf16 { extern const DenseKernels kDense; }

}  // namespace tailrank
