#include "feature_rows.h"

#include <algorithm>
#include <cstring>

#include "prefetch.h"

namespace tailrank {
namespace {

// 2 to the power of 64 over the golden ratio, as in serving/id_index.py.
constexpr std::uint64_t kOdd = 0x9E3779B97F4A7C15u;
// Ids that are looked up side by side, so that their cache misses overlap.
constexpr std::int64_t kAtOnce = 16;
constexpr std::int64_t kLineBytes = 64;
// Rows ahead of the copy, and how much of each is asked for: what fits into the first cache.
constexpr std::int64_t kRowsAhead = 4;
constexpr std::int64_t kBytesAhead = 1024;

std::uint64_t hash_of(const std::uint64_t* id, std::int64_t words, std::uint64_t seed) {
  std::uint64_t hash = seed * kOdd;
  for (std::int64_t word = 0; word < words; ++word) {
    hash = (hash ^ id[word]) * kOdd;
    hash ^= hash >> 29;
    hash *= kOdd;
    hash ^= hash >> 32;
  }
  return hash;
}

std::int64_t place_at(const void* places, int bytes, std::uint64_t index) {
  if (bytes == 4) return static_cast<const std::uint32_t*>(places)[index];
  return static_cast<std::int64_t>(static_cast<const std::uint64_t*>(places)[index]);
}

void prefetch_bytes(const void* first, std::int64_t num_bytes) {
  const auto* line = static_cast<const std::uint8_t*>(first);
  for (std::int64_t at = 0; at < std::min(num_bytes, kBytesAhead); at += kLineBytes)
    prefetch(line + at);
}

template <typename Value>
void copy_as(const FeatureRows& table, const std::int64_t* rows, std::int64_t num_rows,
             std::int64_t* values, float* weights, std::uint8_t* dense) {
  const auto* source = static_cast<const Value*>(table.values);
  const auto first_of = [&](std::int64_t row) {
    return table.offsets ? table.offsets[row * table.num_sparse] : row * table.num_sparse;
  };
  for (std::int64_t at = 0; at < num_rows; ++at) {
    if (at + kRowsAhead < num_rows) {
      const std::int64_t ahead = rows[at + kRowsAhead], first = first_of(ahead);
      prefetch_bytes(source + first,
                     (first_of(ahead + 1) - first) * static_cast<std::int64_t>(sizeof(Value)));
      prefetch_bytes(table.dense + ahead * table.dense_bytes, table.dense_bytes);
    }
    const std::int64_t first = first_of(rows[at]), end = first_of(rows[at] + 1);
    for (std::int64_t value = first; value < end; ++value)
      values[value - first] = static_cast<std::int64_t>(source[value]);
    values += end - first;
    if (table.weights) weights = std::copy(table.weights + first, table.weights + end, weights);
    std::copy_n(table.dense + rows[at] * table.dense_bytes, table.dense_bytes,
                dense + at * table.dense_bytes);
  }
}

}  // namespace

void find_rows(const IdRows& index, const std::uint64_t* asked, std::int64_t num_asked,
               std::int64_t* rows) {
  const std::int64_t words = index.words, last = index.num_ids - 1;
  const std::size_t id_bytes = static_cast<std::size_t>(words) * sizeof(std::uint64_t);
  std::uint64_t hash[kAtOnce];
  std::int64_t place[kAtOnce];
  for (std::int64_t begin = 0; begin < num_asked; begin += kAtOnce) {
    const std::int64_t count = std::min(kAtOnce, num_asked - begin);
    for (std::int64_t at = 0; at < count; ++at) {
      hash[at] = hash_of(asked + (begin + at) * words, words, index.seed);
      const std::uint64_t bits = hash[at] >> (64 - index.directory_bits);
      prefetch(static_cast<const std::uint8_t*>(index.directory) +
               bits * static_cast<std::uint64_t>(index.place_bytes));
    }
    for (std::int64_t at = 0; at < count; ++at) {
      const std::uint64_t bits = hash[at] >> (64 - index.directory_bits);
      // Of a damaged file as well: no place is outside.
      place[at] = std::clamp<std::int64_t>(place_at(index.directory, index.place_bytes, bits), 0,
                                           index.num_ids);
      prefetch(index.hashes + place[at]);
    }
    for (std::int64_t at = 0; at < count; ++at) {
      while (place[at] < index.num_ids && index.hashes[place[at]] < hash[at]) ++place[at];
      place[at] = std::min(place[at], last);
      prefetch(index.ids + place[at] * words);
      prefetch(static_cast<const std::uint8_t*>(index.rows) + place[at] * index.place_bytes);
    }
    for (std::int64_t at = 0; at < count; ++at) {
      const std::uint64_t* wanted = asked + (begin + at) * words;
      const bool is_there = std::memcmp(index.ids + place[at] * words, wanted, id_bytes) == 0;
      rows[begin + at] =
          is_there ? place_at(index.rows, index.place_bytes, static_cast<std::uint64_t>(place[at]))
                   : -1;
    }
  }
}

std::int64_t count_values(const FeatureRows& table, const std::int64_t* rows, std::int64_t num_rows,
                          std::int64_t* offsets) {
  const std::int64_t num_sparse = table.num_sparse;
  std::int64_t total = 0;
  *offsets++ = 0;
  for (std::int64_t at = 0; at < num_rows; ++at) {
    const std::int64_t row = rows[at];
    if (row < 0 || row >= table.num_rows) return -1;
    if (!table.offsets) {
      if ((row + 1) * num_sparse > table.num_values) return -1;
      for (std::int64_t bag = 0; bag < num_sparse; ++bag) *offsets++ = ++total;
      continue;
    }
    const std::int64_t* edges = table.offsets + row * num_sparse;
    if (edges[0] < 0 || edges[num_sparse] > table.num_values) return -1;
    for (std::int64_t bag = 0; bag < num_sparse; ++bag) {
      if (edges[bag] > edges[bag + 1]) return -1;
      total += edges[bag + 1] - edges[bag];
      *offsets++ = total;
    }
  }
  return total;
}

void copy_rows(const FeatureRows& table, const std::int64_t* rows, std::int64_t num_rows,
               std::int64_t* values, float* weights, std::uint8_t* dense) {
  if (table.value_bytes == 4)
    copy_as<std::int32_t>(table, rows, num_rows, values, weights, dense);
  else
    copy_as<std::int64_t>(table, rows, num_rows, values, weights, dense);
}

}  // namespace tailrank
