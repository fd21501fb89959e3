// Gates that are a sigmoid or a hyperbolic tangent: a step of a recurrence, and Dice.
//
// Legend: R rows, H hidden width.

#include "dense.h"

namespace tailrank::TAILRANK_ISA {
namespace {

// e^x to 2 in the last place or so for what is not clipped; NaN stays NaN.
inline vec exponential(vec x) {
  constexpr float kLowest = -87.0f, kHighest = 88.0f;  // beyond, 2^n is no normal number
  x = x < kLowest ? broadcast(kLowest) : x;
  x = x > kHighest ? broadcast(kHighest) : x;
  const ivec n = nearest(x * 1.44269504f);
  const vec whole = __builtin_convertvector(n, vec);
  const vec r = (x - whole * 0.693359375f) + whole * 2.12194440e-4f;  // ln 2 in two parts
  // Source: Cephes, expf (Moshier).
  vec p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  return p * reinterpret_cast<vec>((n + 127) << 23);
}

inline vec sigmoid(vec x) { return 1.0f / (1.0f + exponential(-x)); }

inline vec hyperbolic_tangent(vec x) { return 2.0f / (1.0f + exponential(-2.0f * x)) - 1.0f; }

// h' = h + a u (c - h), with c = tanh(x_c + r U_c h).
inline vec next_state(vec update, vec reset, vec candidate, vec of_state, vec state, float scale) {
  const vec wanted = hyperbolic_tangent(candidate + sigmoid(reset) * of_state);
  return state + sigmoid(update) * scale * (wanted - state);
}

void gru_step(const GruStep& call) {
  const int width = call.hidden;
  for (std::int64_t row = 0; row < call.num_rows; ++row) {
    const float* x = call.x + call.place_R[row] * 3 * width;
    const float* u = call.of_state + row * call.of_state_stride;
    float* state = call.state + row * call.state_stride;
    const float scale = call.scale_R ? call.scale_R[row] : 1.0f;
    int h = 0;
    for (; h + L <= width; h += L)
      store(state + h,
            next_state(load<vec>(x + h) + load<vec>(u + h),
                       load<vec>(x + width + h) + load<vec>(u + width + h),
                       load<vec>(x + 2 * width + h), load<vec>(u + 2 * width + h),
                       load<vec>(state + h), scale));
    if (h == width) continue;
    const int left = width - h;
    const auto first = [&](const float* from) { return load_first(from + h, left); };
    const vec next = next_state(first(x) + first(u), first(x + width) + first(u + width),
                                first(x + 2 * width), first(u + 2 * width), first(state), scale);
    std::memcpy(state + h, &next, static_cast<std::size_t>(left) * 4);
  }
}

void activate(const ActivationCall& call) {
  for (std::int64_t row = 0; row < call.num_rows; ++row) {
    float* x_M = call.x + row * call.x_stride;
    const float* added_M = nullptr;
    if (call.added) added_M = call.added + call.added_row[row] * call.added_stride;
    for (int m = 0; m < call.width; m += L) {
      vec x = load<vec>(x_M + m);
      if (added_M) x += load<vec>(added_M + m);
      const vec low = load<vec>(call.slope + m) * x;
      if (call.scale) {
        const vec p = sigmoid(load<vec>(call.scale + m) * x + load<vec>(call.shift + m));
        store(x_M + m, low + p * (x - low));
      } else {
        store(x_M + m, x > 0.0f ? x : low);
      }
    }
  }
}

}  // namespace
}  // namespace tailrank::TAILRANK_ISA
