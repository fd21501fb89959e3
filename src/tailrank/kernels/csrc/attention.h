// An attention unit: an MLP on [behaviour, candidate, difference, product] weighs the behaviours of a
// candidate's user, whose weighted sum is the result.
//
// Its first layer is computed in parts: the behaviour's once per behaviour, the candidate's once per
// candidate, the product's for each pair.
//
// Legend: U users, B candidates, L behaviours, K width of a behaviour, M width of the first layer.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "dense.h"
#include "memory.h"
#include "packed_mlp.h"

namespace tailrank {

// Of a layer's outputs; see `ActivationCall`.
struct ActivationWeights {
  const float* slope_M;
  const float* scale_M;  // null: a PReLU
  const float* shift_M;
  int width;
};

struct AttentionCall {
  const float* rows_LK;
  std::int64_t num_rows;
  const std::int64_t* first_U;
  const std::int64_t* length_U;
  std::int64_t num_users;
  const float* candidate_BK;
  const std::int64_t* user_of_item_B;  // not falling
  std::int64_t num_items;
  float* out_BK;
};

// Safe from several threads. All arithmetic is fp32.
class Attention {
 public:
  // `rest`: the layers behind the first, each of which follows one of `activations`; the last has
  // one output.
  Attention(const DenseKernels& kernels, const LayerWeights& of_row,
            const LayerWeights& of_candidate, const LayerWeights& of_product,
            const std::vector<ActivationWeights>& activations,
            const std::vector<LayerWeights>& rest);

  // Whether users and behaviours are there and in order; if not, nothing was read.
  bool run(const AttentionCall& call) const;

 private:
  struct Activation {
    explicit Activation(const ActivationWeights& weights, int lanes);
    Buffer<float> slope, scale, shift;
    int width;
    bool is_dice;
  };

  struct Space {
    Buffer<float> row_shares, candidate_shares, products, hidden[2];
    std::vector<std::int64_t> row_P, item_P;  // of a block of pairs
  };

  static bool fits(const AttentionCall& call);
  void weigh(const AttentionCall& call, std::int64_t first_row, Space& space) const;

  const DenseKernels* kernels_;
  int width_;  // K
  PackedLayer of_row_, of_candidate_, of_product_;
  std::vector<Activation> activations_;
  std::vector<PackedLayer> rest_;
  std::ptrdiff_t stride_;  // of hidden numbers
  mutable Pool<Space> spaces_;
};

}  // namespace tailrank
