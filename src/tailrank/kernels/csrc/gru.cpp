#include "gru.h"

#include <algorithm>

namespace tailrank {

Gru::Gru(const DenseKernels& kernels, const float* weight_GH, int hidden)
    : kernels_(&kernels),
      hidden_(hidden),
      recurrent_(kernels, DenseFormat::fp32,
                 {weight_GH, hidden, nullptr, hidden, 3 * hidden, false}) {}

bool Gru::run(const GruCall& call) const {
  std::int64_t before = call.num_rows, num_steps = 0;
  for (std::int64_t t = 0; t < call.num_times; ++t) {
    if (call.sizes_T[t] < 0 || call.sizes_T[t] > before) return false;
    before = call.sizes_T[t];
    num_steps += before;
  }
  for (std::int64_t p = 0; p < num_steps; ++p)
    if (call.place_P[p] < 0 || call.place_P[p] >= call.num_places) return false;
  const auto lease = spaces_.lease();
  Space& space = *lease;
  GruStep step;
  step.hidden = hidden_;
  step.x = call.x_LG;
  step.state_stride = spread(hidden_);
  step.of_state_stride = spread(3 * hidden_);
  const std::size_t rows = static_cast<std::size_t>(call.num_rows);
  float* states = space.states.reserve(rows * static_cast<std::size_t>(step.state_stride));
  float* of_states = space.of_states.reserve(rows * static_cast<std::size_t>(step.of_state_stride));
  std::fill_n(states, call.num_rows * step.state_stride, 0.0f);
  step.state = states;
  step.of_state = of_states;
  std::int64_t done = 0;
  for (std::int64_t t = 0; t < call.num_times; ++t) {
    step.num_rows = call.sizes_T[t];
    step.place_R = call.place_P + done;
    step.scale_R = call.scale_P ? call.scale_P + done : nullptr;
    recurrent_.run(step.num_rows, states, step.state_stride, {}, of_states, step.of_state_stride,
                   nullptr, 0);
    kernels_->gru_step(step);
    for (std::int64_t row = 0; row < step.num_rows; ++row)
      std::copy_n(states + row * step.state_stride, hidden_,
                  call.states_PH + (done + row) * hidden_);
    done += step.num_rows;
  }
  for (std::int64_t row = 0; row < call.num_rows; ++row)
    std::copy_n(states + row * step.state_stride, hidden_, call.last_RH + row * hidden_);
  return true;
}

}  // namespace tailrank
