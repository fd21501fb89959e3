// Four floats at a time, and how stored numbers become them. Any CPU; nothing but the compiler's
// own vectors.
#pragma once

#include <cstdint>
#include <cstring>

namespace tailrank::portable {
namespace {

typedef float V __attribute__((vector_size(16)));
constexpr int kWidth = 4;

inline V broadcast(float x) { return V{x, x, x, x}; }
inline V add(V a, V b) { return a + b; }
inline V divide(V a, V b) { return a / b; }
inline V multiply_add(V a, V b, V c) { return a * b + c; }

inline void store(float* to, V x) { std::memcpy(to, &x, sizeof x); }
inline void store(float* to, V x, int count) {
  std::memcpy(to, &x, sizeof(float) * static_cast<std::size_t>(count));
}

inline float number(std::uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

inline float fp16_number(std::uint16_t bits) {
  const std::uint32_t sign = (bits & 0x8000u) << 16, rest = bits & 0x7fffu;
  // Infinity and NaN keep their fraction. All others, numbers below the smallest normal one too,
  // are the same bits with the exponent 112 too low.
  if (rest >= 0x7c00u) return number(sign | 0x7f800000u | (rest << 13));
  return number(sign | 0x3f800000u) * (number(rest << 13) * 0x1p112f);
}

// `count` numbers from the address on, 0 < count <= kWidth; the rest is 0 and not read.
inline V load_fp32(const std::uint8_t* from, int count = kWidth) {
  V x = {};
  std::memcpy(&x, from, sizeof(float) * static_cast<std::size_t>(count));
  return x;
}

inline V load_bf16(const std::uint8_t* from, int count = kWidth) {
  std::uint16_t bits[kWidth] = {};
  std::memcpy(bits, from, 2 * static_cast<std::size_t>(count));
  V x;
  for (int i = 0; i < kWidth; ++i) x[i] = number(static_cast<std::uint32_t>(bits[i]) << 16);
  return x;
}

inline V load_fp16(const std::uint8_t* from, int count = kWidth) {
  std::uint16_t bits[kWidth] = {};
  std::memcpy(bits, from, 2 * static_cast<std::size_t>(count));
  V x;
  for (int i = 0; i < kWidth; ++i) x[i] = fp16_number(bits[i]);
  return x;
}

inline V load_u8(const std::uint8_t* from, int count = kWidth) {
  V x = {};
  for (int i = 0; i < count; ++i) x[i] = static_cast<float>(from[i]);
  return x;
}

// Two numbers a byte, the low half first.
inline V load_u4(const std::uint8_t* from, int count = kWidth) {
  V x = {};
  for (int i = 0; i < count; ++i)
    x[i] = static_cast<float>(i % 2 ? from[i / 2] >> 4 : from[i / 2] & 15);
  return x;
}

}  // namespace
}  // namespace tailrank::portable
