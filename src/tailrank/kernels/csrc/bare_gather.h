// The floor of every lookup: touch each cache line of random rows, and nothing else.
#pragma once

#include <cstdint>

namespace tailrank {

// Reads one word of each cache line that `row_bytes` from `rows + id * row_bytes` lie on, asking for
// rows `prefetch_rows` ahead. No id is checked: a yardstick for benchmarks, not for use.
// Returns the sum of the words, so that no read can be left out.
std::uint64_t bare_gather(const std::uint8_t* rows, std::int64_t row_bytes, const std::int64_t* ids,
                          std::int64_t num_ids, int prefetch_rows);

}  // namespace tailrank
