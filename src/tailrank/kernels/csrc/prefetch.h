// Asks for a cache line.
#pragma once

#define TAILRANK_INLINE inline __attribute__((always_inline))

namespace tailrank {

// Static: each file keeps its own copy, compiled with its own flags.
static TAILRANK_INLINE void prefetch(const void* address) {
  __builtin_prefetch(address);
  // GCC 12 takes a loop that only prefetches for an empty one and drops it.
  asm volatile("");
}

}  // namespace tailrank
