// A gated recurrent unit over rows of any length: at each time a step of the rows that go on.
//
// Legend: R rows, longest first; L places as they are given; P those of every row in the order of
// time; T times; H hidden width.
#pragma once

#include <cstdint>
#include <vector>

#include "dense.h"
#include "memory.h"
#include "packed_mlp.h"

namespace tailrank {

struct GruCall {
  const float* x_LG;             // inputs' share of the gates, 3 H of each place
  std::int64_t num_places;       // L
  const std::int64_t* place_P;   // which of them
  const float* scale_P;          // factors of the updates; null: all 1
  const std::int64_t* sizes_T;   // rows at each time, falling
  std::int64_t num_times;
  std::int64_t num_rows;
  float* states_PH;              // every state
  float* last_RH;
};

// Safe from several threads. The state stays fp32: it would be rounded anew at every step.
class Gru {
 public:
  // `weight_GH`: from the state to update, reset and candidate.
  Gru(const DenseKernels& kernels, const float* weight_GH, int hidden);

  // Whether all places are there; if not, nothing was read.
  bool run(const GruCall& call) const;

 private:
  struct Space {
    Buffer<float> states, of_states;
  };

  const DenseKernels* kernels_;
  int hidden_;
  PackedLayer recurrent_;
  mutable Pool<Space> spaces_;
};

}  // namespace tailrank
