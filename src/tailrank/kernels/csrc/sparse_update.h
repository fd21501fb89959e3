// Updates of the table rows that a batch read. The ids of its lookups are sorted, so that the
// occurrences of a row are neighbours; then each row is read, changed and written once, and no
// gradient of a row is ever in memory.
//
// Legend: V table rows, D dim, L ids and G bags of all lookups of a batch.
#pragma once

#include <cstdint>

namespace tailrank {

enum class RowRule : int { sgd = 0, rowwise_adagrad = 1, adagrad = 2, adam = 3, amsgrad = 4 };

// The row in the upper half, in the lower half its bag or, where ids have weights, its position.
using Occurrence = std::uint64_t;

static constexpr std::uint64_t row_of(Occurrence x) { return x >> 32; }
static constexpr std::uint32_t place_of(Occurrence x) { return static_cast<std::uint32_t>(x); }

// The gradients of one lookup's bags, first to end of all bags.
struct BagGradients {
  const float* rows;
  std::uint32_t first, end;
};

// What is to be done; the numbers are those of `sparse_reference.update_rows`.
struct SparseStep {
  RowRule rule = RowRule::sgd;
  int dim = 0;
  bool straddles = false;  // some row does not start where a cache line does
  float* weight = nullptr;                    // V * D
  float* state[3] = {};                       // each V * D; of rowwise_adagrad V
  const Occurrence* occurrences = nullptr;    // L, by row and then in the order of the batch
  std::int64_t num_occurrences = 0;
  const BagGradients* gradients = nullptr;    // of each lookup
  const std::uint32_t* bags = nullptr;        // of each position, or null: places are bags
  const float* factors = nullptr;             // of each position, or null for all 1
  float lr = 0, eps = 0;                      // lr with what makes up for means that began at 0
  float new_mean = 0, new_square = 0;         // how much of each mean is new
  float scale = 1, l2 = 0;                    // gradient = scale * sum + l2 * row
  int prefetch_rows = 0;                      // how far ahead of the changes rows are asked for
  float* scratch = nullptr;                   // D floats and up to a vector more, aligned to 64
};

namespace avx512 {
void sparse_step(const SparseStep&);
double squared_norm(const SparseStep&);  // of all gradients that are sums, as they are
}
namespace avx2 {
void sparse_step(const SparseStep&);
double squared_norm(const SparseStep&);
}
namespace portable {
void sparse_step(const SparseStep&);
double squared_norm(const SparseStep&);
}

}  // namespace tailrank
