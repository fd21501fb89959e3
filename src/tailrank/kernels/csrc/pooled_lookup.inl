// The pooled lookup, compiled once per instruction set: the including file names the namespace and
// brings that set's vectors.
//
// Random rows come from memory at a rate that only the number of reads under way decides, so one
// cursor runs ahead of the sums: it checks an id, computes the address of its row once and asks for
// the row's cache lines. A checked address waits in a ring until the sums get there.

#include <cstring>

#include "pooled_lookup.h"
#include "prefetch.h"

namespace tailrank::TAILRANK_ISA {
namespace {

constexpr int kLineBytes = 64;
constexpr int kRing = kPrefetchRowsMax + 1;  // a power of two

template <RowFormat F>
constexpr bool kQuantized = F == RowFormat::int8 || F == RowFormat::int4;

// Columns [first, first + kWidth) of a row; for the last, incomplete vector `count` of them.
template <RowFormat F, typename... Count>
TAILRANK_INLINE V load(const std::uint8_t* row, int first, Count... count) {
  if constexpr (F == RowFormat::fp32) return load_fp32(row + 4 * first, count...);
  if constexpr (F == RowFormat::bf16) return load_bf16(row + 2 * first, count...);
  if constexpr (F == RowFormat::fp16) return load_fp16(row + 2 * first, count...);
  if constexpr (F == RowFormat::int8) return load_u8(row + first, count...);
  if constexpr (F == RowFormat::int4) return load_u4(row + first / 2, count...);
}

struct ScaleBias {
  float scale, bias;
};

template <RowFormat F>
TAILRANK_INLINE ScaleBias scale_bias(const std::uint8_t* row, int dim) {
  ScaleBias result{1.0f, 0.0f};
  if constexpr (F == RowFormat::int8) std::memcpy(&result, row + dim, sizeof result);
  if constexpr (F == RowFormat::int4) {
    std::uint16_t halves[2];
    std::memcpy(halves, row + (dim + 1) / 2, sizeof halves);
    result = {fp16_number(halves[0]), fp16_number(halves[1])};
  }
  return result;
}

// The sum of a bag so far. Without weights the biases are added up on their own and join the sum at
// the end; with weights a number is made whole first, so that an infinite weight times a stored
// zero is what it is in the reference.
template <RowFormat F, bool kWeighted>
struct Sum {
  V* vectors;
  float bias = 0.0f;

  TAILRANK_INLINE void add_row(const std::uint8_t* row, int dim, float weight) {
    const ScaleBias row_scale = scale_bias<F>(row, dim);
    if constexpr (kQuantized<F> && !kWeighted) bias += row_scale.bias;
    const int whole = dim / kWidth;
#pragma GCC unroll 32
    for (int v = 0; v < whole; ++v) add_vector(v, load<F>(row, v * kWidth), row_scale, weight);
    if (const int rest = dim % kWidth)
      add_vector(whole, load<F>(row, whole * kWidth, rest), row_scale, weight);
  }

  TAILRANK_INLINE void add_vector(int v, V x, ScaleBias row_scale, float weight) {
    if constexpr (kQuantized<F> && kWeighted)
      x = multiply_add(broadcast(row_scale.scale), x, broadcast(row_scale.bias));
    if constexpr (kWeighted)
      vectors[v] = multiply_add(broadcast(weight), x, vectors[v]);
    else if constexpr (kQuantized<F>)
      vectors[v] = multiply_add(broadcast(row_scale.scale), x, vectors[v]);
    else
      vectors[v] = add(vectors[v], x);
  }
};

// To the nearest, ties to even; NaN stays NaN.
TAILRANK_INLINE std::uint16_t to_bf16(float x) {
  std::uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  const std::uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const bool nan = (bits & 0x7fffffffu) > 0x7f800000u;
  return static_cast<std::uint16_t>(nan ? (bits >> 16) | 0x40u : rounded);
}

TAILRANK_INLINE void write_vector(const Lookup& a, std::int64_t at, V x, int count) {
  if (!a.out_bf16) {
    float* out = static_cast<float*>(a.out) + at;
    if (count == kWidth)
      store(out, x);
    else
      store(out, x, count);
    return;
  }
  alignas(64) float numbers[kWidth];
  alignas(64) std::uint16_t rounded[kWidth];
  store(numbers, x);
  for (int i = 0; i < kWidth; ++i) rounded[i] = to_bf16(numbers[i]);
  std::memcpy(static_cast<std::uint16_t*>(a.out) + at, rounded, 2 * static_cast<std::size_t>(count));
}

template <RowFormat F>
TAILRANK_INLINE void write_bag(const Lookup& a, std::int64_t at, const V* sum, float bias,
                               std::int64_t size, int dim) {
  const V divisor = broadcast(a.mean && size > 0 ? static_cast<float>(size) : 1.0f);
#pragma GCC unroll 32
  for (int first = 0; first < dim; first += kWidth) {
    V x = sum[first / kWidth];
    if constexpr (kQuantized<F>) x = add(x, broadcast(bias));
    if (a.mean) x = divide(x, divisor);
    write_vector(a, at + first, x, dim - first < kWidth ? dim - first : kWidth);
  }
}

// The next id to check and ask for.
template <RowFormat F, int D>
struct Cursor {
  const Lookup& a;
  const std::uint8_t* ring[kRing];
  std::int64_t position = 0;
  std::int64_t bag = 0;
  std::int64_t feature = 0;
  std::int64_t bag_end = a.offsets[1];
  Table table = a.tables[0];

  explicit Cursor(const Lookup& lookup) : a(lookup) {}

  // Whether the id was inside its table.
  TAILRANK_INLINE bool advance() {
    while (position == bag_end) {
      ++bag;
      if (++feature == a.num_features) feature = 0;
      bag_end = a.offsets[bag + 1];
      table = a.tables[feature];
    }
    const std::uint64_t id = static_cast<std::uint64_t>(a.ids[position]);
    if (__builtin_expect(id >= table.num_rows, 0)) return false;
    const std::int64_t bytes = row_bytes(F, D ? D : a.dim);
    const std::uint8_t* row = table.rows + id * static_cast<std::uint64_t>(bytes);
    ring[position & (kRing - 1)] = row;
    for (std::int64_t byte = 0; byte < bytes; byte += kLineBytes) prefetch(row + byte);
    if (a.straddles) prefetch(row + bytes - 1);
    ++position;
    return true;
  }

  Fault fault() const { return {Fault::bad_id, bag, position}; }
};

// D = 0: any dim, with the sum in memory instead of registers.
template <RowFormat F, int D, bool kWeighted>
Fault run(const Lookup& a) {
  const int dim = D ? D : a.dim;
  const std::int64_t last = a.num_ids;
  Cursor<F, D> cursor(a);
  while (cursor.position < last && cursor.position < a.prefetch_rows)
    if (!cursor.advance()) return cursor.fault();
  std::int64_t position = 0;
  const std::int64_t* end = a.offsets;
  for (std::int64_t row = 0; row < a.num_rows; ++row) {
    std::int64_t at = row * a.out_stride;
    for (std::int64_t feature = 0; feature < a.num_features; ++feature, at += dim) {
      V registers[D ? D / kWidth : 1];
      Sum<F, kWeighted> sum{D ? registers : static_cast<V*>(a.scratch)};
#pragma GCC unroll 32
      for (int v = 0; v < (dim + kWidth - 1) / kWidth; ++v) sum.vectors[v] = broadcast(0.0f);
      const std::int64_t start = position;
      ++end;
      for (; position < *end; ++position) {
        if (cursor.position < last && __builtin_expect(!cursor.advance(), 0)) return cursor.fault();
        const float weight = kWeighted ? a.weights[position] : 1.0f;
        sum.add_row(cursor.ring[position & (kRing - 1)], dim, weight);
      }
      write_bag<F>(a, at, sum.vectors, sum.bias, position - start, dim);
    }
  }
  return {};
}

template <RowFormat F, bool kWeighted>
Fault by_dim(const Lookup& a) {
  switch (a.dim) {  // the dims of the models in the literature
    case 16: return run<F, 16, kWeighted>(a);
    case 32: return run<F, 32, kWeighted>(a);
    case 64: return run<F, 64, kWeighted>(a);
    case 128: return run<F, 128, kWeighted>(a);
    default: return run<F, 0, kWeighted>(a);
  }
}

template <bool kWeighted>
Fault by_format(const Lookup& a) {
  switch (a.format) {
    case RowFormat::fp32: return by_dim<RowFormat::fp32, kWeighted>(a);
    case RowFormat::bf16: return by_dim<RowFormat::bf16, kWeighted>(a);
    case RowFormat::fp16: return by_dim<RowFormat::fp16, kWeighted>(a);
    case RowFormat::int8: return by_dim<RowFormat::int8, kWeighted>(a);
    case RowFormat::int4: return by_dim<RowFormat::int4, kWeighted>(a);
  }
  return {};
}

// Whether the offsets rise from 0 to the number of ids.
Fault check_offsets(const Lookup& a) {
  const std::int64_t num_bags = a.num_rows * a.num_features;
  int falls = 0;
  for (std::int64_t bag = 0; bag < num_bags; ++bag) falls |= a.offsets[bag] > a.offsets[bag + 1];
  if (!falls && a.offsets[0] == 0 && a.offsets[num_bags] == a.num_ids) return {};
  if (a.offsets[0] != 0) return {Fault::bad_offsets, 0, 0};
  std::int64_t bag = 1;
  while (bag < num_bags && a.offsets[bag] >= a.offsets[bag - 1] && a.offsets[bag] <= a.num_ids)
    ++bag;
  return {Fault::bad_offsets, bag < num_bags ? bag : num_bags, 0};
}

}  // namespace

Fault pooled_lookup(const Lookup& a) {
  if (const Fault fault = check_offsets(a); fault.kind != Fault::none) return fault;
  if (a.num_rows == 0 || a.num_features == 0) return {};
  return a.weights ? by_format<true>(a) : by_format<false>(a);
}

}  // namespace tailrank::TAILRANK_ISA
