// What a kernel's call holds while it computes.
#pragma once

#include <nanobind/nanobind.h>

#if defined(__SSE__)
#include <xmmintrin.h>
#endif

namespace tailrank {

// Takes numbers below 1.2e-38 for 0, on this thread. A trained model has many: weights that decay
// and that nothing moves. Intel's cores need some 150 cycles for an operation with one, so that a
// product with a third of them took 190 times as long.
class SubnormalsAsZero {
 public:
#if defined(__SSE__)
  SubnormalsAsZero() : before_(_mm_getcsr()) { _mm_setcsr(before_ | kFlushToZero | kReadAsZero); }
  ~SubnormalsAsZero() { _mm_setcsr(before_); }
#else
  SubnormalsAsZero() = default;
#endif
  SubnormalsAsZero(const SubnormalsAsZero&) = delete;
  SubnormalsAsZero& operator=(const SubnormalsAsZero&) = delete;

 private:
#if defined(__SSE__)
  // Source: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 1, 10.2.3.
  static constexpr unsigned kFlushToZero = 1u << 15, kReadAsZero = 1u << 6;
  unsigned before_;
#endif
};

// Not the interpreter lock, and no subnormal numbers.
struct Computing {
  nanobind::gil_scoped_release released;
  SubnormalsAsZero subnormals_as_zero;
};

}  // namespace tailrank
