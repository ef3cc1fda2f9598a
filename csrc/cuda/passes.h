// What each rule's file offers: the launches of its passes. One file a rule, so that they compile
// side by side.
#pragma once

#include "driver.h"

namespace yfk {
namespace cuda {

using UpdatePass = void (*)(const Table& table, const double* coefficients, double* chunk_move_sums,
                            double* move_sums, unsigned* tickets, unsigned* ticket,
                            const Queue& queue);
using UpdateStatePass = void (*)(const Table& table, const double* coefficients,
                                 double* chunk_norms, double* norms, unsigned* tickets,
                                 const Queue& queue);
using ApplyPass = void (*)(const Table& table, const double* coefficients, const double* norms,
                           const Queue& queue);

// Null where a rule does not offer it.
struct Passes {
  UpdatePass update;
  UpdateStatePass update_state;
  ApplyPass apply;
};

#define YFK_DECLARE(constant, name, passes, ...) Passes name##_passes(DType dtype);
YFK_RULES(YFK_DECLARE)
#undef YFK_DECLARE

}  // namespace cuda
}  // namespace yfk
