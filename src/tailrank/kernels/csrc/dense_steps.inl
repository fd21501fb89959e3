// What one step of a tile multiplies, by number format: one float, or a pair of bf16.
//
// Each says how x comes to all lanes of a register, and how a register of weights is added to sums.

#include "dense.h"

namespace tailrank::TAILRANK_ISA {
namespace {

// Elements of x and of the weights that one step of a tile multiplies: one float, or a pair of bf16.
template <DenseFormat F>
struct Step;

template <>
struct Step<DenseFormat::fp32> {
  using Element = float;
  static constexpr int kElements = 1;
  struct X {
    vec value;
  };
  static inline X at(const float* x) { return {broadcast(*x)}; }
  static inline vec add(vec sum, X x, const float* weights) {
    return sum + x.value * load<vec>(weights);
  }
};

template <>
struct Step<DenseFormat::bf16> {
  using Element = std::uint16_t;
  static constexpr int kElements = 2;
#if defined(TAILRANK_AVX512_BF16)
  struct X {
    __m512bh value;
  };
  static inline X at(const std::uint16_t* x) {
    std::int32_t pair;
    std::memcpy(&pair, x, 4);
    return {reinterpret_cast<__m512bh>(_mm512_set1_epi32(pair))};
  }
  static inline vec add(vec sum, X x, const std::uint16_t* weights) {
    const __m512bh w = reinterpret_cast<__m512bh>(_mm512_loadu_si512(weights));
    return reinterpret_cast<vec>(_mm512_dpbf16_ps(reinterpret_cast<__m512>(sum), x.value, w));
  }
#else
  struct X {
    vec even, odd;
  };
  static inline X at(const std::uint16_t* x) {
    std::uint32_t pair;
    std::memcpy(&pair, x, 4);
    const uvec both = uvec{} + pair;
    return {as_floats(both << 16), as_floats(both & 0xffff0000u)};
  }
  static inline vec add(vec sum, X x, const std::uint16_t* weights) {
    const uvec both = load<uvec>(weights);
    return sum + x.even * as_floats(both << 16) + x.odd * as_floats(both & 0xffff0000u);
  }
#endif
};

}  // namespace
}  // namespace tailrank::TAILRANK_ISA
