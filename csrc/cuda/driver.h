// The operations of the module on CUDA devices. Every call is asynchronous on `stream`, allocates
// nothing, never synchronises and may be captured in a graph. Pointers are device addresses.
#pragma once

#include "../table.h"
#include "../tuner.h"

namespace yfk {
namespace cuda {

// Where a call goes: the ordinal of the device and the handle of one of its streams.
struct Queue {
  int device;
  void* stream;
};

// partials[num_slots][kSums]; sketches[num_slots][kTile], or null for the exact variance.
void yellowfin_measure(const Table& table, DType dtype, int64_t num_slots, double* partials,
                       float* sketches, Queue queue);

// Adds up the slots in order and runs the tuner, in one launch. grad_scale and found_inf are
// GradScaler's float32 scalars or null. `scratch` is kTile + 1 doubles: room for the sum of each of
// the sketch's buckets, then a ticket that is zero before and zero again afterwards.
void yellowfin_tune(const TunerOptions& options, int64_t num_slots, const double* partials,
                    const float* sketches, const float* grad_scale, const float* found_inf,
                    double* state, int64_t num_groups, const double* groups, double* coefficients,
                    double* scratch, Queue queue);

void yellowfin_apply(const Table& table, DType dtype, const double* coefficients, Queue queue);

// destination[i * stride] = words[i], with the words carried in kernel arguments: no copy to wait
// for, no pinned buffer to keep alive under a captured graph.
void write_words(int64_t* destination, int64_t stride, const int64_t* words, int64_t count,
                 Queue queue);

// Devices that can be used, and what the runtime said when there are none.
int device_count(const char** reason);

}  // namespace cuda
}  // namespace yfk
