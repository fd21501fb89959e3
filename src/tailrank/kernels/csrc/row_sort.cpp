#include "row_sort.h"

#include <algorithm>
#include <bit>

#include "prefetch.h"

namespace tailrank {
namespace {

// 2048 counters are a sixth of the first cache; 22 bits, four million rows, need two passes.
constexpr int kDigitBitsMax = 11;

SortFault check_offsets(const std::vector<IdBags>& lookups) {
  for (std::size_t i = 0; i < lookups.size(); ++i) {
    const IdBags& x = lookups[i];
    const auto fault = [&](std::int64_t at) {
      return SortFault{SortFault::bad_offsets, static_cast<std::int64_t>(i), at};
    };
    if (x.offsets[0] != 0) return fault(0);
    for (std::int64_t bag = 0; bag < x.num_bags; ++bag)
      if (x.offsets[bag + 1] < x.offsets[bag] || x.offsets[bag + 1] > x.num_ids)
        return fault(bag + 1);
    if (x.offsets[x.num_bags] != x.num_ids) return fault(x.num_bags);
  }
  return {};
}

// `visit(row, place)` for every id; places are bags, or positions.
template <bool kPositions, typename Visit>
void each_id(const std::vector<IdBags>& lookups, Visit visit) {
  std::uint64_t position = 0, bag = 0;
  for (const IdBags& x : lookups)
    for (std::int64_t i = 0; i < x.num_bags; ++i, ++bag)
      for (std::int64_t at = x.offsets[i]; at < x.offsets[i + 1]; ++at, ++position)
        visit(static_cast<std::uint64_t>(x.ids[at]), kPositions ? position : bag);
}

// Numbers of elements with each digit to the place of the first one with it.
void to_places(std::uint32_t* counts, int num_digits) {
  std::uint32_t before = 0;
  for (int digit = 0; digit < num_digits; ++digit) {
    const std::uint32_t count = counts[digit];
    counts[digit] = before;
    before += count;
  }
}

}  // namespace

SortFault RowSort::sort(const std::vector<IdBags>& lookups, std::uint64_t num_rows) {
  size_ = 0;
  if (const SortFault fault = check_offsets(lookups); fault.kind != SortFault::none) return fault;
  std::int64_t size = 0;
  weighted_ = false;
  for (const IdBags& x : lookups) {
    size += x.num_ids;
    weighted_ |= x.factors != nullptr;
  }
  const int bits = std::max(1, static_cast<int>(std::bit_width(num_rows - 1)));
  const int passes = (bits + kDigitBitsMax - 1) / kDigitBitsMax;
  const int digit_bits = (bits + passes - 1) / passes, num_digits = 1 << digit_bits;
  const std::uint64_t mask = static_cast<std::uint64_t>(num_digits) - 1;
  const std::size_t room = static_cast<std::size_t>(size);
  Occurrence* const halves[] = {halves_[0].reserve(room), halves_[1].reserve(room)};
  std::uint32_t* counts = counts_.reserve(static_cast<std::size_t>(passes) * num_digits);
  std::fill_n(counts, passes * num_digits, 0u);
  // What a pass will write all over is asked for in the loop before it, in order: since the last
  // step other memory has taken its place in the cache, and scattered writes wait one by one.
  const Occurrence* ahead = halves[0];
  for (std::size_t i = 0; i < lookups.size(); ++i) {
    for (std::int64_t at = 0; at < lookups[i].num_ids; ++at) {
      prefetch(ahead++);
      const std::uint64_t row = static_cast<std::uint64_t>(lookups[i].ids[at]);
      if (row >= num_rows) return {SortFault::bad_id, static_cast<std::int64_t>(i), at};
      for (int pass = 0; pass < passes; ++pass)
        ++counts[pass * num_digits + (row >> (pass * digit_bits) & mask)];
    }
  }
  for (int pass = 0; pass < passes; ++pass) to_places(counts + pass * num_digits, num_digits);

  Occurrence* to = halves[0];
  ahead = halves[1];
  const auto first_pass = [&](std::uint64_t row, std::uint64_t place) {
    prefetch(ahead++);
    to[counts[row & mask]++] = row << 32 | place;
  };
  if (weighted_) {
    each_id<true>(lookups, first_pass);
    std::uint32_t* bags = bags_.reserve(room);
    const auto keep_bag = [&](std::uint64_t, std::uint64_t bag) {
      *bags++ = static_cast<std::uint32_t>(bag);
    };
    each_id<false>(lookups, keep_bag);
    float* factors = factors_.reserve(room);
    for (const IdBags& x : lookups) {
      if (x.factors)
        std::copy_n(x.factors, x.num_ids, factors);
      else
        std::fill_n(factors, x.num_ids, 1.0f);
      factors += x.num_ids;
    }
  } else {
    each_id<false>(lookups, first_pass);
  }
  const Occurrence* from = to;
  for (int pass = 1; pass < passes; ++pass) {
    to = halves[pass % 2];
    std::uint32_t* places = counts + pass * num_digits;
    const int shift = 32 + pass * digit_bits;
    for (std::int64_t i = 0; i < size; ++i) to[places[from[i] >> shift & mask]++] = from[i];
    from = to;
  }
  sorted_ = from;
  size_ = size;
  return {};
}

}  // namespace tailrank
