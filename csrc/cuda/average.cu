// Averages of parameters (../average.h): one pass, which ends at once for tensors whose turn it is
// not.
#include "../average.h"
#include "pass.cuh"

namespace yfk {
namespace cuda {
namespace {

// Nothing but the parameters is wanted before the next step.
template <class A, class Parameter>
__device__ __forceinline__ void average_chunk(const Piece& piece, uint32_t seed, int rank,
                                              const Average& rule, const Parameter& param) {
  constexpr int N = Parameter::N;
  constexpr bool kAllWide = Parameter::kAllWide;
  const auto average = column_of<A, kAllWide, Reuse::kStream, N>(piece, kAverage);

  struct Values {
    typename Parameter::Value param;
    Lanes<N> average;
  };
  const auto load = [&](int i, auto lanes) {
    return Values{param.load(i, lanes), average.load(i, lanes)};
  };
  const auto work = [&](int i, Values& value, auto lanes) {
    const Lanes<N> p = Parameter::newest(value.param);
    Lanes<N>& a = value.average;
#pragma unroll
    for (int k = 0; k < N; ++k) a.at[k] = rule.moved(a.at[k], p.at[k]);
    if constexpr (sizeof(A) == 2) {
      const uint32_t first = uint32_t(piece.row.origin + piece.first) + uint32_t(i);
#pragma unroll
      for (int k = 0; k < N; ++k)
        a.at[k] = rounded(a.at[k], mixed((first + uint32_t(k)) ^ seed), A{});
    }
    average.store(i, a, lanes);
  };
  for_each_lanes<N, kAllWide>(piece.n, rank, load, work);
}

// P, A: the types of the parameters and of their averages.
template <class P, class A>
__global__ void __launch_bounds__(kBlock, 4)  // 64 registers a thread
    average_kernel(Table table, const double* active, Averaging averaging) {
  __shared__ Job<Average> jobs[kBatch];
  if (*active == 0.0) return;
  const int warp = warp_index();

  const auto open = [&](int k, int64_t turn) {
    Job<Average>& job = jobs[k];
    Piece& piece = job.piece = piece_of(table, turn);
    if (!piece.has_grad()) return;
    const double step = steps_of(piece);
    if (!averaging.is_due(step)) {
      piece.n = 0;
      return;
    }
    job.make(averaging, step);
    job.seed = average_seed(piece.row.origin + piece.first, step);
  };
  const auto share = [&](int k) {
    const Job<Average>& job = jobs[k];
    const Piece& piece = job.piece;
    const int rank = Dealt::rank(warp, k);
    if (!Dealt::has_share(rank, piece.n)) return;
    const Average rule = job.rule();
    const bool wide =
        piece.wide<P>(kParam) && piece.wide<float>(kMaster) && piece.wide<A>(kAverage);
    with_parameter<P, Reuse::kStream>(job, wide, [&](const auto& param) {
      average_chunk<A>(piece, job.seed, rank, rule, param);
    });
  };
  for_each_batch(int(blockIdx.x), int(table.num_chunks), int(gridDim.x), open, share);
}

template <class P, class A>
void launch_average(const Table& table, const double* active, const Averaging& averaging,
                    const Queue& queue) {
  const auto* kernel = reinterpret_cast<const void*>(&average_kernel<P, A>);
  YFK_LAUNCH((average_kernel<P, A>), grid_of(table, kernel, queue.device), kBlock, 0,
             stream_of(queue), table, active, averaging);
}

template <class P>
void launch_for(const Table& table, DType average, const double* active, const Averaging& averaging,
                const Queue& queue) {
  const auto launch =
      average == DType::kBFloat16 ? launch_average<P, __nv_bfloat16> : launch_average<P, float>;
  launch(table, active, averaging, queue);
}

}  // namespace

void average(const Table& table, DType dtype, DType average, const double* coefficients,
             const Averaging& averaging, Queue queue) {
  if (table.num_chunks == 0) return;
  const DeviceGuard guard(queue.device);
  switch (dtype) {
    case DType::kFloat32: return launch_for<float>(table, average, coefficients, averaging, queue);
    case DType::kBFloat16:
      return launch_for<__nv_bfloat16>(table, average, coefficients, averaging, queue);
    case DType::kFloat16: return launch_for<__half>(table, average, coefficients, averaging, queue);
  }
}

}  // namespace cuda
}  // namespace yfk
