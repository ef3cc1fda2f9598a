// The operations of the module on the CPU: rules run over a table with threads and SIMD.
#pragma once

#include "../table.h"
#include "../tuner.h"

namespace yfk {
namespace cpu {

// Measures into `num_slots` slots: partials[num_slots][kSums], and sketches[num_slots][kTile] unless
// it is null; non-zero entries are counted if `nonzero`. A slot takes a fixed run of chunks, so the
// sums do not depend on the threads.
void yellowfin_measure(const Table& table, DType dtype, int64_t num_slots, bool nonzero,
                       double* partials, float* sketches, int threads);

// Adds up the slots in order and runs the tuner. `state` is a TunerState with its window and sketch.
void yellowfin_tune(const TunerOptions& options, int64_t num_slots, const double* partials,
                    const float* sketches, double inv_scale, bool found_inf, double* state,
                    int64_t num_groups, const double* groups, double* coefficients);

// Advances every tensor of the table; does nothing when the coefficients are not active.
void yellowfin_apply(const Table& table, DType dtype, const double* coefficients, int threads);

// Writes words[i] to destination[i * stride] for i < count: addresses of gradients, say.
void write_words(int64_t* destination, int64_t stride, const int64_t* words, int64_t count);

// The instruction set in use: "baseline", "avx2" or "avx512".
const char* instruction_set();

}  // namespace cpu
}  // namespace yfk
