// The operations of the module on CUDA devices. Every call is asynchronous on `stream`, allocates
// nothing, never synchronizes and may be captured in a graph. Pointers are device addresses.
#pragma once

#include "../average.h"
#include "../gate.h"
#include "../rules.h"
#include "../table.h"
#include "../tangents.h"
#include "../tuner/tuner.h"

namespace yfk {
namespace cuda {

// Where a call goes: the ordinal of the device and the handle of one of its streams.
struct Queue {
  int device;
  void* stream;
};

// What the gate (../gate.h) works with. partials[num_slots][kSums], of all tables; none if ‖g‖² is
// not measured. grad_scale and found_inf are GradScaler's float32 scalars or null. Coefficients are
// `words` doubles a group.
struct GateArguments {
  int64_t num_slots;
  const double* partials;
  const float* grad_scale;
  const float* found_inf;
  GateState* state;
  int64_t num_groups;
  int64_t words;
  double* coefficients;
};

// partials[num_slots][kSums]; sketches[num_slots][kTile] for the sketch.
void measure(const Table& table, DType dtype, Measure what, int64_t num_slots, double* partials,
             float* sketches, Queue queue);

// Measure::kNorm, and the gate by the last block to be done: one launch. The slots of this table
// are among those of `gate`, and all others have been measured on the same stream. `ticket` is zero
// before and zero again afterwards.
void measure_then_decide(const Table& table, DType dtype, int64_t num_slots, double* partials,
                         const GateArguments& gate, unsigned* ticket, Queue queue);

// The gate alone.
void decide(const GateArguments& gate, Queue queue);

// Adds up the slots in order and runs the tuner, in one launch. grad_scale and found_inf are
// GradScaler's float32 scalars or null. `scratch` is kTile + 1 doubles: room for the sum of each of
// the sketch's buckets, then a ticket that is zero before and zero again afterwards.
void yellowfin_tune(const TunerOptions& options, int64_t num_slots, const double* partials,
                    const float* sketches, const float* grad_scale, const float* found_inf,
                    double* state, int64_t num_groups, const double* groups, double* coefficients,
                    double* scratch, Queue queue);

// The passes of a rule over every tensor that has a gradient. They do nothing when the coefficients
// are not active.
//   update: all at once. Counts the step, and leaves in `move_sums` what the rule sums of the move.
//   update_state: the state, and norms[row] = (‖p‖², ‖u‖²) of each tensor. Counts the step.
//   apply: the parameters, after update_state.
// chunk_norms, chunk_move_sums: room for two doubles a chunk. tickets: a word for each row of the
// table, zero before and zero again afterwards, by which the last block to be done with a tensor knows
// that it is: it counts the step, and in update_state adds up the tensor's chunks in order. ticket:
// the same for the whole table, whose last block adds up the move_sums.
void update(const Table& table, DType dtype, RuleId rule, const double* coefficients,
            double* chunk_move_sums, double* move_sums, unsigned* tickets, unsigned* ticket,
            Queue queue);
void update_state(const Table& table, DType dtype, RuleId rule, const double* coefficients,
                  double* chunk_norms, double* norms, unsigned* tickets, Queue queue);
void apply(const Table& table, DType dtype, RuleId rule, const double* coefficients,
           const double* norms, Queue queue);

// The average (../average.h), of type `average`, of every tensor that has a gradient and whose turn
// it is; after the step, which counts it. It does nothing when the coefficients are not active.
void average(const Table& table, DType dtype, DType average, const double* coefficients,
             const Averaging& averaging, Queue queue);

// Tangents (../tangents.h) of every tensor that has a gradient; coefficients[row] are the tensor's.
//   advance_tangents: Z, and `own` in the probe's place where it is kept.
//   own_derivatives: `own` in the place of Zw, and nothing of the probe or the rest of Z.
//   project: sums[row][kProjected]; 0 of a tensor without a gradient. chunk_sums: room for as many
//   a chunk. tickets: as for update_state.
void advance_tangents(const Table& table, FamilyId family, const double* coefficients, Queue queue);
void own_derivatives(const Table& table, FamilyId family, const double* coefficients, Queue queue);
void project(const Table& table, const Projection& projection, const double* coefficients,
             double* chunk_sums, double* sums, unsigned* tickets, Queue queue);

// destination[i * stride] = words[i], with the words carried in kernel arguments: no copy to wait
// for, no pinned buffer to keep alive under a captured graph.
void write_words(int64_t* destination, int64_t stride, const int64_t* words, int64_t count,
                 Queue queue);

// Devices that can be used, and what the runtime said when there are none.
int device_count(const char** reason);

}  // namespace cuda
}  // namespace yfk
