// What Python sees of the kernels. Memory comes in as addresses, so that no torch header is needed;
// `kernels/native.py` owns the tensors and checks shapes and types before it calls.
#include <nanobind/nanobind.h>

#include "isa.h"

namespace nb = nanobind;

NB_MODULE(_native, module) {
  using tailrank::Isa;
  nb::enum_<Isa>(module, "Isa")
      .value("portable", Isa::portable)
      .value("avx2", Isa::avx2)
      .value("avx512", Isa::avx512);
  module.def("can_run", &tailrank::can_run, nb::arg("isa"));
}
