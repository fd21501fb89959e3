// Which rows a batch read, and where: the ids of all its lookups, sorted.
#pragma once

#include <cstdint>
#include <vector>

#include "memory.h"
#include "sparse_update.h"

namespace tailrank {

// Bags of ids; G + 1 offsets rise from 0 to the number of ids.
struct IdBags {
  const std::int64_t* ids;
  std::int64_t num_ids;
  const std::int64_t* offsets;
  std::int64_t num_bags;
  const float* factors;  // of each id, or null for all 1
};

// Why nothing was sorted.
struct SortFault {
  enum Kind : int { none = 0, bad_offsets = 1, bad_id = 2 };
  Kind kind = none;
  std::int64_t lookup = 0;
  std::int64_t position = 0;  // of the id, or the index of the offset
};

class RowSort {
 public:
  // Keeps nothing of `lookups`: ids, bags and factors are copied. At most 2^32 rows and ids.
  SortFault sort(const std::vector<IdBags>& lookups, std::uint64_t num_rows);

  // By row, the occurrences of a row in the order of the batch.
  const Occurrence* occurrences() const { return sorted_; }
  std::int64_t size() const { return size_; }

  // As in SparseStep: null unless some ids have factors.
  const std::uint32_t* bags() const { return weighted_ ? bags_.get() : nullptr; }
  const float* factors() const { return weighted_ ? factors_.get() : nullptr; }

 private:
  Buffer<Occurrence> halves_[2];
  Buffer<std::uint32_t> bags_;
  Buffer<float> factors_;
  Buffer<std::uint32_t> counts_;
  const Occurrence* sorted_ = nullptr;
  std::int64_t size_ = 0;
  bool weighted_ = false;
};

}  // namespace tailrank
