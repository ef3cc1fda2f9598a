// The tensor table: how the host tells a kernel about every tensor of a model at once.
//
// Python builds two int64 arrays per (device, dtype) and keeps them resident on the device:
//   rows    one TensorRow a tensor: its length, its parameter group and the addresses of its columns
//   chunks  one Chunk for every kChunk elements of a tensor: what one worker takes at a time
// Only the gradient address can change from step to step, so it is column 0, and a parameter that
// has no gradient in a step has address 0 there: its chunks are passed over.
// yfkernels/ops/table.py writes these arrays and must agree with this file word for word.
#pragma once

#include <cstdint>

#include "record.h"

namespace yfk {

constexpr int kColumns = 11;  // columns a row has room for
constexpr int kTile = 4096;   // chunk lengths are multiples of this; also the sketch's width
constexpr int kMeasured = 5;  // doubles a measurement leaves in each slot
constexpr int kSums = 6;      // doubles of a slot, all read and written one by one

// A slot: what a measurement sums, and in the first of a table ‖p‖² before step 0.
#define YFK_SLOT(field)                                                     \
  field(grad_sq) field(avg_dot_grad) field(avg_sq)                          \
  field(nonzero) field(count) /* entries */                                 \
  field(start_sq)
struct Slot {
  YFK_RECORD(YFK_SLOT)
};
static_assert(sizeof(Slot) == kSums * sizeof(double));

#define YFK_ROW(field)                                                                       \
  field(numel)                                                                               \
  field(group)  /* index of the parameter group */                                           \
  field(origin) /* index of element 0 in the whole model: the sketch's signs and buckets */
struct TensorRow {
#define YFK_ROW_MEMBER(name) int64_t name;
  YFK_ROW(YFK_ROW_MEMBER)
#undef YFK_ROW_MEMBER
  int64_t column[kColumns];  // addresses, by Column
};

struct Chunk {
  int64_t row;
  int64_t first;  // first element; a multiple of the chunk length
};

struct Table {
  const TensorRow* rows;
  const Chunk* chunks;
  int64_t num_chunks;
  int64_t chunk_size;  // elements
};

// What the columns hold. The last are the rule's own: its states, float32 unless it says otherwise,
// are kState, kState + 1, ... up to the last column.
#define YFK_COLUMNS(column)                                                                \
  column(kGrad, grad)                                                                      \
  column(kParam, param)                                                                    \
  column(kMaster, master) /* float32 copy of a half-precision parameter, if it has one */  \
  column(kStep, step)     /* one float32 number: steps taken, if somebody counts them */   \
  column(kAverage, average) /* of the parameter over its steps, if one is kept */          \
  column(kState, state)   /* momentum_buffer, or exp_avg */
enum Column : int {
#define YFK_COLUMN(constant, name) constant,
  YFK_COLUMNS(YFK_COLUMN)
#undef YFK_COLUMN
};

// What a reading pass over the gradients is to sum, besides their squares.
enum class Measure : int {
  kNorm = 0,     // nothing
  kAverage = 1,  // with the gradients' averages, the second state
  kSketch = 2,   // signed, into kTile buckets
};

enum class DType : int { kFloat32 = 0, kBFloat16 = 1, kFloat16 = 2 };

}  // namespace yfk
