// What Python has to agree with before it uses the module (yfkernels/ops/native/loading.py).
#pragma once

#include <pybind11/pybind11.h>

namespace yfk {

// Every name and number that both languages have.
pybind11::dict layout();

}  // namespace yfk
