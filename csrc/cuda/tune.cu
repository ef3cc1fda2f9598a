// YellowFin, tune: the slots of a measurement become coefficients. Scalars, in one launch.
//
// Every sum runs in an order that depends on the number of slots alone. Products are not contracted
// into sums: what tuner/ computes here has to equal the host's bits.
// compile with: --fmad=false
#include "launch.h"
#include "reduce.cuh"
#include "ticket.cuh"

namespace yfk {
namespace cuda {
namespace {

constexpr int kBlock = 512;
constexpr int kWarps = kBlock / kWarp;
constexpr int kFoldBlocks = 32;
constexpr int kShare = kTile / kFoldBlocks;  // buckets of one block: four a lane
static_assert(kShare == 4 * kWarp, "a warp reads one slot's share in 16-byte accesses");

struct Arguments {
  TunerOptions options;
  int num_slots;
  const double* partials;
  const float* sketches;
  const float* grad_scale;
  const float* found_inf;
  double* state;
  int64_t num_groups;
  const GroupHyper* groups;
  YellowFinCoefficients* coefficients;
  double* folded;  // the sum of each bucket
  unsigned* ticket;
};

// folded[j] = sum of bucket j over the slots, for this block's share of the buckets: each warp
// takes every kWarps-th slot, then the warps are added up in order.
__device__ __forceinline__ void fold_share(const Arguments& a) {
  __shared__ double warps[kWarps][kShare];
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const int first = blockIdx.x * kShare;
  double sum[4] = {};
#pragma unroll 8
  for (int slot = warp; slot < a.num_slots; slot += kWarps) {
    const float4 x = *reinterpret_cast<const float4*>(a.sketches + slot * kTile + first + 4 * lane);
    sum[0] += double(x.x), sum[1] += double(x.y), sum[2] += double(x.z), sum[3] += double(x.w);
  }
#pragma unroll
  for (int k = 0; k < 4; ++k) warps[warp][4 * lane + k] = sum[k];
  __syncthreads();
  if (threadIdx.x < kShare) {
    double total = 0.0;
    for (int w = 0; w < kWarps; ++w) total += warps[w][threadIdx.x];
    a.folded[first + threadIdx.x] = total;
  }
}

// totals[i] = sum of partials[slot][i] over the slots, a warp for each i.
__device__ __forceinline__ void sum_partials(const Arguments& a, double* totals) {
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  if (warp >= kSums) return;
  double sum = 0.0;
  for (int slot = lane; slot < a.num_slots; slot += kWarp) sum += a.partials[slot * kSums + warp];
  sum = warp_sum(sum);
  if (lane == 0) totals[warp] = sum;
}

// longest[i] = the largest lr of the groups that warp i has seen, at least 1: a thread for each group,
// since one alone would wait for memory at every one of them.
__device__ __forceinline__ void longest_of_groups(const Arguments& a, double* longest) {
  double lr = 1.0;
  for (int64_t i = threadIdx.x; i < a.num_groups; i += kBlock) lr = fmax(lr, a.groups[i].lr);
  lr = warp_max(lr);
  if (threadIdx.x % kWarp == 0) longest[threadIdx.x / kWarp] = lr;
}

__device__ __forceinline__ double most_of(const double* longest) {
  double most = longest[0];
  for (int warp = 1; warp < kWarps; ++warp) most = fmax(most, longest[warp]);
  return most;
}

template <bool kSketch>
__global__ void __launch_bounds__(kBlock, 1) yellowfin_tune_kernel(Arguments a) {
  constexpr int kBuckets = kTile / kBlock;
  __shared__ double totals[kSums], products[3], longest[kWarps];
  __shared__ Tuned tuned;
  auto* scalars = reinterpret_cast<TunerState*>(a.state);
  double* average = sketch_average_of(a.options, scalars);
  double sketch[kBuckets];

  if (kSketch) {
    fold_share(a);
    if (!block_arrives_last(a.ticket)) return;
    // the sketch plays the part of the gradient, its average that of ḡ
    double values[3] = {};
#pragma unroll
    for (int k = 0; k < kBuckets; ++k) {
      const int j = k * kBlock + int(threadIdx.x);
      sketch[k] = __ldcg(a.folded + j);
      values[0] += average[j] * sketch[k];
      values[1] += average[j] * average[j];
      values[2] += sketch[k] * sketch[k];
    }
    block_sum(values, products);
  }
  longest_of_groups(a, longest);
  sum_partials(a, totals);
  __syncthreads();

  if (threadIdx.x == 0) {
    GradientSums sums = {totals[0], totals[1], totals[2], totals[3],
                         totals[4], totals[0], totals[5]};
    if (kSketch) {
      sums.avg_dot_grad = products[0];
      sums.avg_sq = products[1];
      sums.avg_grad_sq = products[2];
    }
    const double inv_scale = a.grad_scale ? 1.0 / double(*a.grad_scale) : 1.0;
    const bool found_inf = a.found_inf && *a.found_inf != 0.0f;
    tuned = tune(a.options, sums, inv_scale, found_inf, most_of(longest), scalars);
  }
  __syncthreads();
  // again a thread for each group
  for (int64_t i = threadIdx.x; i < a.num_groups; i += kBlock)
    tune_group(a.options, tuned, i, a.groups, a.coefficients, scalars);
  if constexpr (kSketch) {
    if (!tuned.active) return;
#pragma unroll
    for (int k = 0; k < kBuckets; ++k) {
      const int j = k * kBlock + int(threadIdx.x);
      average[j] = a.options.beta * average[j] + tuned.average_gain * sketch[k];
    }
  }
}

}  // namespace

void yellowfin_tune(const TunerOptions& options, int64_t num_slots, const double* partials,
                    const float* sketches, const float* grad_scale, const float* found_inf,
                    double* state, int64_t num_groups, const double* groups, double* coefficients,
                    double* scratch, Queue queue) {
  const DeviceGuard guard(queue.device);
  const Arguments arguments = {options,
                               int(num_slots),
                               partials,
                               sketches,
                               grad_scale,
                               found_inf,
                               state,
                               num_groups,
                               reinterpret_cast<const GroupHyper*>(groups),
                               reinterpret_cast<YellowFinCoefficients*>(coefficients),
                               scratch,
                               reinterpret_cast<unsigned*>(scratch + kTile)};
  if (options.sketch) {
    YFK_LAUNCH(yellowfin_tune_kernel<true>, kFoldBlocks, kBlock, 0, stream_of(queue), arguments);
  } else {
    YFK_LAUNCH(yellowfin_tune_kernel<false>, 1, kBlock, 0, stream_of(queue), arguments);
  }
}

}  // namespace cuda
}  // namespace yfk
