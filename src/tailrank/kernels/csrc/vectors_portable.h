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
inline V subtract(V a, V b) { return a - b; }
inline V multiply(V a, V b) { return a * b; }
inline V divide(V a, V b) { return a / b; }
inline V square_root(V x) {
  return V{__builtin_sqrtf(x[0]), __builtin_sqrtf(x[1]), __builtin_sqrtf(x[2]),
           __builtin_sqrtf(x[3])};
}
// b where one of them is no number.
inline V maximum(V a, V b) { return a > b ? a : b; }
inline float sum(V x) { return (x[0] + x[2]) + (x[1] + x[3]); }
inline V multiply_add(V a, V b, V c) { return a * b + c; }

inline void store(float* to, V x) { std::memcpy(to, &x, sizeof x); }
inline void store(float* to, V x, int count) {
  std::memcpy(to, &x, sizeof(float) * static_cast<std::size_t>(count));
}

typedef std::uint32_t U __attribute__((vector_size(16)));
typedef std::uint16_t Halves __attribute__((vector_size(8)));
typedef std::uint8_t Bytes __attribute__((vector_size(4)));

// fp16 numbers, their bits in the low halves; also where subnormal numbers count as 0.
inline V from_fp16(U bits) {
  const U sign = (bits & 0x8000u) << 16, rest = (bits & 0x7fffu) << 13;
  // Infinity and NaN keep their fraction; the exponent of all others is 112 too low. Numbers below
  // the smallest normal one are what is behind the leading one of the same bits beside 2^-14.
  const U special = reinterpret_cast<U>(rest >= (0x7c00u << 13));
  const U small = reinterpret_cast<U>(rest < (1u << 23));
  const V least = broadcast(0x1p-14f);
  const U normal = rest + (112u << 23);
  const U below = reinterpret_cast<U>(reinterpret_cast<V>(rest | (113u << 23)) - least);
  const U finite = (small & below) | (~small & normal);
  return reinterpret_cast<V>(sign | (special & (rest | 0x7f800000u)) | (~special & finite));
}

// `count` numbers from the address on, 0 < count <= kWidth; the rest is 0 and not read.
template <typename Codes>
inline U widen(const std::uint8_t* from, int count) {
  Codes codes = {};
  std::memcpy(&codes, from, sizeof(codes[0]) * static_cast<std::size_t>(count));
  return __builtin_convertvector(codes, U);
}

inline V load_fp32(const std::uint8_t* from, int count = kWidth) {
  V x = {};
  std::memcpy(&x, from, sizeof(float) * static_cast<std::size_t>(count));
  return x;
}

inline V load_bf16(const std::uint8_t* from, int count = kWidth) {
  return reinterpret_cast<V>(widen<Halves>(from, count) << 16);
}

inline V load_fp16(const std::uint8_t* from, int count = kWidth) {
  return from_fp16(widen<Halves>(from, count));
}

inline V load_u8(const std::uint8_t* from, int count = kWidth) {
  return __builtin_convertvector(widen<Bytes>(from, count), V);
}

struct ScaleBias {
  float scale, bias;
};

inline ScaleBias load_two_fp16(const std::uint8_t* from) {
  std::uint16_t bits[2];
  std::memcpy(bits, from, sizeof bits);
  const V both = from_fp16(U{bits[0], bits[1], 0, 0});
  return {both[0], both[1]};
}

// Numbers of four bits, two a byte, the low half first.
class FourBit {
 public:
  explicit FourBit(ScaleBias row) : scale_(broadcast(row.scale)), bias_(broadcast(row.bias)) {}

  V numbers(const std::uint8_t* from, int count = kWidth) const {
    std::uint8_t bytes[2] = {};
    std::memcpy(bytes, from, static_cast<std::size_t>((count + 1) / 2));
    const std::uint32_t low = bytes[0], high = bytes[1];
    const U codes = {low & 15, low >> 4, high & 15, high >> 4};
    return multiply_add(scale_, __builtin_convertvector(codes, V), bias_);
  }
  // The low or the high halves of kWidth bytes.
  V halves(const std::uint8_t* from, bool high) const {
    const U bytes = widen<Bytes>(from, kWidth);
    const U codes = high ? bytes >> 4 : bytes & 15;
    return multiply_add(scale_, __builtin_convertvector(codes, V), bias_);
  }

 private:
  V scale_, bias_;
};

// a0 b0 a1 b1 ... of the first half, then of the second.
inline void interleave(V& a, V& b) {
  const V first = {a[0], b[0], a[1], b[1]};
  b = V{a[2], b[2], a[3], b[3]};
  a = first;
}

}  // namespace
}  // namespace tailrank::portable
