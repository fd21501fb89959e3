// The pooled lookup as Python calls it: what stays the same between calls is prepared once.
#include "lookup_binding.h"

#include <nanobind/nanobind.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/vector.h>

#include <cstdlib>
#include <memory>
#include <new>
#include <utility>
#include <vector>

#include "bare_gather.h"
#include "isa.h"
#include "pooled_lookup.h"

namespace nb = nanobind;

namespace tailrank {
namespace {

constexpr std::uintptr_t kLineBytes = 64;

struct Free {
  void operator()(void* memory) const { std::free(memory); }
};

template <typename T>
T* pointer(std::uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

using Kernel = Fault (*)(const Lookup&);

Kernel kernel_for([[maybe_unused]] Isa isa) {
#if defined(__x86_64__)
  if (isa == Isa::avx512) return avx512::pooled_lookup;
  if (isa == Isa::avx2) return avx2::pooled_lookup;
#endif
  return portable::pooled_lookup;
}

// Safe from several threads: a call changes nothing in it.
class PooledLookup {
 public:
  // `tables`: address and number of rows, one per feature.
  PooledLookup(Isa isa, RowFormat format, int dim, bool mean, int prefetch_rows,
               const std::vector<std::pair<std::uintptr_t, std::uint64_t>>& tables)
      : run_(kernel_for(isa)) {
    const std::uintptr_t bytes = static_cast<std::uintptr_t>(row_bytes(format, dim));
    bool straddles = bytes % kLineBytes != 0;
    for (const auto& [address, num_rows] : tables) {
      straddles |= address % kLineBytes != 0;
      tables_.push_back({pointer<const std::uint8_t>(address), num_rows});
    }
    request_.format = format;
    request_.dim = dim;
    request_.mean = mean;
    request_.straddles = straddles;
    request_.prefetch_rows = prefetch_rows;
    request_.tables = tables_.data();
    request_.num_features = static_cast<std::int64_t>(tables_.size());
  }
  PooledLookup(const PooledLookup&) = delete;

  // None, or what is wrong: (kind, bag, position of the id).
  nb::object operator()(std::int64_t num_rows, std::uintptr_t ids, std::int64_t num_ids,
                        std::uintptr_t offsets, std::uintptr_t weights, std::uintptr_t out,
                        std::int64_t out_stride, bool out_bf16) const {
    Fault fault;
    {
      nb::gil_scoped_release released;
      fault = compute(num_rows, ids, num_ids, offsets, weights, out, out_stride, out_bf16);
    }
    if (fault.kind == Fault::none) return nb::none();
    return nb::make_tuple(static_cast<int>(fault.kind), fault.bag, fault.position);
  }

 private:
  Fault compute(std::int64_t num_rows, std::uintptr_t ids, std::int64_t num_ids,
                std::uintptr_t offsets, std::uintptr_t weights, std::uintptr_t out,
                std::int64_t out_stride, bool out_bf16) const {
    Lookup request = request_;
    request.num_rows = num_rows;
    request.ids = pointer<const std::int64_t>(ids);
    request.num_ids = num_ids;
    request.offsets = pointer<const std::int64_t>(offsets);
    request.weights = pointer<const float>(weights);
    request.out = pointer<void>(out);
    request.out_stride = out_stride;
    request.out_bf16 = out_bf16;
    // Of the dims without a kernel of their own; a vector of 16 floats may reach beyond the dim.
    const std::size_t bytes = (static_cast<std::size_t>(request.dim) / 16 + 1) * 16 * sizeof(float);
    std::unique_ptr<void, Free> scratch(std::aligned_alloc(kLineBytes, bytes));
    if (!scratch) throw std::bad_alloc();
    request.scratch = scratch.get();
    return run_(request);
  }

  Kernel run_;
  std::vector<Table> tables_;
  Lookup request_;
};

std::uint64_t timed_gather(std::uintptr_t rows, std::int64_t bytes_per_row, std::uintptr_t ids,
                           std::int64_t num_ids, int prefetch_rows) {
  nb::gil_scoped_release released;
  return bare_gather(pointer<const std::uint8_t>(rows), bytes_per_row,
                     pointer<const std::int64_t>(ids), num_ids, prefetch_rows);
}

}  // namespace

void bind_lookup(nb::module_& module) {
  nb::enum_<RowFormat>(module, "RowFormat")
      .value("fp32", RowFormat::fp32)
      .value("bf16", RowFormat::bf16)
      .value("fp16", RowFormat::fp16)
      .value("int8", RowFormat::int8)
      .value("int4", RowFormat::int4);
  nb::class_<PooledLookup>(module, "PooledLookup")
      .def(nb::init<Isa, RowFormat, int, bool, int,
                    const std::vector<std::pair<std::uintptr_t, std::uint64_t>>&>())
      .def("__call__", &PooledLookup::operator());
  module.attr("BAD_OFFSETS") = static_cast<int>(Fault::bad_offsets);
  module.attr("BAD_ID") = static_cast<int>(Fault::bad_id);
  module.attr("PREFETCH_ROWS_MAX") = kPrefetchRowsMax;
  module.def("row_bytes", [](RowFormat format, std::int64_t dim) { return row_bytes(format, dim); });
  module.def("bare_gather", &timed_gather);
}

}  // namespace tailrank
