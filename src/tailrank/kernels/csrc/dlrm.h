// A whole DLRM in one call: lookups, bottom MLP, interaction, top MLP, sigmoid.
//
// Every feature belongs to a side. What depends on the user's side alone is computed once for each
// user row and no item row: its pooled rows, its products with one another, and its share of the
// first layer of each MLP, W . [u; i] = W_u . u + W_i . i.
//
// Legend: B item rows, U user rows, F sparse features of a side, D dim, N dense width of a side.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "dense.h"
#include "memory.h"
#include "packed_mlp.h"
#include "pooled_lookup.h"

namespace tailrank {

using LookupKernel = Fault (*)(const Lookup&);

// The features of one side, as `SideFeatures` in Python has them.
struct SideRows {
  std::int64_t num_rows = 0;
  const float* dense_RN = nullptr;
  const std::int64_t* ids = nullptr;
  std::int64_t num_ids = 0;
  const std::int64_t* offsets = nullptr;
  const float* weights = nullptr;
};

enum class Side : int { user = 0, item = 1 };

struct DlrmSide {
  int dense_width = 0;
  std::vector<Table> tables;  // one per sparse feature
  bool straddles = false;     // see `Lookup`; found by `Dlrm`
};

// An MLP whose first layer reads both sides: first the user's inputs, then the item's.
struct SplitMlp {
  std::vector<LayerWeights> layers;
  int num_user_inputs = 0;
};

struct DlrmConfig {
  DlrmSide sides[2];
  SplitMlp bottom;  // may have no layers
  SplitMlp top;
  bool dot = false;  // the interaction: products, or concatenation
  Lookup lookup;     // format, dim and prefetch distance; the rest is filled in
};

struct DlrmFault {
  enum Kind : int { none = 0, bad_offsets = 1, bad_id = 2, bad_user = 3 };
  Kind kind = none;
  Side side = Side::item;
  std::int64_t bag = 0;       // of the id, the index of the offset, or the item with a bad user
  std::int64_t position = 0;  // of the id among all ids of the side
};

// Where the time of a call went; what is neither is interaction, sigmoid and copies.
struct DlrmTimes {
  std::int64_t lookup_ns = 0;
  std::int64_t dense_ns = 0;
};

// Safe from several threads.
class Dlrm {
 public:
  Dlrm(const DenseKernels& kernels, DenseFormat format, LookupKernel lookup,
       const DlrmConfig& config);

  // `times`, where somebody asks, is added to.
  DlrmFault score(const SideRows& user, const SideRows& item, const std::int64_t* user_of_item_B,
                  float* probabilities_B, DlrmTimes* times = nullptr) const;

 private:
  // An MLP of which the user's share runs apart.
  struct Split {
    std::optional<PackedLayer> user;  // the first layer's, without activation
    PackedMlp rest;
    Split(const DenseKernels& kernels, DenseFormat format, const SplitMlp& mlp);
  };

  struct WorkSpace : Space {
    Buffer<float> user_block, item_block;        // inputs of the top MLP, by side
    Buffer<float> user_vectors, item_vectors;    // what is multiplied
    Buffer<float> bottom_shares, top_shares;     // of each user row
    Buffer<float> products, logits, lookup;
    Buffer<std::uint16_t> rounded;
    Buffer<std::int64_t> offsets;
    std::vector<const float*> vectors;
    DlrmTimes* times = nullptr;  // of the call at work, if it is timed
  };

  // Where the parts of one side's block lie.
  struct Layout {
    int num_vectors = 0;    // of the interaction: sparse features, and the bottom output if here
    int first_product = 0;  // column where products start
    int width = 0;          // of the block
    std::ptrdiff_t stride = 0;
    std::ptrdiff_t vector_stride = 0;
    bool has_bottom = false;
  };

  Layout layout(Side side) const;
  DlrmFault user_rows(const SideRows& user, WorkSpace& space) const;
  DlrmFault item_rows(const SideRows& item, const std::int64_t* user_of_item_B,
                      std::int64_t first, std::int64_t count, float* probabilities_B,
                      WorkSpace& space) const;
  DlrmFault gather(Side side, const SideRows& rows, std::int64_t first, std::int64_t count,
                   float* block, float* vectors, WorkSpace& space) const;
  void share(const PackedLayer& layer, std::int64_t num_rows, const float* x,
             std::ptrdiff_t x_stride, float* out, WorkSpace& space) const;
  void multiply(const float* user_vectors, const float* item_vectors, float* out,
                WorkSpace& space) const;

  const DenseKernels* kernels_;
  DenseFormat format_;
  LookupKernel lookup_kernel_;
  DlrmConfig config_;
  Split bottom_, top_;
  Layout user_, item_;
  mutable Pool<WorkSpace> spaces_;
};

}  // namespace tailrank
