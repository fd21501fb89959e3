// Vectors of one instruction set, in the words of the compiler: `L` floats of a register.

#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace tailrank::TAILRANK_ISA {
namespace {

constexpr int L = TAILRANK_LANES;

typedef float vec __attribute__((vector_size(4 * L)));
typedef std::uint32_t uvec __attribute__((vector_size(4 * L)));
typedef std::int32_t ivec __attribute__((vector_size(4 * L)));
typedef std::uint16_t hvec __attribute__((vector_size(2 * L)));
typedef std::uint8_t bvec __attribute__((vector_size(L)));

// From and to any address: the compiler turns each into one unaligned move.
template <typename V>
inline V load(const void* from) {
  V value;
  std::memcpy(&value, from, sizeof(V));
  return value;
}

template <typename V>
inline void store(void* to, V value) {
  std::memcpy(to, &value, sizeof(V));
}

// Less 0 rather than plus 0, which would be an instruction: it turns -0 into 0.
inline vec broadcast(float x) { return x - vec{}; }

inline vec as_floats(uvec bits) { return reinterpret_cast<vec>(bits); }

// Not fmax: NaN has to come through, so that a broken feature cannot give a sound score.
inline vec rectified(vec x) { return x < 0.0f ? vec{} : x; }

// bf16 by rounding to the nearest even value; NaN stays NaN.
inline hvec to_bf16_bits(vec x) {
#if defined(TAILRANK_AVX512_BF16)
  return reinterpret_cast<hvec>(_mm512_cvtneps_pbh(reinterpret_cast<__m512>(x)));
#else
  const uvec bits = reinterpret_cast<uvec>(x);
  const uvec rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const uvec quiet = (bits >> 16) | 0x40u;
  const ivec is_nan = x != x;
  return __builtin_convertvector(is_nan ? quiet : rounded, hvec);
#endif
}

// Keeps the compiler from fusing the product x with a sum: the codes of int8 are the same on every
// instruction set.
inline vec rounded(vec x) {
#if defined(__x86_64__)
  asm("" : "+x"(x));
#elif defined(__aarch64__)
  asm("" : "+w"(x));
#else
  asm("" : "+m"(x));
#endif
  return x;
}

// The nearest whole number, ties to even, where |x| < 2^22.
inline ivec nearest(vec x) {
  constexpr float kShift = 12582912.0f;  // 1.5 * 2^23: the sum's last bit is worth one
  return reinterpret_cast<ivec>(rounded(x) + kShift) - 0x4b400000;
}

template <typename V>
inline V least_of(V a, V b) {
  return a < b ? a : b;
}

template <typename V>
inline V largest_of(V a, V b) {
  return a > b ? a : b;
}

alignas(64) constexpr std::int32_t kLanes[] = {0, 1, 2,  3,  4,  5,  6,  7,
                                               8, 9, 10, 11, 12, 13, 14, 15};

// One number from all lanes: `pick` is given halves, quarters and so on.
template <typename V>
inline auto over_lanes(V x, V (*pick)(V, V)) {
#pragma GCC unroll 4
  for (int half = L / 2; half > 0; half /= 2)
    x = pick(x, __builtin_shuffle(x, load<ivec>(kLanes) ^ half));
  return x[0];
}

constexpr int vectors_of(int width) { return (width + L - 1) / L; }

// The first `count` floats, and 0 behind them.
inline vec load_first(const float* from, int count) {
  vec result{};
  std::memcpy(&result, from, static_cast<std::size_t>(count) * 4);
  return result;
}

}  // namespace
}  // namespace tailrank::TAILRANK_ISA
