// Sixteen floats at a time, and how stored numbers become them. x86-64-v4.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

namespace tailrank::avx512 {
namespace {

using V = __m512;
constexpr int kWidth = 16;

// `count` numbers from the address on, 0 < count < kWidth; the rest is 0 and not read.
inline __mmask16 first_numbers(int count) { return static_cast<__mmask16>((1u << count) - 1u); }

inline V broadcast(float x) { return _mm512_set1_ps(x); }
inline V add(V a, V b) { return _mm512_add_ps(a, b); }
inline V subtract(V a, V b) { return _mm512_sub_ps(a, b); }
inline V multiply(V a, V b) { return _mm512_mul_ps(a, b); }
inline V divide(V a, V b) { return _mm512_div_ps(a, b); }
inline V square_root(V x) { return _mm512_sqrt_ps(x); }
// b where one of them is no number.
inline V maximum(V a, V b) { return _mm512_max_ps(a, b); }
inline float sum(V x) { return _mm512_reduce_add_ps(x); }
inline V multiply_add(V a, V b, V c) { return _mm512_fmadd_ps(a, b, c); }

inline void store(float* to, V x) { _mm512_storeu_ps(to, x); }
inline void store(float* to, V x, int count) {
  _mm512_mask_storeu_ps(to, first_numbers(count), x);
}

inline V load_fp32(const std::uint8_t* from) { return _mm512_loadu_ps(from); }
inline V load_fp32(const std::uint8_t* from, int count) {
  return _mm512_maskz_loadu_ps(first_numbers(count), from);
}

inline V from_bf16(__m256i x) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16));
}
inline V load_bf16(const std::uint8_t* from) {
  return from_bf16(_mm256_loadu_si256(reinterpret_cast<const __m256i_u*>(from)));
}
inline V load_bf16(const std::uint8_t* from, int count) {
  return from_bf16(_mm256_maskz_loadu_epi16(first_numbers(count), from));
}

inline V load_fp16(const std::uint8_t* from) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i_u*>(from)));
}
inline V load_fp16(const std::uint8_t* from, int count) {
  return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(first_numbers(count), from));
}

inline V from_u8(__m128i x) { return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(x)); }
inline V load_u8(const std::uint8_t* from) {
  return from_u8(_mm_loadu_si128(reinterpret_cast<const __m128i_u*>(from)));
}
inline V load_u8(const std::uint8_t* from, int count) {
  return from_u8(_mm_maskz_loadu_epi8(first_numbers(count), from));
}

struct ScaleBias {
  V scale, bias;
};

inline ScaleBias load_two_fp16(const std::uint8_t* from) {
  std::int32_t bits;
  std::memcpy(&bits, from, sizeof bits);
  const V both = _mm512_cvtph_ps(_mm256_set1_epi32(bits));
  return {_mm512_moveldup_ps(both), _mm512_movehdup_ps(both)};
}

// Numbers of four bits, two a byte, the low half first. A row holds sixteen different numbers, and a
// vector holds sixteen: codes pick from it and nothing is converted.
class FourBit {
 public:
  explicit FourBit(ScaleBias row)
      : sixteen_(_mm512_fmadd_ps(_mm512_set_ps(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0),
                                 row.scale, row.bias)) {}

  V numbers(const std::uint8_t* from) const {
    return pick(_mm_loadl_epi64(reinterpret_cast<const __m128i_u*>(from)));
  }
  V numbers(const std::uint8_t* from, int count) const {
    return pick(_mm_maskz_loadu_epi8(first_numbers((count + 1) / 2), from));
  }
  // The low or the high halves of kWidth bytes: two operations and an add for sixteen numbers. The
  // permutation looks at the lowest four bits only.
  V halves(const std::uint8_t* from, bool high) const {
    __m512i bytes = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i_u*>(from)));
    if (high) bytes = _mm512_srli_epi32(bytes, 4);
    return _mm512_permutexvar_ps(bytes, sixteen_);
  }

 private:
  V pick(__m128i bytes) const {
    // Eight codes are four bytes: each lane takes those that hold its own and shifts it down. The
    // permutation looks at the lowest four bits only.
    const __m512i which = _mm512_set_epi32(1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0);
    const __m512i shift = _mm512_set_epi32(28, 24, 20, 16, 12, 8, 4, 0, 28, 24, 20, 16, 12, 8, 4, 0);
    const __m512i eights = _mm512_permutexvar_epi32(which, _mm512_castsi128_si512(bytes));
    return _mm512_permutexvar_ps(_mm512_srlv_epi32(eights, shift), sixteen_);
  }

  V sixteen_;
};

// a0 b0 a1 b1 ... of the first half, then of the second.
inline void interleave(V& a, V& b) {
  const __m512i low =
      _mm512_set_epi32(23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  const __m512i high = _mm512_add_epi32(low, _mm512_set1_epi32(8));
  const V first = _mm512_permutex2var_ps(a, low, b);
  b = _mm512_permutex2var_ps(a, high, b);
  a = first;
}

}  // namespace
}  // namespace tailrank::avx512
