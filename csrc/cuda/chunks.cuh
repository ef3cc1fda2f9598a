// How a block walks its share of a table's chunks.
#pragma once

#include <cuda_runtime.h>

#include "../table.h"
#include "warp.cuh"

namespace yfk {
namespace cuda {

__device__ __forceinline__ bool on_16_bytes(int64_t address) { return address % 16 == 0; }

// One chunk with everything the table says about it.
struct Piece {
  TensorRow row;
  int64_t index;  // of the row
  int64_t chunk;
  int64_t first;  // element
  int n;          // elements; none without a gradient

  __device__ __forceinline__ bool has_grad() const { return n > 0; }
  template <class T>
  __device__ __forceinline__ int64_t address(int index) const {
    return row.column[index] + first * int64_t(sizeof(T));
  }
  template <class T>
  __device__ __forceinline__ T* column(int index) const {
    return reinterpret_cast<T*>(address<T>(index));
  }
  // Whether 16-byte accesses may begin at the first element. A column that is not there may, too.
  template <class T>
  __device__ __forceinline__ bool wide(int index) const {
    return on_16_bytes(address<T>(index));
  }
};

__device__ __forceinline__ Piece piece_of(const Table& table, int64_t chunk) {
  const Chunk place = table.chunks[chunk];
  Piece piece = {table.rows[place.row], place.row, chunk, place.first, 0};
  const int64_t rest = piece.row.numel - piece.first;
  if (piece.row.column[kGrad]) piece.n = int(rest < table.chunk_size ? rest : table.chunk_size);
  return piece;
}

// Deals a batch of chunks out to the warps of a block. A chunk falls into segments of kSegment
// elements. Chunk k begins with warp k % kWarps, and the warps take its segments in turn: those of
// a large chunk keep all of them busy, and many tiny chunks are loaded side by side instead of one
// after the other, at the memory's latency each.
//
// Which warp has which rank in a chunk depends on the chunk's place in a batch, so on the GPU where
// the grid does: what belongs to a chunk alone is kept by rank.
template <int kWarps, int kSegment>
struct Deal {
  static_assert((kWarps & (kWarps - 1)) == 0, "a remainder is a mask");

  // A warp's rank in chunk k of a batch: it takes the segments rank, rank + kWarps, ...
  static __device__ __forceinline__ int rank(int warp, int k) { return (warp - k) & (kWarps - 1); }
  // Whether there is one for it among n elements.
  static __device__ __forceinline__ bool has_share(int rank, int n) { return rank * kSegment < n; }
  // How many warps have one.
  static __device__ __forceinline__ int shares(int n) {
    const int segments = (n + kSegment - 1) / kSegment;
    return segments < kWarps ? segments : kWarps;
  }
};

constexpr int kBatch = 32;

struct Nothing {
  __device__ __forceinline__ void operator()(bool) const {}
};

// Walks the numbers begin, begin + stride, ... below `end`, kBatch at a time: for each batch thread
// k calls open(k, number), then all threads body(k) for every k, then all of them close(own), `own`
// telling a thread whether it has opened. Chunk and row are two dependent reads: made for 32 chunks
// at a time, or a model of small tensors would wait for them at every tensor. (2^31 chunks would be
// 10^13 elements.)
template <class Open, class Body, class Close = Nothing>
__device__ __forceinline__ void for_each_batch(int begin, int end, int stride, Open open, Body body,
                                               Close close = {}) {
  for (int base = begin; base < end; base += kBatch * stride) {
    __syncthreads();  // nobody is still at the batch before
    const int mine = base + int(threadIdx.x) * stride;
    const bool own = threadIdx.x < kBatch && mine < end;
    if (own) open(int(threadIdx.x), mine);
    __syncthreads();
    for (int k = 0; k < kBatch && base + k * stride < end; ++k) body(k);
    close(own);
  }
}

}  // namespace cuda
}  // namespace yfk
