// Measure: one reading pass over the gradients, and over their averages if those are asked for.
//
// A slot is a fixed run of chunks and belongs to one block, and a thread always meets the same
// elements of it, whatever their alignment. Its sums therefore do not depend on the GPU, and every
// replica of a model tunes to the same step size bit for bit.
//
// A block has 512 threads, of which a multiprocessor takes two at 64 registers each: all 256 slots
// run at once from 128 multiprocessors on. One of 1024 would leave half of them to a second wave.
#include "../random.h"
#include "chunks.cuh"
#include "gate.cuh"
#include "launch.h"
#include "reduce.cuh"
#include "ticket.cuh"
#include "vec.cuh"

namespace yfk {
namespace cuda {
namespace {

constexpr int kBlock = 512;
constexpr int kWarps = kBlock / kWarp;

// Accesses of kVec<G> elements by which a block covers a tile: two in float32, one in the halves.
template <class G>
constexpr int kParts = kTile / (kBlock * kVec<G>);

// Loads of gradients in flight: with those of the averages enough to fill the memory's latency, few
// enough for 64 registers.
template <Measure kWhat>
constexpr int kUnroll = kWhat == Measure::kAverage ? 2 : 4;

template <class G, Measure kWhat>
using Dealt = Deal<kWarps, kUnroll<kWhat> * kWarp * kVec<G>>;

// What a thread sums: floats within a chunk (128 elements at most), doubles across chunks. fmaf, so
// that every compiler rounds alike.
template <class G, Measure kWhat>
struct Moments {
  static constexpr int N = kVec<G>;
  double grad_sq = 0.0, dot = 0.0, avg_sq = 0.0;
  float chunk_grad_sq = 0.0f, chunk_dot = 0.0f, chunk_avg_sq = 0.0f;
  unsigned nonzero = 0;
  Lanes<N> buckets[kParts<G>] = {};

  __device__ __forceinline__ void add(const Lanes<N>& g) {
#pragma unroll
    for (int k = 0; k < N; ++k) {
      chunk_grad_sq = fmaf(g.at[k], g.at[k], chunk_grad_sq);
      nonzero += g.at[k] != 0.0f;
    }
  }

  __device__ __forceinline__ void add_average(const Lanes<N>& g, const Lanes<N>& gbar) {
#pragma unroll
    for (int k = 0; k < N; ++k) {
      chunk_dot = fmaf(gbar.at[k], g.at[k], chunk_dot);
      chunk_avg_sq = fmaf(gbar.at[k], gbar.at[k], chunk_avg_sq);
    }
  }

  // e: index of the first of the N elements in the whole model, a multiple of N, in that part of a
  // tile.
  __device__ __forceinline__ void add_signed(const Lanes<N>& g, int64_t e, int part) {
    const uint32_t signs = sign_bits(e >> 5) >> (int(e) & 31);
#pragma unroll
    for (int k = 0; k < N; ++k)
      buckets[part].at[k] += __uint_as_float(__float_as_uint(g.at[k]) ^ ((signs >> k) << 31));
  }

  __device__ __forceinline__ void end_chunk() {
    grad_sq += double(chunk_grad_sq);
    chunk_grad_sq = 0.0f;
    if (kWhat == Measure::kAverage) {
      dot += double(chunk_dot);
      avg_sq += double(chunk_avg_sq);
      chunk_dot = chunk_avg_sq = 0.0f;
    }
  }
};

// A warp's share of a chunk, by its rank among them.
//
// With the sketch all warps take their part of each tile instead: the tiles lie on multiples of
// kTile of the whole model, so that a thread's lanes fall into the same buckets in every tile and
// the buckets' sums stay in its registers. `shift` is where the chunk begins in its first tile: 0,
// unless the tensor is small or a shard. Small tensors follow one another in the model, so that
// other threads meet the next.
template <class G, Measure kWhat, bool kAllWide>
__device__ __forceinline__ void measure_chunk(const Piece& piece, int rank, int shift,
                                              bool wide_grad, bool wide_average,
                                              Moments<G, kWhat>* moments) {
  constexpr int N = kVec<G>, kAtOnce = kUnroll<kWhat>;
  constexpr bool kAverage = kWhat == Measure::kAverage, kSketch = kWhat == Measure::kSketch;
  constexpr int kApart = (kSketch ? kBlock : kWarp) * N, kSegment = kAtOnce * kApart;
  constexpr int kRound = kSketch ? kSegment : kWarps * kSegment;
  static_assert(!kSketch || kSegment % kTile == 0, "each round begins with the same buckets");
  // the update reads the same columns next: what fits the L2 cache should stay there
  const Column<const G, N, kAllWide, Reuse::kKeep> grads(piece.column<const G>(kGrad), wide_grad);
  const Column<const float, N, kAllWide, Reuse::kKeep> averages(
      kAverage ? piece.column<const float>(kState + 1) : nullptr, wide_average);
  const int64_t origin = piece.row.origin + piece.first;
  const int n = piece.n;

  [[maybe_unused]] const auto ragged_tile = [&](int i) {
#pragma unroll
    for (int part = 0; part < kParts<G>; ++part) {
      const int j = i + part * kApart;
      if (j + N <= 0 || j >= n) continue;
      const Lanes<N> g = grads.load(j, Inside{n});
      moments->add(g);
      moments->add_signed(g, origin + j, part);
    }
  };

  const int lane = int(threadIdx.x % kWarp);
  int i = kSketch ? int(threadIdx.x) * N - shift : rank * kSegment + lane * N;
  if (kSketch && i < 0) {
    ragged_tile(i);
    i += kTile;
  }
  const auto at_once = [&](auto lanes) {
    Lanes<N> g[kAtOnce], gbar[kAtOnce];
#pragma unroll
    for (int u = 0; u < kAtOnce; ++u) {
      g[u] = grads.load(i + u * kApart, lanes);
      if (kAverage) gbar[u] = averages.load(i + u * kApart, lanes);
    }
#pragma unroll
    for (int u = 0; u < kAtOnce; ++u) {
      moments->add(g[u]);
      if (kSketch) moments->add_signed(g[u], origin + i + u * kApart, u % kParts<G>);
      if (kAverage) moments->add_average(g[u], gbar[u]);
    }
  };
  for (; i + (kAtOnce - 1) * kApart + N <= n; i += kRound) at_once(Whole{});
  if constexpr (kSketch) {
    for (; i < n; i += kTile) ragged_tile(i);
  } else {
    if (i < n) at_once(Inside{n});  // the last segment; lanes that are not there add 0
  }
  moments->end_chunk();
}

// With a ticket the block that comes last goes on to the gate.
template <class G, Measure kWhat>
__global__ void __launch_bounds__(kBlock, 2)
    measure_kernel(Table table, double* partials, float* sketches, GateArguments gate,
                   unsigned* ticket) {
  constexpr int N = kVec<G>;
  constexpr bool kSketch = kWhat == Measure::kSketch;
  __shared__ Piece pieces[kBatch];
  const int64_t slot = blockIdx.x;
  const int warp = warp_index();
  Moments<G, kWhat> moments;
  int64_t count = 0;

  const auto open = [&](int k, int64_t chunk) { pieces[k] = piece_of(table, chunk); };
  const auto measure = [&](int k) {
    const Piece& piece = pieces[k];
    count += piece.n;
    const int rank = kSketch ? 0 : Dealt<G, kWhat>::rank(warp, k);
    if (!Dealt<G, kWhat>::has_share(rank, piece.n)) return;
    const int shift = kSketch ? int(uint64_t(piece.row.origin + piece.first) % kTile) : 0;
    const bool wide_grad = on_16_bytes(piece.address<G>(kGrad) - shift * int(sizeof(G)));
    const bool wide_average = kWhat != Measure::kAverage || piece.wide<float>(kState + 1);
    if (wide_grad && wide_average) {
      measure_chunk<G, kWhat, true>(piece, rank, shift, true, true, &moments);
    } else {
      measure_chunk<G, kWhat, false>(piece, rank, shift, wide_grad, wide_average, &moments);
    }
  };
  for_each_batch(int(slot * table.num_chunks / gridDim.x),
                 int((slot + 1) * table.num_chunks / gridDim.x), 1, open, measure);

  double* sums = partials + slot * kSums;
  const double values[kMeasured - 1] = {moments.grad_sq, moments.dot, moments.avg_sq,
                                        double(moments.nonzero)};
  block_sum(values, sums);
  if (threadIdx.x == 0) sums[kMeasured - 1] = double(count);
  if (kSketch) {
    float* own = sketches + slot * kTile + threadIdx.x * N;
#pragma unroll
    for (int part = 0; part < kParts<G>; ++part)
      store_wide<N, Reuse::kKeep>(own + part * kBlock * N, moments.buckets[part]);
  }
  if constexpr (kWhat == Measure::kNorm) {
    if (!ticket || threadIdx.x >= kWarp) return;
    // thread 0 has written the one sum that the gate wants
    const bool last = threadIdx.x == 0 && thread_arrives_last(ticket, gridDim.x);
    if (told_by(0, last)) decide_step(gate);
  }
}

template <class G, Measure kWhat>
void launch(const Table& table, int64_t num_slots, double* partials, float* sketches,
            const GateArguments& gate, unsigned* ticket, const Queue& queue) {
  const DeviceGuard guard(queue.device);
  YFK_LAUNCH((measure_kernel<G, kWhat>), int(num_slots), kBlock, 0, stream_of(queue), table,
             partials, sketches, gate, ticket);
}

template <class G>
void measure_as(Measure what, const Table& table, int64_t num_slots, double* partials,
                float* sketches, const GateArguments& gate, unsigned* ticket, const Queue& queue) {
  const auto kernel = what == Measure::kNorm      ? launch<G, Measure::kNorm>
                      : what == Measure::kAverage ? launch<G, Measure::kAverage>
                                                  : launch<G, Measure::kSketch>;
  kernel(table, num_slots, partials, sketches, gate, ticket, queue);
}

void measure_of(DType dtype, Measure what, const Table& table, int64_t num_slots, double* partials,
                float* sketches, const GateArguments& gate, unsigned* ticket, const Queue& queue) {
  const auto measure = dtype == DType::kFloat32    ? measure_as<float>
                       : dtype == DType::kBFloat16 ? measure_as<__nv_bfloat16>
                                                   : measure_as<__half>;
  measure(what, table, num_slots, partials, sketches, gate, ticket, queue);
}

}  // namespace

void measure(const Table& table, DType dtype, Measure what, int64_t num_slots, double* partials,
             float* sketches, Queue queue) {
  measure_of(dtype, what, table, num_slots, partials, sketches, {}, nullptr, queue);
}

void measure_then_decide(const Table& table, DType dtype, int64_t num_slots, double* partials,
                         const GateArguments& gate, unsigned* ticket, Queue queue) {
  measure_of(dtype, Measure::kNorm, table, num_slots, partials, nullptr, gate, ticket, queue);
}

}  // namespace cuda
}  // namespace yfk
