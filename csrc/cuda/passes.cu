// Which rule a pass runs.
#include "passes.h"

namespace yfk {
namespace cuda {

static Passes passes_of(RuleId rule, DType dtype) {
  switch (rule) {
#define YFK_CASE(constant, name, passes, ...) \
  case RuleId::constant:                      \
    return name##_passes(dtype);
    YFK_RULES(YFK_CASE)
#undef YFK_CASE
  }
  return {};
}

void update(const Table& table, DType dtype, RuleId rule, const double* coefficients,
            double* chunk_move_sums, double* move_sums, unsigned* tickets, unsigned* ticket,
            Queue queue) {
  if (table.num_chunks == 0) return;
  passes_of(rule, dtype)
      .update(table, coefficients, chunk_move_sums, move_sums, tickets, ticket, queue);
}

void update_state(const Table& table, DType dtype, RuleId rule, const double* coefficients,
                  double* chunk_norms, double* norms, unsigned* tickets, Queue queue) {
  if (table.num_chunks == 0) return;
  passes_of(rule, dtype).update_state(table, coefficients, chunk_norms, norms, tickets, queue);
}

void apply(const Table& table, DType dtype, RuleId rule, const double* coefficients,
           const double* norms, Queue queue) {
  if (table.num_chunks == 0) return;
  passes_of(rule, dtype).apply(table, coefficients, norms, queue);
}

}  // namespace cuda
}  // namespace yfk
