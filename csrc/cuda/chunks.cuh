// How a block walks its share of a table's chunks.
#pragma once

#include <cuda_runtime.h>

#include "../table.h"

namespace yfk {
namespace cuda {

// One chunk with everything the table says about it.
struct Piece {
  TensorRow row;
  int64_t first;

  template <class T>
  __device__ __forceinline__ int64_t address(int index) const {
    return row.column[index] + first * int64_t(sizeof(T));
  }
  template <class T>
  __device__ __forceinline__ T* column(int index) const {
    return reinterpret_cast<T*>(address<T>(index));
  }
  __device__ __forceinline__ int length(int64_t chunk_size) const {
    const int64_t rest = row.numel - first;
    return int(rest < chunk_size ? rest : chunk_size);
  }
};

constexpr int kBatch = 32;

// Calls body(piece) for chunks begin, begin + stride, ... below `end` that have a gradient; all
// threads of the block together. Chunk and row are two dependent reads: the block makes them for 32
// chunks at a time, or a model of small tensors would wait for them at every tensor.
template <class Body>
__device__ __forceinline__ void for_each_piece(const Table& table, int64_t begin, int64_t end,
                                               int64_t stride, Body body) {
  __shared__ Piece pieces[kBatch];
  for (int64_t base = begin; base < end; base += kBatch * stride) {
    __syncthreads();  // nobody is still at the batch before
    const int64_t mine = base + int(threadIdx.x) * stride;
    if (threadIdx.x < kBatch && mine < end) {
      const Chunk chunk = table.chunks[mine];
      pieces[threadIdx.x] = {table.rows[chunk.row], chunk.first};
    }
    __syncthreads();
    for (int k = 0; k < kBatch && base + k * stride < end; ++k)
      if (pieces[k].row.column[kGrad]) body(pieces[k]);
  }
}

__device__ __forceinline__ bool on_16_bytes(int64_t address) { return address % 16 == 0; }

}  // namespace cuda
}  // namespace yfk
