// Pooled embedding lookup: for each row and feature, the sum or mean of the rows that a bag names.
//
// Legend: R rows of the request, F features, D dim, L ids; bag r * F + f belongs to row r, feature f.
#pragma once

#include <cstdint>

namespace tailrank {

// How a table stores a row of D numbers.
enum class RowFormat : int {
  fp32 = 0,
  bf16 = 1,
  fp16 = 2,
  int8 = 3,  // D bytes q, then scale and bias in fp32; a number is scale * q + bias
  int4 = 4,  // (D + 1) / 2 bytes, the low half first, then scale and bias in fp16
};

// Static: each file keeps its own copy, compiled with its own flags.
static constexpr std::int64_t row_bytes(RowFormat format, std::int64_t dim) {
  switch (format) {
    case RowFormat::fp32: return 4 * dim;
    case RowFormat::bf16: return 2 * dim;
    case RowFormat::fp16: return 2 * dim;
    case RowFormat::int8: return dim + 8;
    case RowFormat::int4: return (dim + 1) / 2 + 4;
  }
  return 0;
}

struct Table {
  const std::uint8_t* rows;
  std::uint64_t num_rows;
};

constexpr int kPrefetchRowsMax = 511;

struct Lookup {
  RowFormat format = RowFormat::fp32;
  int dim = 0;
  bool mean = false;       // of the bag's rows; an empty bag gives zeros either way
  bool straddles = false;  // some row does not start where a cache line does
  int prefetch_rows = 0;   // how far ahead of the sums rows are asked for, to kPrefetchRowsMax
  const Table* tables = nullptr;  // F of them; two may be the same memory
  std::int64_t num_features = 0;
  std::int64_t num_rows = 0;
  const std::int64_t* ids = nullptr;  // L
  std::int64_t num_ids = 0;
  const std::int64_t* offsets = nullptr;  // R * F + 1
  const float* weights = nullptr;         // L, or null for all 1
  void* out = nullptr;                    // number (r, f, d) at r * out_stride + f * D + d
  std::int64_t out_stride = 0;
  bool out_bf16 = false;    // fp32 otherwise
  void* scratch = nullptr;  // D floats and up to a vector more, aligned to 64
};

// Why nothing was computed; `out` may be written in part.
struct Fault {
  enum Kind : int { none = 0, bad_offsets = 1, bad_id = 2 };
  Kind kind = none;
  std::int64_t bag = 0;       // of the id, or the index of the offset
  std::int64_t position = 0;  // of the id among all ids
};

// Offsets are checked before anything is read through them, each id before its row is touched.
namespace avx512 {
Fault pooled_lookup(const Lookup&);
}
namespace avx2 {
Fault pooled_lookup(const Lookup&);
}
namespace portable {
Fault pooled_lookup(const Lookup&);
}

}  // namespace tailrank
