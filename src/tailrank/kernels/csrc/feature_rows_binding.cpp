// Feature tables as Python calls them: what stays the same between calls is prepared once.
#include "feature_rows_binding.h"

#include "feature_rows.h"

namespace nb = nanobind;

namespace tailrank {
namespace {

template <typename T>
T* pointer(std::uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

// Both are safe from several threads: a call changes nothing in them.
struct BoundIds {
  BoundIds(std::uintptr_t ids, std::uintptr_t hashes, std::uintptr_t rows, std::uintptr_t directory,
           std::int64_t num_ids, std::int64_t words, std::uint64_t seed, int place_bytes,
           int directory_bits)
      : index{pointer<const std::uint64_t>(ids),
              pointer<const std::uint64_t>(hashes),
              pointer<const void>(rows),
              pointer<const void>(directory),
              num_ids,
              words,
              seed,
              place_bytes,
              directory_bits} {}

  void find(std::uintptr_t asked, std::int64_t num_asked, std::uintptr_t rows) const {
    nb::gil_scoped_release released;
    find_rows(index, pointer<const std::uint64_t>(asked), num_asked, pointer<std::int64_t>(rows));
  }

  IdRows index;
};

struct BoundRows {
  BoundRows(std::uintptr_t values, std::int64_t num_values, int value_bytes, std::uintptr_t offsets,
            std::uintptr_t weights, std::uintptr_t dense, std::int64_t dense_bytes,
            std::int64_t num_sparse, std::int64_t num_rows)
      : table{pointer<const void>(values),
              num_values,
              pointer<const std::int64_t>(offsets),
              pointer<const float>(weights),
              pointer<const std::uint8_t>(dense),
              dense_bytes,
              num_sparse,
              num_rows,
              value_bytes} {}

  std::int64_t count(std::uintptr_t rows, std::int64_t num_rows, std::uintptr_t offsets) const {
    nb::gil_scoped_release released;
    return count_values(table, pointer<const std::int64_t>(rows), num_rows,
                        pointer<std::int64_t>(offsets));
  }

  void copy(std::uintptr_t rows, std::int64_t num_rows, std::uintptr_t values,
            std::uintptr_t weights, std::uintptr_t dense) const {
    nb::gil_scoped_release released;
    copy_rows(table, pointer<const std::int64_t>(rows), num_rows, pointer<std::int64_t>(values),
              pointer<float>(weights), pointer<std::uint8_t>(dense));
  }

  FeatureRows table;
};

}  // namespace

void bind_feature_rows(nb::module_& module) {
  nb::class_<BoundIds>(module, "IdRows")
      .def(nb::init<std::uintptr_t, std::uintptr_t, std::uintptr_t, std::uintptr_t, std::int64_t,
                    std::int64_t, std::uint64_t, int, int>())
      .def("find", &BoundIds::find);
  nb::class_<BoundRows>(module, "FeatureRows")
      .def(nb::init<std::uintptr_t, std::int64_t, int, std::uintptr_t, std::uintptr_t,
                    std::uintptr_t, std::int64_t, std::int64_t, std::int64_t>())
      .def("count", &BoundRows::count)
      .def("copy", &BoundRows::copy);
}

}  // namespace tailrank
