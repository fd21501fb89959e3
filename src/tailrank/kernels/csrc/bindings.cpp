// What Python sees of the kernels. Memory comes in as addresses, so that no torch header is needed;
// the Python modules beside own the tensors and check shapes and types before they call.
#include <nanobind/nanobind.h>

#include "dense_binding.h"
#include "feature_rows_binding.h"
#include "isa.h"
#include "lookup_binding.h"
#include "sparse_binding.h"

namespace nb = nanobind;

NB_MODULE(_native, module) {
  // A ranker that some module still holds when Python ends is no mistake.
  nb::set_leak_warnings(false);
  using tailrank::Isa;
  nb::enum_<Isa>(module, "Isa")
      .value("portable", Isa::portable)
      .value("avx2", Isa::avx2)
      .value("avx512", Isa::avx512);
  module.attr("INTERFACE") = TAILRANK_INTERFACE;
  module.def("can_run", &tailrank::can_run);
  tailrank::bind_lookup(module);
  tailrank::bind_dense(module);
  tailrank::bind_sparse_update(module);
  tailrank::bind_feature_rows(module);
}
