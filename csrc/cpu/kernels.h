// What the files compiled once per instruction set offer to the driver.
#pragma once

#include "../average.h"
#include "../rules.h"
#include "../table.h"
#include "../tangents.h"

namespace yfk {

// Every kernel walks chunks [begin, end) of a table and passes over tensors without a gradient.

// Adds to sums[kMeasured] = {Σg², Σ ḡ g, Σ ḡ², non-zero entries, entries} what was asked for; the
// second and third only with ḡ, the fourth only if wanted. sketch: kTile floats, or null.
using MeasureKernel = void (*)(const Table& table, int64_t begin, int64_t end, double* sums,
                               float* sketch);

// groups: coefficients of each parameter group, of the rule's own type. norms: for each chunk of the
// table (‖p‖², ‖u‖²) over its elements, or for each row over the whole tensor. chunk_move_sums: for each
// chunk the rule's sums of the move, if it has any.
using UpdateKernel = void (*)(const Table& table, int64_t begin, int64_t end, const double* groups,
                              double* chunk_move_sums);
using UpdateStateKernel = void (*)(const Table& table, int64_t begin, int64_t end,
                                   const double* groups, double* chunk_norms);
using ApplyKernel = void (*)(const Table& table, int64_t begin, int64_t end, const double* groups,
                             const double* row_norms);

// The rule in one pass, the last chunk first; or in two: state and norms, then the parameters, each
// from the end at which the pass before has stopped. Null where a rule does not offer it.
struct Passes {
  UpdateKernel update;
  UpdateStateKernel update_state;
  ApplyKernel apply;
  int move_sums = 0;  // sums that `update` leaves of each chunk
};

using AverageKernel = void (*)(const Table& table, int64_t begin, int64_t end,
                               const Averaging& averaging);

// rows: coefficients of each tensor, of the family's or the projection's own type. chunk_sums: for
// each chunk of the table what is summed over its elements.
using TangentsKernel = void (*)(const Table& table, int64_t begin, int64_t end, const double* rows);
using ProjectKernel = void (*)(const Table& table, int64_t begin, int64_t end,
                               const Projection& projection, const double* rows,
                               double* chunk_sums);

// The passes of a family of steps.
struct TangentPasses {
  TangentsKernel advance, own;
};

struct KernelSet {
  const char* name;
  MeasureKernel (*measure)(DType dtype, Measure what, bool nonzero);
  Passes (*passes)(DType dtype, RuleId rule);
  AverageKernel (*average)(DType dtype, DType average);
  TangentPasses (*tangent_passes)(FamilyId family);
  ProjectKernel (*project)(ProjectionId projection);
};

// The best set this processor can run.
const KernelSet& kernels();

}  // namespace yfk
