#pragma once

#include <nanobind/nanobind.h>

namespace tailrank {

void bind_lookup(nanobind::module_& module);

}  // namespace tailrank
