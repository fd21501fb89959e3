// The dot interaction: products of every pair of vectors.
//
// Legend: F vectors, D dim.

#include "dense.h"

namespace tailrank::TAILRANK_ISA {
namespace {

// Columns 0, L, 1, L + 1, ... of two registers side by side, from the given half of each.
inline vec interleaved(vec a, vec b, int half) {
  ivec order{};
  for (int lane = 0; lane < L; ++lane) order[lane] = half * L / 2 + lane / 2 + lane % 2 * L;
  return __builtin_shuffle(a, b, order);
}

// An L x L square: after each round, a register holds twice as many neighbours of one column.
inline void transpose(vec (&square)[L]) {
#pragma GCC unroll 4
  for (int round = 1; round < L; round *= 2) {
    vec mixed[L];
#pragma GCC unroll 16
    for (int row = 0; row < L / 2; ++row) {
      mixed[2 * row] = interleaved(square[row], square[row + L / 2], 0);
      mixed[2 * row + 1] = interleaved(square[row], square[row + L / 2], 1);
    }
#pragma GCC unroll 16
    for (int row = 0; row < L; ++row) square[row] = mixed[row];
  }
}

// Panels of L vectors, dim after dim.
void transpose_vectors(const InteractionCall& call) {
  for (int f = 0; f < call.count; f += L)
    for (int d = 0; d < call.dim; d += L) {
      const int dims = call.dim - d < L ? call.dim - d : L;
      vec square[L];
#pragma GCC unroll 16
      for (int i = 0; i < L; ++i) {
        if (f + i >= call.count)
          square[i] = vec{};
        else if (dims == L)
          square[i] = load<vec>(call.vectors_F[f + i] + d);
        else
          square[i] = load_first(call.vectors_F[f + i] + d, dims);
      }
      transpose(square);
      float* out = call.work + (std::ptrdiff_t{f} * call.dim) + d * L;
#pragma GCC unroll 16
      for (int i = 0; i < L; ++i)
        if (i < dims) store(out + i * L, square[i]);
    }
}

constexpr int kDotRows = 8;

// Products of vectors `row` to `row + ROWS - 1` with the L vectors of one panel.
template <int ROWS>
void dot_tile(const float* const* vectors, const float* panel, int dim, float* out,
              std::ptrdiff_t out_stride) {
  vec sums[ROWS];
#pragma GCC unroll 8
  for (int r = 0; r < ROWS; ++r) sums[r] = vec{};
  for (int d = 0; d < dim; ++d) {
    const vec column = load<vec>(panel + std::ptrdiff_t{d} * L);
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r) sums[r] += broadcast(vectors[r][d]) * column;
  }
#pragma GCC unroll 8
  for (int r = 0; r < ROWS; ++r) store(out + r * out_stride, sums[r]);
}

template <int ROWS>
void dot_rows(const float* const* vectors, const float* panel, int dim, float* out,
              std::ptrdiff_t out_stride, int rows) {
  if constexpr (ROWS > 0) {
    if (rows == ROWS) return dot_tile<ROWS>(vectors, panel, dim, out, out_stride);
    dot_rows<ROWS - 1>(vectors, panel, dim, out, out_stride, rows);
  }
}

void interact(const InteractionCall& call) {
  transpose_vectors(call);
  const std::ptrdiff_t stride = vectors_of(call.count) * L;
  float* products = call.work + stride * call.dim;
  float* out = call.out;
  const float* end = out + (call.count * (call.count - 1) - call.first * (call.first - 1)) / 2;
  for (int row = call.first; row < call.count; row += kDotRows) {
    const int rows = call.count - row < kDotRows ? call.count - row : kDotRows;
    for (int column = 0; column < row + rows; column += L)
      dot_rows<kDotRows>(call.vectors_F + row, call.work + std::ptrdiff_t{column} * call.dim,
                         call.dim, products + column, stride, rows);
    // A whole register is stored even where fewer products belong to the row: the rows after it
    // come later and start where it ends.
    for (int r = 0; r < rows; out += row + r, ++r)
      for (int column = 0; column < row + r; column += L) {
        const float* from = products + r * stride + column;
        float* to = out + column;
        if (end - to >= L)
          store(to, load<vec>(from));
        else
          for (int i = 0; column + i < row + r; ++i) to[i] = from[i];
      }
  }
}

}  // namespace
}  // namespace tailrank::TAILRANK_ISA
