// Sparse steps as Python calls them: one table, its state and the work space between two calls.
#include "sparse_binding.h"

#include <nanobind/nanobind.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <cstdint>
#include <tuple>
#include <vector>

#include "computing.h"
#include "isa.h"
#include "memory.h"
#include "row_sort.h"
#include "sparse_update.h"

namespace nb = nanobind;

namespace tailrank {
namespace {

constexpr std::uintptr_t kLineBytes = 64;

template <typename T>
T* pointer(std::uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

struct Kernels {
  void (*step)(const SparseStep&);
  double (*squared_norm)(const SparseStep&);
};

Kernels kernels_for([[maybe_unused]] Isa isa) {
#if defined(__x86_64__)
  if (isa == Isa::avx512) return {avx512::sparse_step, avx512::squared_norm};
  if (isa == Isa::avx2) return {avx2::sparse_step, avx2::squared_norm};
#endif
  return {portable::sparse_step, portable::squared_norm};
}

// Not for several threads at once: what `read` found waits in it for the calls that follow.
class SparseUpdate {
 public:
  SparseUpdate(Isa isa, RowRule rule, std::uintptr_t weight, std::uint64_t num_rows, int dim,
               const std::vector<std::uintptr_t>& state, float eps, float new_mean,
               float new_square, int prefetch_rows)
      : kernels_(kernels_for(isa)),
        num_rows_(num_rows),
        scratch_(static_cast<std::size_t>(dim) + 16) {
    step_.rule = rule;
    step_.dim = dim;
    step_.weight = pointer<float>(weight);
    step_.straddles = (weight | 4 * static_cast<std::uintptr_t>(dim)) % kLineBytes != 0;
    for (std::size_t i = 0; i < state.size(); ++i) {
      step_.state[i] = pointer<float>(state[i]);
      step_.straddles |= state[i] % kLineBytes != 0;
    }
    step_.eps = eps;
    step_.new_mean = new_mean;
    step_.new_square = new_square;
    step_.prefetch_rows = prefetch_rows;
    step_.scratch = scratch_.get();
  }
  SparseUpdate(const SparseUpdate&) = delete;

  // Lookups: ids, their number, offsets, number of bags, factors. None, or what is wrong: (kind,
  // lookup, position).
  using Lookup =
      std::tuple<std::uintptr_t, std::int64_t, std::uintptr_t, std::int64_t, std::uintptr_t>;
  nb::object read(const std::vector<Lookup>& lookups) {
    SortFault fault;
    {
      const Computing computing;
      std::vector<IdBags> bags;
      gradients_.clear();
      std::uint32_t first = 0;
      for (const auto& [ids, num_ids, offsets, num_bags, factors] : lookups) {
        bags.push_back({pointer<const std::int64_t>(ids), num_ids,
                        pointer<const std::int64_t>(offsets), num_bags,
                        pointer<const float>(factors)});
        const std::uint32_t end = first + static_cast<std::uint32_t>(num_bags);
        gradients_.push_back({nullptr, first, end});
        first = end;
      }
      fault = sorted_.sort(bags, num_rows_);
    }
    if (fault.kind == SortFault::none) return nb::none();
    return nb::make_tuple(static_cast<int>(fault.kind), fault.lookup, fault.position);
  }

  // Room for every id; how many different rows there are.
  std::int64_t rows(std::uintptr_t out) const {
    const Computing computing;
    std::int64_t* to = pointer<std::int64_t>(out);
    std::int64_t num_rows = 0;
    for (std::int64_t i = 0; i < sorted_.size(); ++i) {
      const std::uint64_t row = row_of(sorted_.occurrences()[i]);
      if (i == 0 || row != row_of(sorted_.occurrences()[i - 1]))
        to[num_rows++] = static_cast<std::int64_t>(row);
    }
    return num_rows;
  }

  double squared_norm(const std::vector<std::uintptr_t>& gradients) {
    const Computing computing;
    return kernels_.squared_norm(step_of(gradients));
  }

  void update(const std::vector<std::uintptr_t>& gradients, float lr, float scale, float l2) {
    const Computing computing;
    SparseStep step = step_of(gradients);
    step.lr = lr;
    step.scale = scale;
    step.l2 = l2;
    kernels_.step(step);
  }

 private:
  // `gradients`: one address for each lookup that was read.
  SparseStep step_of(const std::vector<std::uintptr_t>& gradients) {
    for (std::size_t i = 0; i < gradients_.size(); ++i)
      gradients_[i].rows = pointer<const float>(gradients.at(i));
    SparseStep step = step_;
    step.occurrences = sorted_.occurrences();
    step.num_occurrences = sorted_.size();
    step.gradients = gradients_.data();
    step.bags = sorted_.bags();
    step.factors = sorted_.factors();
    return step;
  }

  Kernels kernels_;
  std::uint64_t num_rows_;
  Buffer<float> scratch_;
  SparseStep step_;
  RowSort sorted_;
  std::vector<BagGradients> gradients_;
};

}  // namespace

void bind_sparse_update(nb::module_& module) {
  nb::enum_<RowRule>(module, "RowRule")
      .value("sgd", RowRule::sgd)
      .value("rowwise_adagrad", RowRule::rowwise_adagrad)
      .value("adagrad", RowRule::adagrad)
      .value("adam", RowRule::adam)
      .value("amsgrad", RowRule::amsgrad);
  nb::class_<SparseUpdate>(module, "SparseUpdate")
      .def(nb::init<Isa, RowRule, std::uintptr_t, std::uint64_t, int,
                    const std::vector<std::uintptr_t>&, float, float, float, int>())
      .def("read", &SparseUpdate::read)
      .def("rows", &SparseUpdate::rows)
      .def("squared_norm", &SparseUpdate::squared_norm)
      .def("update", &SparseUpdate::update);
}

}  // namespace tailrank
