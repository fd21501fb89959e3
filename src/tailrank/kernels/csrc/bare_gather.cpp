#include "bare_gather.h"

#include <algorithm>
#include <cstring>
#include <type_traits>

#include "prefetch.h"

namespace tailrank {
namespace {

constexpr std::int64_t kLineBytes = 64;

std::uint64_t word(const std::uint8_t* at) {
  std::uint64_t x;
  std::memcpy(&x, at, sizeof x);
  return x;
}

// kLines: lines of an aligned row of this size; one more read covers rows that lie across.
template <int kLines>
std::uint64_t gather(const std::uint8_t* rows, std::int64_t row_bytes, const std::int64_t* ids,
                     std::int64_t num_ids, int prefetch_rows, bool straddles) {
  const auto prefetch_row = [&](std::int64_t id) {
    const std::uint8_t* row = rows + id * row_bytes;
    for (int line = 0; line < kLines; ++line) prefetch(row + line * kLineBytes);
    if (straddles) prefetch(row + row_bytes - 1);
  };
  const std::int64_t ahead = std::min<std::int64_t>(prefetch_rows, num_ids);
  for (std::int64_t l = 0; l < ahead; ++l) prefetch_row(ids[l]);
  std::uint64_t sum = 0;
  for (std::int64_t l = 0; l < num_ids; ++l) {
    if (l + ahead < num_ids) prefetch_row(ids[l + ahead]);
    const std::uint8_t* row = rows + ids[l] * row_bytes;
    for (int line = 0; line < kLines; ++line)
      sum += word(row + std::min(line * kLineBytes, row_bytes - 8));
    if (straddles) sum += word(row + row_bytes - 8);
  }
  return sum;
}

}  // namespace

std::uint64_t bare_gather(const std::uint8_t* rows, std::int64_t row_bytes, const std::int64_t* ids,
                          std::int64_t num_ids, int prefetch_rows) {
  const bool straddles =
      row_bytes % kLineBytes != 0 || reinterpret_cast<std::uintptr_t>(rows) % kLineBytes != 0;
  const auto run = [&](auto lines) {
    return gather<lines()>(rows, row_bytes, ids, num_ids, prefetch_rows, straddles);
  };
  switch ((row_bytes + kLineBytes - 1) / kLineBytes) {
    case 1: return run(std::integral_constant<int, 1>());
    case 2: return run(std::integral_constant<int, 2>());
    case 3: return run(std::integral_constant<int, 3>());
    case 4: return run(std::integral_constant<int, 4>());
    default: return run(std::integral_constant<int, 8>());
  }
}

}  // namespace tailrank
