// Eight floats at a time, and how stored numbers become them. x86-64-v3.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

namespace tailrank::avx2 {
namespace {

using V = __m256;
constexpr int kWidth = 8;

// `count` numbers from the address on, 0 < count < kWidth; the rest is 0 and not read.
inline __m128i first_bytes(const std::uint8_t* from, int count) {
  alignas(16) std::uint8_t copy[16] = {};
  std::memcpy(copy, from, static_cast<std::size_t>(count));
  return _mm_load_si128(reinterpret_cast<const __m128i*>(copy));
}

inline V broadcast(float x) { return _mm256_set1_ps(x); }
inline V add(V a, V b) { return _mm256_add_ps(a, b); }
inline V subtract(V a, V b) { return _mm256_sub_ps(a, b); }
inline V multiply(V a, V b) { return _mm256_mul_ps(a, b); }
inline V divide(V a, V b) { return _mm256_div_ps(a, b); }
inline V square_root(V x) { return _mm256_sqrt_ps(x); }
// b where one of them is no number.
inline V maximum(V a, V b) { return _mm256_max_ps(a, b); }
inline float sum(V x) {
  __m128 four = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  four = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(four, _mm_movehdup_ps(four)));
}
inline V multiply_add(V a, V b, V c) { return _mm256_fmadd_ps(a, b, c); }

inline void store(float* to, V x) { _mm256_storeu_ps(to, x); }
inline void store(float* to, V x, int count) {
  alignas(32) float copy[kWidth];
  _mm256_store_ps(copy, x);
  std::memcpy(to, copy, sizeof(float) * static_cast<std::size_t>(count));
}

inline V load_fp32(const std::uint8_t* from) {
  return _mm256_loadu_ps(reinterpret_cast<const float*>(from));
}
inline V load_fp32(const std::uint8_t* from, int count) {
  alignas(32) float copy[kWidth] = {};
  std::memcpy(copy, from, sizeof(float) * static_cast<std::size_t>(count));
  return _mm256_load_ps(copy);
}

inline V from_bf16(__m128i x) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(x), 16));
}
inline V load_bf16(const std::uint8_t* from) {
  return from_bf16(_mm_loadu_si128(reinterpret_cast<const __m128i_u*>(from)));
}
inline V load_bf16(const std::uint8_t* from, int count) {
  return from_bf16(first_bytes(from, 2 * count));
}

inline V load_fp16(const std::uint8_t* from) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i_u*>(from)));
}
inline V load_fp16(const std::uint8_t* from, int count) {
  return _mm256_cvtph_ps(first_bytes(from, 2 * count));
}

inline V from_u8(__m128i x) { return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(x)); }
inline V load_u8(const std::uint8_t* from) {
  return from_u8(_mm_loadl_epi64(reinterpret_cast<const __m128i_u*>(from)));
}
inline V load_u8(const std::uint8_t* from, int count) {
  return from_u8(first_bytes(from, count));
}

struct ScaleBias {
  float scale, bias;
};

inline ScaleBias load_two_fp16(const std::uint8_t* from) {
  std::int32_t bits;
  std::memcpy(&bits, from, sizeof bits);
  const __m128 both = _mm_cvtph_ps(_mm_cvtsi32_si128(bits));
  return {_mm_cvtss_f32(both), _mm_cvtss_f32(_mm_movehdup_ps(both))};
}

// Numbers of four bits, two a byte, the low half first.
class FourBit {
 public:
  explicit FourBit(ScaleBias row) : scale_(broadcast(row.scale)), bias_(broadcast(row.bias)) {}

  V numbers(const std::uint8_t* from) const { return numbers(from, kWidth); }
  V numbers(const std::uint8_t* from, int count) const {
    std::int32_t bytes = 0;
    std::memcpy(&bytes, from, static_cast<std::size_t>((count + 1) / 2));
    const __m256i shift = _mm256_set_epi32(28, 24, 20, 16, 12, 8, 4, 0);
    const __m256i codes = _mm256_srlv_epi32(_mm256_set1_epi32(bytes), shift);
    const V q = _mm256_cvtepi32_ps(_mm256_and_si256(codes, _mm256_set1_epi32(15)));
    return multiply_add(scale_, q, bias_);
  }
  // The low or the high halves of kWidth bytes.
  V halves(const std::uint8_t* from, bool high) const {
    const __m256i bytes =
        _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i_u*>(from)));
    const __m256i codes =
        high ? _mm256_srli_epi32(bytes, 4) : _mm256_and_si256(bytes, _mm256_set1_epi32(15));
    return multiply_add(scale_, _mm256_cvtepi32_ps(codes), bias_);
  }

 private:
  V scale_, bias_;
};

// a0 b0 a1 b1 ... of the first half, then of the second.
inline void interleave(V& a, V& b) {
  const V low = _mm256_unpacklo_ps(a, b), high = _mm256_unpackhi_ps(a, b);
  a = _mm256_permute2f128_ps(low, high, 0x20);
  b = _mm256_permute2f128_ps(low, high, 0x31);
}

}  // namespace
}  // namespace tailrank::avx2
