// What one step of a tile multiplies, by number format: one float, a pair of bf16, four bytes.
//
// Each says how x comes to all lanes of a register, and how a register of weights is added to sums.

#include "dense.h"

namespace tailrank::TAILRANK_ISA {
namespace {

// `Element`: of x and of the weights, of which one step multiplies `kElements` to a lane. `Sum`: a
// register of sums. `kColumnElements`: what a panel holds for a column behind the weights.
// `kSums`: registers of sums that leave enough for the rest.
template <DenseFormat F>
struct Step;

template <>
struct Step<DenseFormat::fp32> {
  using Element = float;
  using Sum = vec;
  static constexpr int kSums = TAILRANK_SUMS;
  static constexpr int kColumnElements = 0;
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
  using Sum = vec;
  static constexpr int kSums = TAILRANK_SUMS;
  static constexpr int kColumnElements = 0;
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

#if !defined(TAILRANK_AVX512_VNNI)
// Sums of the products of neighbours: int32 from pairs of 16 bits.
inline ivec add_pairs(ivec a, ivec b) {
#if defined(__AVX512BW__)
  return reinterpret_cast<ivec>(
      _mm512_madd_epi16(reinterpret_cast<__m512i>(a), reinterpret_cast<__m512i>(b)));
#elif defined(__AVX2__)
  return reinterpret_cast<ivec>(
      _mm256_madd_epi16(reinterpret_cast<__m256i>(a), reinterpret_cast<__m256i>(b)));
#elif defined(__SSE2__)
  return reinterpret_cast<ivec>(
      _mm_madd_epi16(reinterpret_cast<__m128i>(a), reinterpret_cast<__m128i>(b)));
#else
  return (a << 16 >> 16) * (b << 16 >> 16) + (a >> 16) * (b >> 16);
#endif
}
#endif

// Codes of x have no sign, those of weights have. A panel ends with its columns' scales and sums of
// codes. No instruction that saturates at 16 bits: two products of codes may not fit.
template <>
struct Step<DenseFormat::int8> {
  using Element = std::uint8_t;
  using Sum = ivec;
  static constexpr int kElements = 4;
  static constexpr int kColumnElements = 8;
#if defined(TAILRANK_AVX512_VNNI)
  static constexpr int kSums = TAILRANK_SUMS;
  struct X {
    __m512i value;
  };
  static inline X at(const std::uint8_t* x) {
    std::int32_t four;
    std::memcpy(&four, x, 4);
    return {_mm512_set1_epi32(four)};
  }
  static inline ivec add(ivec sum, X x, const std::uint8_t* weights) {
    const __m512i w = _mm512_loadu_si512(weights);
    return reinterpret_cast<ivec>(
        _mm512_dpbusd_epi32(reinterpret_cast<__m512i>(sum), x.value, w));
  }
#else
  static constexpr int kSums = TAILRANK_SUMS * 2 / 3;
  typedef std::int16_t svec __attribute__((vector_size(4 * L)));
  struct X {
    ivec even, odd;  // the bytes at even and at odd places, each in 16 bits
  };
  static inline X at(const std::uint8_t* x) {
    std::uint32_t four;
    std::memcpy(&four, x, 4);
    const uvec all = uvec{} + four;
    return {reinterpret_cast<ivec>(all & 0x00ff00ffu),
            reinterpret_cast<ivec>(all >> 8 & 0x00ff00ffu)};
  }
  static inline ivec add(ivec sum, X x, const std::uint8_t* weights) {
    const svec both = load<svec>(weights);
    const ivec even = reinterpret_cast<ivec>(both << 8 >> 8);
    const ivec odd = reinterpret_cast<ivec>(both >> 8);
    return sum + add_pairs(x.even, even) + add_pairs(x.odd, odd);
  }
#endif
};

}  // namespace
}  // namespace tailrank::TAILRANK_ISA
