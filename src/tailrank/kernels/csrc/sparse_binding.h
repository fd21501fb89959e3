#pragma once

#include <nanobind/nanobind.h>

namespace tailrank {

void bind_sparse_update(nanobind::module_& module);

}  // namespace tailrank
