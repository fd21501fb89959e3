// Dense layers and the dot interaction, one source compiled once per instruction set.
//
// Weights are packed into panels of up to kPanel vectors of columns, K after K, so that a tile of
// rows reads them in the order in which they lie. A tile keeps its sums in registers.
//
// Legend: B rows, K inputs, N outputs, F vectors, D dim; `L` floats of a register.

#include <cstdint>
#include <cstring>

#if defined(TAILRANK_AVX512_BF16)
#include <immintrin.h>
#endif

#include "dense.h"

namespace tailrank::TAILRANK_ISA {
namespace {

constexpr int L = TAILRANK_LANES;
constexpr int kPanel = TAILRANK_PANEL;  // vectors of a panel
// Inputs that one pass takes. Passes of 64 to 512 were slower than one pass in every layer of the
// presets (docs/lab-notes.md); a panel of more than this would no longer fit into the second cache.
constexpr int kPassInputs = 4096;

typedef float vec __attribute__((vector_size(4 * L)));
typedef std::uint32_t uvec __attribute__((vector_size(4 * L)));
typedef std::int32_t ivec __attribute__((vector_size(4 * L)));
typedef std::uint16_t hvec __attribute__((vector_size(2 * L)));

// From and to any address: the compiler turns each into one unaligned move.
template <typename V>
inline V load(const void* from) {
  V value;
  std::memcpy(&value, from, sizeof(V));
  return value;
}

template <typename V>
inline void store(void* to, V value) {
  std::memcpy(to, &value, sizeof(V));
}

// Less 0 rather than plus 0, which would be an instruction: it turns -0 into 0.
inline vec broadcast(float x) { return x - vec{}; }

inline vec as_floats(uvec bits) { return reinterpret_cast<vec>(bits); }

// Not fmax: NaN has to come through, so that a broken feature cannot give a sound score.
inline vec rectified(vec x) { return x < 0.0f ? vec{} : x; }

// bf16 by rounding to the nearest even value; NaN stays NaN.
inline hvec to_bf16_bits(vec x) {
#if defined(TAILRANK_AVX512_BF16)
  return reinterpret_cast<hvec>(_mm512_cvtneps_pbh(reinterpret_cast<__m512>(x)));
#else
  const uvec bits = reinterpret_cast<uvec>(x);
  const uvec rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const uvec quiet = (bits >> 16) | 0x40u;
  const ivec is_nan = x != x;
  return __builtin_convertvector(is_nan ? quiet : rounded, hvec);
#endif
}

constexpr int vectors_of(int width) { return (width + L - 1) / L; }

// Elements of x and of the weights that one step of a tile multiplies: one float, or a pair of bf16.
template <DenseFormat F>
struct Step;

template <>
struct Step<DenseFormat::fp32> {
  using Element = float;
  static constexpr int kElements = 1;
  struct X {
    vec value;
  };
  static inline X at(const float* x) { return {broadcast(*x)}; }
  static inline vec add(vec sum, X x, const float* weights) {
    return sum + x.value * load<vec>(weights);
  }
};

template <>
struct Step<DenseFormat::bf16> {
  using Element = std::uint16_t;
  static constexpr int kElements = 2;
#if defined(TAILRANK_AVX512_BF16)
  struct X {
    __m512bh value;
  };
  static inline X at(const std::uint16_t* x) {
    std::int32_t pair;
    std::memcpy(&pair, x, 4);
    return {reinterpret_cast<__m512bh>(_mm512_set1_epi32(pair))};
  }
  static inline vec add(vec sum, X x, const std::uint16_t* weights) {
    const __m512bh w = reinterpret_cast<__m512bh>(_mm512_loadu_si512(weights));
    return reinterpret_cast<vec>(_mm512_dpbf16_ps(reinterpret_cast<__m512>(sum), x.value, w));
  }
#else
  struct X {
    vec even, odd;
  };
  static inline X at(const std::uint16_t* x) {
    std::uint32_t pair;
    std::memcpy(&pair, x, 4);
    const uvec both = uvec{} + pair;
    return {as_floats(both << 16), as_floats(both & 0xffff0000u)};
  }
  static inline vec add(vec sum, X x, const std::uint16_t* weights) {
    const uvec both = load<uvec>(weights);
    return sum + x.even * as_floats(both << 16) + x.odd * as_floats(both & 0xffff0000u);
  }
#endif
};

// Where a tile of rows starts from and where it goes to.
struct Tile {
  const void* x;
  std::ptrdiff_t x_stride;
  const void* panel;
  int num_steps;
  const float* initial[8];
  float* sums;
  std::ptrdiff_t sums_stride;
  std::uint16_t* y_bf16;
  std::ptrdiff_t y_bf16_stride;
  bool rectify;
};

// Not inlined: among other tiles the compiler runs out of registers and keeps sums in memory.
template <DenseFormat F, int ROWS, int VECTORS>
__attribute__((noinline)) void run_tile(const Tile& tile) {
  using S = Step<F>;
  using Element = typename S::Element;
  // Few sums would wait for one another: several of each, added up at the end.
  constexpr int kChains = ROWS * VECTORS >= 8 ? 1 : ROWS * VECTORS >= 4 ? 2 : 4;
  constexpr int kStepWidth = VECTORS * L * S::kElements;
  vec sums[kChains][ROWS][VECTORS];
#pragma GCC unroll 8
  for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < VECTORS; ++v) {
      sums[0][r][v] = load<vec>(tile.initial[r] + v * L);
#pragma GCC unroll 8
      for (int c = 1; c < kChains; ++c) sums[c][r][v] = vec{};
    }
  const Element* __restrict x = static_cast<const Element*>(tile.x);
  const Element* __restrict weights = static_cast<const Element*>(tile.panel);
  const std::ptrdiff_t stride = tile.x_stride;
  int k = 0;
  for (; k + kChains <= tile.num_steps; k += kChains) {
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
      vec sum = sums[0][r][v];
#pragma GCC unroll 8
      for (int c = 1; c < kChains; ++c) sum += sums[c][r][v];
      if (tile.rectify) sum = rectified(sum);
      if (tile.y_bf16)
        store(tile.y_bf16 + r * tile.y_bf16_stride + v * L, to_bf16_bits(sum));
      else
        store(tile.sums + r * tile.sums_stride + v * L, sum);
    }
}

// Rows of a tile whose sums fill the registers.
template <int VECTORS>
constexpr int rows_max() {
  constexpr int kRows = TAILRANK_SUMS / VECTORS;
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
  constexpr int kRows = rows_max<VECTORS>();
  const int padded = (call.num_inputs + S::kElements - 1) / S::kElements * S::kElements;
  const bool last = first_input + num_inputs >= padded;
  Tile tile;
  tile.x_stride = call.x_stride;
  tile.panel = static_cast<const Element*>(panel) + std::ptrdiff_t{first_input} * VECTORS * L;
  tile.num_steps = num_inputs / S::kElements;
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
  const int padded = (call.num_inputs + S::kElements - 1) / S::kElements * S::kElements;
  const int pass = kPassInputs * S::kElements;
  int first = 0;
  do {  // once even without any input: then the result is the initial value
    const int inputs = padded - first < pass ? padded - first : pass;
    const Element* panel = static_cast<const Element*>(call.packed);
    for (int vector = 0; vector < vectors_of(call.num_outputs); vector += kPanel) {
      const int left = vectors_of(call.num_outputs) - vector;
      const int vectors = left < kPanel ? left : kPanel;
      run_vectors<F, kPanel>(call, first, inputs, vector * L, panel, vectors);
      panel += std::ptrdiff_t{padded} * vectors * L;
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
  linear_as<DenseFormat::fp32>(call);
}

std::size_t packed_bytes(DenseFormat format, int num_inputs, int num_outputs) {
  const std::size_t columns = static_cast<std::size_t>(vectors_of(num_outputs)) * L;
  if (format == DenseFormat::bf16)
    return columns * static_cast<std::size_t>((num_inputs + 1) / 2) * 4;
  return columns * static_cast<std::size_t>(num_inputs) * 4;
}

std::uint16_t bf16_of(float x) {
  vec all = broadcast(x);
  return to_bf16_bits(all)[0];
}

template <DenseFormat F>
void pack_as(const float* weight_NK, std::ptrdiff_t stride, int num_inputs, int num_outputs,
             void* packed) {
  using S = Step<F>;
  auto* out = static_cast<typename S::Element*>(packed);
  for (int vector = 0; vector < vectors_of(num_outputs); vector += kPanel) {
    const int left = vectors_of(num_outputs) - vector;
    const int width = (left < kPanel ? left : kPanel) * L;
    for (int k = 0; k < num_inputs; k += S::kElements)
      for (int column = vector * L; column < vector * L + width; ++column)
        for (int e = 0; e < S::kElements; ++e) {
          const bool inside = column < num_outputs && k + e < num_inputs;
          const float value = inside ? weight_NK[column * stride + k + e] : 0.0f;
          if constexpr (F == DenseFormat::bf16)
            *out++ = bf16_of(value);
          else
            *out++ = value;
        }
  }
}

void pack_linear(DenseFormat format, const float* weight_NK, std::ptrdiff_t stride, int num_inputs,
                 int num_outputs, void* packed) {
  if (format == DenseFormat::bf16)
    return pack_as<DenseFormat::bf16>(weight_NK, stride, num_inputs, num_outputs, packed);
  pack_as<DenseFormat::fp32>(weight_NK, stride, num_inputs, num_outputs, packed);
}

void to_bf16(const float* x_BK, std::ptrdiff_t x_stride, std::int64_t num_rows, int width,
             std::uint16_t* out, std::ptrdiff_t out_stride) {
  for (std::int64_t row = 0; row < num_rows; ++row) {
    const float* x = x_BK + row * x_stride;
    std::uint16_t* y = out + row * out_stride;
    int k = 0;
    for (; k + L <= width; k += L)
      store(y + k, to_bf16_bits(load<vec>(x + k)));
    for (; k < width; ++k) y[k] = bf16_of(x[k]);
    if (width % 2) y[width] = 0;
  }
}

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

// The first `count` floats, and 0 behind them.
inline vec load_first(const float* from, int count) {
  vec result{};
  std::memcpy(&result, from, static_cast<std::size_t>(count) * 4);
  return result;
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

extern const DenseKernels kDense;
const DenseKernels kDense = {L, packed_bytes, pack_linear, linear, interact, to_bf16};

}  // namespace tailrank::TAILRANK_ISA
