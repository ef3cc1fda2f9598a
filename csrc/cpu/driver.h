// The operations of the module on the CPU: rules run over a table with threads and SIMD.
#pragma once

#include "../average.h"
#include "../gate.h"
#include "../rules.h"
#include "../table.h"
#include "../tangents.h"
#include "../tuner/tuner.h"

namespace yfk {
namespace cpu {

// Measures into `num_slots` slots: partials[num_slots][kSums], and sketches[num_slots][kTile] for
// the sketch; non-zero entries are counted if `nonzero`. A slot takes a fixed run of chunks, so the
// sums do not depend on the threads.
void measure(const Table& table, DType dtype, Measure what, int64_t num_slots, bool nonzero,
             double* partials, float* sketches, int threads);

// Adds up the slots in order and runs the tuner. `state` is a TunerState with its window and sketch.
void yellowfin_tune(const TunerOptions& options, int64_t num_slots, const double* partials,
                    const float* sketches, double inv_scale, bool found_inf, double* state,
                    int64_t num_groups, const double* groups, double* coefficients);

// Decides on the step of a rule whose coefficients are the user's settings. Adds up ‖g‖² over the
// slots, if there are any, and fills `active` and `grad_scale` of every group's coefficients, which
// are `words` doubles each. A non-finite norm or found_inf skips the step.
void decide(int64_t num_slots, const double* partials, double inv_scale, bool found_inf,
            GateState* state, int64_t num_groups, int64_t words, double* coefficients);

// The passes of a rule over every tensor that has a gradient. They do nothing when the coefficients
// are not active.
//   update: all at once. Counts the step, and leaves in `move_sums` what the rule sums of the move.
//   update_state: the state, and norms[row] = (‖p‖², ‖u‖²) of each tensor. Counts the step.
//   apply:   the parameters, after update_state.
//   update_state_then_apply: both; a tensor that lies in one thread's run is moved straight after its state,
//            while the caches still have some of it.
// chunk_norms, chunk_move_sums: room for two doubles a chunk.
void update(const Table& table, DType dtype, RuleId rule, const double* coefficients,
            double* chunk_move_sums, double* move_sums, int threads);
void update_state(const Table& table, DType dtype, RuleId rule, const double* coefficients,
                  double* chunk_norms, double* norms, int threads);
void apply(const Table& table, DType dtype, RuleId rule, const double* coefficients,
           const double* norms, int threads);
void update_state_then_apply(const Table& table, DType dtype, RuleId rule,
                             const double* coefficients, double* chunk_norms, double* norms,
                             int threads);

// The average (../average.h), of type `average`, of every tensor that has a gradient and whose turn
// it is; after the step, which counts it. It does nothing when the coefficients are not active.
void average(const Table& table, DType dtype, DType average, const double* coefficients,
             const Averaging& averaging, int threads);

// Tangents (../tangents.h) of every tensor that has a gradient; coefficients[row] are the tensor's.
//   advance_tangents: Z, and `own` in the probe's place where it is kept.
//   own_derivatives: `own` in the place of Zw, and nothing of the probe or the rest of Z.
//   project: sums[row][kProjected]; 0 of a tensor without a gradient. chunk_sums: room for as many
//   a chunk.
void advance_tangents(const Table& table, FamilyId family, const double* coefficients, int threads);
void own_derivatives(const Table& table, FamilyId family, const double* coefficients, int threads);
void project(const Table& table, const Projection& projection, const double* coefficients,
             double* chunk_sums, double* sums, int threads);

// Writes words[i] to destination[i * stride] for i < count: addresses of gradients, say.
void write_words(int64_t* destination, int64_t stride, const int64_t* words, int64_t count);

// The instruction set in use: "baseline", "avx2" or "avx512".
const char* instruction_set();

}  // namespace cpu
}  // namespace yfk
