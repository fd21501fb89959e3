#pragma once

#include <nanobind/nanobind.h>

namespace tailrank {

void bind_feature_rows(nanobind::module_& module);

}  // namespace tailrank
