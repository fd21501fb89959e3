// A matrix product C = A . B + initial whose A may lie in any order: the three products of a layer in
// training, forward, by its inputs and by its weights, without a copy of what is not a weight.
//
// Legend: M rows, K inner, N columns.

#include "dense.h"

namespace tailrank::TAILRANK_ISA {
namespace {

// Rows of B that one pass takes: with a panel's width they stay in the first cache while all rows of
// A go by.
constexpr int kInnerRows = 128;

struct ProductTile {
  const float* a;
  std::ptrdiff_t a_row_stride, a_inner_stride;
  const float* b;
  std::ptrdiff_t b_stride;
  std::int64_t inner;
  const float* initial;  // null: 0
  std::ptrdiff_t initial_stride;
  float* c;
  std::ptrdiff_t c_stride;
  int columns;
};

template <int ROWS, int VECTORS>
__attribute__((noinline)) void product_tile(const ProductTile& tile) {
  vec sums[ROWS][VECTORS];
  const int left = tile.columns - (VECTORS - 1) * L;  // columns of the last vector
#pragma GCC unroll 8
  for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < VECTORS; ++v) {
      const float* from = tile.initial + r * tile.initial_stride + v * L;
      sums[r][v] = !tile.initial                        ? vec{}
                   : v == VECTORS - 1 && left < L ? load_first(from, left)
                                                        : load<vec>(from);
    }
  const float* __restrict a = tile.a;
  const float* __restrict b = tile.b;
  for (std::int64_t k = 0; k < tile.inner; ++k) {
    vec row[VECTORS];
#pragma GCC unroll 8
    for (int v = 0; v < VECTORS; ++v) row[v] = load<vec>(b + v * L);
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r) {
      const vec value = broadcast(a[r * tile.a_row_stride]);
#pragma GCC unroll 8
      for (int v = 0; v < VECTORS; ++v) sums[r][v] += value * row[v];
    }
    a += tile.a_inner_stride;
    b += tile.b_stride;
  }
#pragma GCC unroll 8
  for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < VECTORS; ++v) {
      float* to = tile.c + r * tile.c_stride + v * L;
      if (v == VECTORS - 1 && left < L)
        std::memcpy(to, &sums[r][v], static_cast<std::size_t>(left) * 4);
      else
        store(to, sums[r][v]);
    }
}

template <int VECTORS, int ROWS>
void product_rows(const ProductTile& tile, int rows) {
  if constexpr (ROWS > 0) {
    if (rows == ROWS) return product_tile<ROWS, VECTORS>(tile);
    product_rows<VECTORS, ROWS - 1>(tile, rows);
  }
}

template <int VECTORS>
void product_panel(const ProductCall& call, std::int64_t first, std::int64_t inner, int column) {
  constexpr int kRows = rows_max<DenseFormat::fp32, VECTORS>();
  const int left = call.num_columns - column;
  ProductTile tile;
  tile.a_row_stride = call.a_row_stride;
  tile.a_inner_stride = call.a_inner_stride;
  tile.b = call.b + first * call.b_stride + column;
  tile.b_stride = call.b_stride;
  tile.inner = inner;
  tile.c_stride = call.c_stride;
  tile.columns = left < VECTORS * L ? left : VECTORS * L;
  for (std::int64_t row = 0; row < call.num_rows; row += kRows) {
    const std::int64_t rows = call.num_rows - row;
    tile.a = call.a + row * call.a_row_stride + first * call.a_inner_stride;
    tile.c = call.c + row * call.c_stride + column;
    tile.initial = first ? tile.c : call.initial ? call.initial + column : nullptr;
    tile.initial_stride = first ? call.c_stride : 0;
    product_rows<VECTORS, kRows>(tile, static_cast<int>(rows < kRows ? rows : kRows));
  }
}

template <int VECTORS>
void product_vectors(const ProductCall& call, std::int64_t first, std::int64_t inner, int column,
                     int vectors) {
  if constexpr (VECTORS > 0) {
    if (vectors == VECTORS) return product_panel<VECTORS>(call, first, inner, column);
    product_vectors<VECTORS - 1>(call, first, inner, column, vectors);
  }
}

void product(const ProductCall& call) {
  std::int64_t first = 0;
  do {  // once even without any inner row: then the result is the initial value
    const std::int64_t left = call.num_inner - first;
    const std::int64_t inner = left < kInnerRows ? left : kInnerRows;
    for (int vector = 0; vector < vectors_of(call.num_columns); vector += kPanel) {
      const int vectors = vectors_of(call.num_columns) - vector;
      product_vectors<kPanel>(call, first, inner, vector * L, vectors < kPanel ? vectors : kPanel);
    }
    first += inner;
  } while (first < call.num_inner);
}

}  // namespace
}  // namespace tailrank::TAILRANK_ISA
