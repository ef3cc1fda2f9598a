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

namespace yfk {

constexpr int kColumns = 9;       // columns a row has room for
constexpr int kTile = 4096;       // chunk lengths are multiples of this; also the sketch's width
constexpr int kMeasured = 5;      // doubles a measurement leaves in each slot
constexpr int kSums = 6;          // doubles of a slot, all read and written one by one. The one after the
                                  // measured is used in the first slot of a table: ‖p‖² before step 0

struct TensorRow {
  int64_t numel;
  int64_t group;                  // index of the parameter group
  int64_t origin;                 // index of element 0 in the whole model: the sketch's signs and buckets
  int64_t column[kColumns];       // addresses: gradient, parameter, then the rule's state
};

struct Chunk {
  int64_t row;
  int64_t first;                  // first element; a multiple of the chunk length
};

struct Table {
  const TensorRow* rows;
  const Chunk* chunks;
  int64_t num_chunks;
  int64_t chunk_size;             // elements
};

// What the columns hold. A rule's state is one or two float32 columns from kState on.
enum Column : int {
  kGrad = 0,
  kParam = 1,
  kState = 2,                     // momentum_buffer, or exp_avg
  kGradAvg = 3,                   // YellowFin with variance="exact"; else exp_avg_sq
  kMaster = 4,                    // float32 copy of a half-precision parameter, if it has one
  kStep = 5,                      // float32: steps this tensor has taken, if its rule counts them
};

// What a reading pass over the gradients is to sum, besides their squares.
enum class Measure : int {
  kNorm = 0,                      // nothing
  kAverage = 1,                   // with the gradients' averages, column kGradAvg
  kSketch = 2,                    // signed, into kTile buckets
};

enum class DType : int { kFloat32 = 0, kBFloat16 = 1, kFloat16 = 2 };

}  // namespace yfk
