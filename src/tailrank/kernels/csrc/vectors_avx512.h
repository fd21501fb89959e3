// Sixteen floats at a time, and how stored numbers become them. x86-64-v4.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace tailrank::avx512 {
namespace {

using V = __m512;
constexpr int kWidth = 16;

// `count` numbers from the address on, 0 < count < kWidth; the rest is 0 and not read.
inline __mmask16 first_numbers(int count) { return static_cast<__mmask16>((1u << count) - 1u); }

inline V broadcast(float x) { return _mm512_set1_ps(x); }
inline V add(V a, V b) { return _mm512_add_ps(a, b); }
inline V divide(V a, V b) { return _mm512_div_ps(a, b); }
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

// Two numbers a byte, the low half first.
inline V from_u4(__m128i x) {
  const __m128i low = _mm_and_si128(x, _mm_set1_epi8(15));
  const __m128i high = _mm_and_si128(_mm_srli_epi16(x, 4), _mm_set1_epi8(15));
  return from_u8(_mm_unpacklo_epi8(low, high));
}
inline V load_u4(const std::uint8_t* from) {
  return from_u4(_mm_loadl_epi64(reinterpret_cast<const __m128i_u*>(from)));
}
inline V load_u4(const std::uint8_t* from, int count) {
  return from_u4(_mm_maskz_loadu_epi8(first_numbers((count + 1) / 2), from));
}

inline float fp16_number(std::uint16_t bits) {
  return _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(bits)));
}

}  // namespace
}  // namespace tailrank::avx512
