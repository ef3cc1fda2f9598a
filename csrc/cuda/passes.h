// What each rule's file offers: the launches of its passes. One file a rule, so that they compile
// side by side.
#pragma once

#include "driver.h"

namespace yfk {
namespace cuda {

using AdvancePass = void (*)(const Table& table, const double* coefficients, double* chunk_gauges,
                             double* gauges, unsigned* tickets, unsigned* ticket,
                             const Queue& queue);
using DirectPass = void (*)(const Table& table, const double* coefficients, double* chunk_norms,
                            double* norms, unsigned* tickets, const Queue& queue);
using MovePass = void (*)(const Table& table, const double* coefficients, const double* norms,
                          const Queue& queue);

// Null where a rule does not offer it.
struct Passes {
  AdvancePass advance;
  DirectPass direct;
  MovePass move;
};

Passes yellowfin_passes(DType dtype);
Passes yellowfin_sketch_passes(DType dtype);
Passes yellowfin_robust_passes(DType dtype);
Passes yellowfin_diagonal_passes(DType dtype);
Passes yellowfin_compact_passes(DType dtype);
Passes qhm_passes(DType dtype);
Passes qhadam_passes(DType dtype);
Passes lamb_passes(DType dtype);

}  // namespace cuda
}  // namespace yfk
