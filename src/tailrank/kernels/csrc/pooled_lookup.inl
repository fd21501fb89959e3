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

// A stored row as floats: columns [first, first + kWidth), or `count` of them for the last,
// incomplete vector.
template <RowFormat F>
class Row {
 public:
  TAILRANK_INLINE Row(const std::uint8_t* row, int) : row_(row) {}

  template <typename... Count>
  TAILRANK_INLINE V numbers(int first, Count... count) const {
    if constexpr (F == RowFormat::fp32) return load_fp32(row_ + 4 * first, count...);
    if constexpr (F == RowFormat::bf16) return load_bf16(row_ + 2 * first, count...);
    if constexpr (F == RowFormat::fp16) return load_fp16(row_ + 2 * first, count...);
  }

 private:
  const std::uint8_t* row_;
};

template <>
class Row<RowFormat::int8> {
 public:
  TAILRANK_INLINE Row(const std::uint8_t* row, int dim) : row_(row) {
    float scale_bias[2];
    std::memcpy(scale_bias, row + dim, sizeof scale_bias);
    scale_ = broadcast(scale_bias[0]);
    bias_ = broadcast(scale_bias[1]);
  }

  template <typename... Count>
  TAILRANK_INLINE V numbers(int first, Count... count) const {
    return multiply_add(scale_, load_u8(row_ + first, count...), bias_);
  }

 private:
  const std::uint8_t* row_;
  V scale_, bias_;
};

template <>
class Row<RowFormat::int4> {
 public:
  TAILRANK_INLINE Row(const std::uint8_t* row, int dim)
      : row_(row), sixteen_(load_two_fp16(row + (dim + 1) / 2)) {}

  template <typename... Count>
  TAILRANK_INLINE V numbers(int first, Count... count) const {
    return sixteen_.numbers(row_ + first / 2, count...);
  }
  // Vector v of a row whose even and odd columns lie apart, a pair of vectors at a time.
  TAILRANK_INLINE V apart(int v) const {
    return sixteen_.halves(row_ + v / 2 * kWidth, v % 2 != 0);
  }

 private:
  const std::uint8_t* row_;
  FourBit sixteen_;
};

// Whether the even and the odd columns of each pair of vectors are summed apart and put in order at
// the end of a bag: the halves of bytes are then used as they lie.
template <RowFormat F, int D>
constexpr bool kApart = F == RowFormat::int4 && D != 0 && D % (2 * kWidth) == 0;

// The sum of a bag so far.
template <RowFormat F, int D, bool kWeighted>
struct Sum {
  V* vectors;

  TAILRANK_INLINE void add_row(const std::uint8_t* address, int dim, float weight) {
    const Row<F> row(address, dim);
    const int whole = dim / kWidth;
#pragma GCC unroll 32
    for (int v = 0; v < whole; ++v) {
      if constexpr (kApart<F, D>)
        add_vector(v, row.apart(v), weight);
      else
        add_vector(v, row.numbers(v * kWidth), weight);
    }
    if (const int rest = dim % kWidth) add_vector(whole, row.numbers(whole * kWidth, rest), weight);
  }

  TAILRANK_INLINE void add_vector(int v, V x, float weight) {
    if constexpr (kWeighted)
      vectors[v] = multiply_add(broadcast(weight), x, vectors[v]);
    else
      vectors[v] = add(vectors[v], x);
  }

  TAILRANK_INLINE void order_columns() {
    if constexpr (kApart<F, D>) {
#pragma GCC unroll 32
      for (int v = 0; v < D / kWidth; v += 2) interleave(vectors[v], vectors[v + 1]);
    }
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

TAILRANK_INLINE void write_bag(const Lookup& a, std::int64_t at, const V* sum, std::int64_t size,
                               int dim) {
  const V divisor = broadcast(a.mean && size > 0 ? static_cast<float>(size) : 1.0f);
#pragma GCC unroll 32
  for (int first = 0; first < dim; first += kWidth) {
    V x = sum[first / kWidth];
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
      Sum<F, D, kWeighted> sum{D ? registers : static_cast<V*>(a.scratch)};
#pragma GCC unroll 32
      for (int v = 0; v < (dim + kWidth - 1) / kWidth; ++v) sum.vectors[v] = broadcast(0.0f);
      const std::int64_t start = position;
      ++end;
      for (; position < *end; ++position) {
        if (cursor.position < last && __builtin_expect(!cursor.advance(), 0)) return cursor.fault();
        const float weight = kWeighted ? a.weights[position] : 1.0f;
        sum.add_row(cursor.ring[position & (kRing - 1)], dim, weight);
      }
      sum.order_columns();
      write_bag(a, at, sum.vectors, position - start, dim);
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
