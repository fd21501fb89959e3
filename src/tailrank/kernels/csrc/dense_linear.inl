// One layer on a block of rows.
//
// Weights are packed into panels of up to kPanel vectors of columns, K after K, so that a tile of
// rows reads them in the order in which they lie. A tile keeps its sums in registers.
//
// Legend: B rows, K inputs, N outputs.

#include "dense.h"

namespace tailrank::TAILRANK_ISA {
namespace {

constexpr int kPanel = TAILRANK_PANEL;  // vectors of a panel
// Inputs that one pass takes. Passes of 64 to 512 were slower than one pass in every layer of the
// presets (docs/lab-notes.md); a panel of more than this would no longer fit into the second cache.
constexpr int kPassInputs = 4096;
// How far ahead weights are asked for. They lie in one row, but the CPU's own prefetch alone was up to
// 15 % slower for one row of x and weights in the third cache.
constexpr int kBytesAhead = 8192;

template <DenseFormat F>
constexpr int padded_inputs(int num_inputs) {
  constexpr int kElements = Step<F>::kElements;
  return (num_inputs + kElements - 1) / kElements * kElements;
}

template <DenseFormat F>
constexpr std::ptrdiff_t panel_elements(int padded_inputs, int vectors) {
  return std::ptrdiff_t{padded_inputs + Step<F>::kColumnElements} * vectors * L;
}

// Where a tile of rows starts from and where it goes to.
struct Tile {
  const void* x;
  std::ptrdiff_t x_stride;
  const void* panel;
  int num_steps;
  const RowScale* row_scales;   // int8 only, as the next two
  const float* column_scales;
  const std::int32_t* column_sums;
  const float* initial[8];
  float* sums;
  std::ptrdiff_t sums_stride;
  std::uint16_t* y_bf16;
  std::ptrdiff_t y_bf16_stride;
  bool rectify;
};

// What the sums of row r start from: codes less the row's zero are what is multiplied.
template <DenseFormat F>
inline typename Step<F>::Sum first_sum(const Tile& tile, int r, int v) {
  if constexpr (F == DenseFormat::int8)
    return load<ivec>(tile.column_sums + v * L) * -tile.row_scales[r].zero;
  else
    return load<vec>(tile.initial[r] + v * L);
}

template <DenseFormat F>
inline vec as_output(const Tile& tile, int r, int v, typename Step<F>::Sum sum) {
  if constexpr (F == DenseFormat::int8)
    return load<vec>(tile.initial[r] + v * L) + __builtin_convertvector(sum, vec) *
                                                    load<vec>(tile.column_scales + v * L) *
                                                    broadcast(tile.row_scales[r].scale);
  else
    return sum;
}

// Not inlined: among other tiles the compiler runs out of registers and keeps sums in memory.
template <DenseFormat F, int ROWS, int VECTORS>
__attribute__((noinline)) void run_tile(const Tile& tile) {
  using S = Step<F>;
  using Element = typename S::Element;
  // Few sums would wait for one another: several of each, added up at the end.
  constexpr int kChains = ROWS * VECTORS >= 8 ? 1 : ROWS * VECTORS >= 4 ? 2 : 4;
  constexpr int kStepWidth = VECTORS * L * S::kElements;
  constexpr int kStepBytes = kChains * kStepWidth * static_cast<int>(sizeof(Element));
  typename S::Sum sums[kChains][ROWS][VECTORS];
#pragma GCC unroll 8
  for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < VECTORS; ++v) {
      sums[0][r][v] = first_sum<F>(tile, r, v);
#pragma GCC unroll 8
      for (int c = 1; c < kChains; ++c) sums[c][r][v] = typename S::Sum{};
    }
  const Element* __restrict x = static_cast<const Element*>(tile.x);
  const Element* __restrict weights = static_cast<const Element*>(tile.panel);
  const std::ptrdiff_t stride = tile.x_stride;
  int k = 0;
  for (; k + kChains <= tile.num_steps; k += kChains) {
#pragma GCC unroll 16
    for (int byte = 0; byte < kStepBytes; byte += 64)
      __builtin_prefetch(reinterpret_cast<const char*>(weights) + kBytesAhead + byte);
#pragma GCC unroll 8
    for (int c = 0; c < kChains; ++c) {
#pragma GCC unroll 8
      for (int r = 0; r < ROWS; ++r) {
        const auto value = S::at(x + r * stride + c * S::kElements);
#pragma GCC unroll 8
        for (int v = 0; v < VECTORS; ++v)
          sums[c][r][v] = S::add(sums[c][r][v], value,
                                 weights + c * kStepWidth + v * L * S::kElements);
      }
    }
    x += kChains * S::kElements;
    weights += kChains * kStepWidth;
  }
  if constexpr (kChains > 1) {
    for (; k < tile.num_steps; ++k) {
#pragma GCC unroll 8
      for (int r = 0; r < ROWS; ++r) {
        const auto value = S::at(x + r * stride);
#pragma GCC unroll 8
        for (int v = 0; v < VECTORS; ++v)
          sums[0][r][v] = S::add(sums[0][r][v], value, weights + v * L * S::kElements);
      }
      x += S::kElements;
      weights += kStepWidth;
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < VECTORS; ++v) {
#pragma GCC unroll 8
      for (int c = 1; c < kChains; ++c) sums[0][r][v] += sums[c][r][v];
      vec y = as_output<F>(tile, r, v, sums[0][r][v]);
      if (tile.rectify) y = rectified(y);
      if (tile.y_bf16)
        store(tile.y_bf16 + r * tile.y_bf16_stride + v * L, to_bf16_bits(y));
      else
        store(tile.sums + r * tile.sums_stride + v * L, y);
    }
}

// Rows of a tile whose sums fill the registers.
template <DenseFormat F, int VECTORS>
constexpr int rows_max() {
  constexpr int kRows = Step<F>::kSums / VECTORS;
  return kRows > 8 ? 8 : kRows;
}

template <DenseFormat F, int VECTORS, int ROWS>
void run_rows(const Tile& tile, int rows) {
  if constexpr (ROWS > 0) {
    if (rows == ROWS) return run_tile<F, ROWS, VECTORS>(tile);
    run_rows<F, VECTORS, ROWS - 1>(tile, rows);
  }
}

template <DenseFormat F, int VECTORS>
void run_panel(const LinearCall& call, int first_input, int num_inputs, int column,
               const void* panel) {
  using S = Step<F>;
  using Element = typename S::Element;
  constexpr int kRows = rows_max<F, VECTORS>();
  const int padded = padded_inputs<F>(call.num_inputs);
  const bool last = first_input + num_inputs >= padded;
  Tile tile;
  tile.x_stride = call.x_stride;
  tile.panel = static_cast<const Element*>(panel) + std::ptrdiff_t{first_input} * VECTORS * L;
  tile.num_steps = num_inputs / S::kElements;
  const Element* behind = static_cast<const Element*>(panel) + std::ptrdiff_t{padded} * VECTORS * L;
  tile.column_scales = reinterpret_cast<const float*>(behind);
  tile.column_sums = reinterpret_cast<const std::int32_t*>(tile.column_scales + VECTORS * L);
  tile.sums_stride = call.sums_stride;
  tile.y_bf16_stride = call.y_bf16_stride;
  tile.rectify = last && call.rectify;
  for (std::int64_t row = 0; row < call.num_rows;) {
    const std::int64_t left = call.num_rows - row;
    // 8 rows left are better taken as 4 and 4 than as 6 and 2.
    const int rows = static_cast<int>(left >= 2 * kRows || left == kRows ? kRows
                                      : left > kRows                     ? (left + 1) / 2
                                                                         : left);
    tile.x = static_cast<const Element*>(call.x) + row * call.x_stride + first_input;
    tile.row_scales = call.row_scales + row;
    tile.sums = call.sums_BN + row * call.sums_stride + column;
    tile.y_bf16 = last && call.y_bf16 ? call.y_bf16 + row * call.y_bf16_stride + column : nullptr;
    for (int r = 0; r < rows; ++r)
      tile.initial[r] = first_input ? tile.sums + r * call.sums_stride
                        : call.initial_row
                            ? call.initial + call.initial_row[row + r] * call.initial_stride + column
                            : call.initial + column;
    run_rows<F, VECTORS, kRows>(tile, rows);
    row += rows;
  }
}

template <DenseFormat F, int VECTORS>
void run_vectors(const LinearCall& call, int first_input, int num_inputs, int column,
                 const void* panel, int vectors) {
  if constexpr (VECTORS > 0) {
    if (vectors == VECTORS)
      return run_panel<F, VECTORS>(call, first_input, num_inputs, column, panel);
    run_vectors<F, VECTORS - 1>(call, first_input, num_inputs, column, panel, vectors);
  }
}

template <DenseFormat F>
void linear_as(const LinearCall& call) {
  using S = Step<F>;
  using Element = typename S::Element;
  const int padded = padded_inputs<F>(call.num_inputs);
  const int pass = F == DenseFormat::int8 ? padded : kPassInputs * S::kElements;
  int first = 0;
  do {  // once even without any input: then the result is the initial value
    const int inputs = padded - first < pass ? padded - first : pass;
    const Element* panel = static_cast<const Element*>(call.packed);
    for (int vector = 0; vector < vectors_of(call.num_outputs); vector += kPanel) {
      const int left = vectors_of(call.num_outputs) - vector;
      const int vectors = left < kPanel ? left : kPanel;
      run_vectors<F, kPanel>(call, first, inputs, vector * L, panel, vectors);
      panel += panel_elements<F>(padded, vectors);
    }
    first += inputs;
  } while (first < padded);
  // The next layer reads bf16 in pairs: what stands beside the last of an odd number must be 0,
  // and 0 times an infinite input was not.
  if (call.y_bf16 && call.num_outputs % 2)
    for (std::int64_t row = 0; row < call.num_rows; ++row)
      call.y_bf16[row * call.y_bf16_stride + call.num_outputs] = 0;
}

void linear(DenseFormat format, const LinearCall& call) {
  if (format == DenseFormat::bf16) return linear_as<DenseFormat::bf16>(call);
  if (format == DenseFormat::int8) return linear_as<DenseFormat::int8>(call);
  linear_as<DenseFormat::fp32>(call);
}

}  // namespace
}  // namespace tailrank::TAILRANK_ISA
