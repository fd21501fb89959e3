#pragma once

#include <nanobind/nanobind.h>

namespace tailrank {

void bind_dense(nanobind::module_& module);

}  // namespace tailrank
