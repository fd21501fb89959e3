// Rows of feature tables: found by id, and copied side by side as one side of a batch.
#pragma once

#include <cstdint>

namespace tailrank {

// Ids in the order of a hash; what its arrays are, and the hash, is said in serving/id_index.py.
struct IdRows {
  const std::uint64_t* ids;     // `words` each
  const std::uint64_t* hashes;  // rising, one more than there are ids
  const void* rows;             // whole numbers of `place_bytes`, as in `directory`
  const void* directory;
  std::int64_t num_ids;
  std::int64_t words;
  std::uint64_t seed;
  int place_bytes;     // 4 or 8
  int directory_bits;  // 1 to 63: it has 2 to the power of so many places
};

// Writes the row of each id that is asked for, -1 for one that is not there.
void find_rows(const IdRows& index, const std::uint64_t* asked, std::int64_t num_asked,
               std::int64_t* rows);

// Rows of features as serving/feature_tables.py has them.
struct FeatureRows {
  const void* values;  // whole numbers of `value_bytes`
  std::int64_t num_values;
  const std::int64_t* offsets;  // num_rows * num_sparse + 1; null: there is one value in each bag
  const float* weights;         // of each value, or null
  const std::uint8_t* dense;
  std::int64_t dense_bytes;  // of a row
  std::int64_t num_sparse;
  std::int64_t num_rows;
  int value_bytes;  // 4 or 8
};

// Writes the offsets of the bags of these rows, and returns how many values they hold in all; -1: a
// row is not there, or its offsets do not rise or lead outside of the values.
std::int64_t count_values(const FeatureRows& table, const std::int64_t* rows, std::int64_t num_rows,
                          std::int64_t* offsets);

// Copies rows that `count_values` has counted; `weights` is written where the table has some.
void copy_rows(const FeatureRows& table, const std::int64_t* rows, std::int64_t num_rows,
               std::int64_t* values, float* weights, std::uint8_t* dense);

}  // namespace tailrank
