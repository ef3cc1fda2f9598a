// YellowFin, apply: one pass that advances the gradient average, the momentum and the parameters.
//
// No sums here, so the grid is whatever fills the device, and its blocks stride over the chunks.
#include "chunks.cuh"
#include "launch.h"
#include "vec.cuh"

namespace yfk {
namespace cuda {
namespace {

constexpr int kBlock = 256;

// Nothing but the parameters is wanted before the next step, so it should not push them, which the
// next forward pass reads, out of the L2 cache. Reasoned, not measured.
template <class T, int N, bool kAllWide>
using Streamed = Column<T, N, kAllWide, Reuse::kStream>;

// A parameter: a float32 column, or a half-precision one and its float32 master. The master counts,
// unless somebody has written to the parameter since (a checkpoint loaded, weights averaged): then
// the parameter does.
template <class P, bool kAllWide>
struct Parameter {
  static constexpr int N = kVec<P>;
  Column<P, N, kAllWide, Reuse::kKeep> low;
  Streamed<float, N, kAllWide> master;

  __device__ __forceinline__ Parameter(const Piece& piece, bool wide, bool wide_master)
      : low(piece.column<P>(kParam), wide), master(piece.column<float>(kMaster), wide_master) {}

  struct Value {
    Lanes<N> low, master;

    __device__ __forceinline__ Lanes<N> newest() const {
      Lanes<N> r;
#pragma unroll
      for (int k = 0; k < N; k += 2) {
        const float2 rounded =
            PairOf<P>::widen(PairOf<P>::narrow(make_float2(master.at[k], master.at[k + 1])));
        r.at[k] = rounded.x == low.at[k] ? master.at[k] : low.at[k];
        r.at[k + 1] = rounded.y == low.at[k + 1] ? master.at[k + 1] : low.at[k + 1];
      }
      return r;
    }
  };

  __device__ __forceinline__ Value load(int i) const { return {low.load(i), master.load(i)}; }
  __device__ __forceinline__ Value load_inside(int i, int n) const {
    return {low.load_inside(i, n), master.load_inside(i, n)};
  }
  __device__ __forceinline__ void store(int i, const Lanes<N>& p) const {
    master.store(i, p);
    low.store(i, p);
  }
  __device__ __forceinline__ void store_inside(int i, int n, const Lanes<N>& p) const {
    master.store_inside(i, n, p);
    low.store_inside(i, n, p);
  }
};

template <bool kAllWide>
struct Parameter<float, kAllWide> {
  static constexpr int N = kVec<float>;
  Column<float, N, kAllWide, Reuse::kKeep> only;

  __device__ __forceinline__ Parameter(const Piece& piece, bool wide, bool)
      : only(piece.column<float>(kParam), wide) {}

  struct Value {
    Lanes<N> only;
    __device__ __forceinline__ Lanes<N> newest() const { return only; }
  };

  __device__ __forceinline__ Value load(int i) const { return {only.load(i)}; }
  __device__ __forceinline__ Value load_inside(int i, int n) const {
    return {only.load_inside(i, n)};
  }
  __device__ __forceinline__ void store(int i, const Lanes<N>& p) const { only.store(i, p); }
  __device__ __forceinline__ void store_inside(int i, int n, const Lanes<N>& p) const {
    only.store_inside(i, n, p);
  }
};

struct Width {
  bool grad, param, momentum, average, master;

  template <class P>
  static __device__ __forceinline__ Width of(const Piece& piece) {
    return {on_16_bytes(piece.address<P>(kGrad)), on_16_bytes(piece.address<P>(kParam)),
            on_16_bytes(piece.address<float>(kMomentum)),
            on_16_bytes(piece.address<float>(kGradAvg)),
            on_16_bytes(piece.address<float>(kMaster))};
  }
  __device__ __forceinline__ bool all() const {
    return grad && param && momentum && average && master;
  }
};

template <class P, bool kAverages, bool kAllWide>
__device__ __forceinline__ void apply_chunk(const Piece& piece, int n, const Width& wide,
                                            const YellowFinApply& rule) {
  constexpr int N = kVec<P>;
  constexpr int kPass = kBlock * N;
  constexpr int kUnroll = 8 / N;  // 128 bytes in flight a thread, whatever the type
  const Streamed<const P, N, kAllWide> grads(piece.column<const P>(kGrad), wide.grad);
  const Streamed<float, N, kAllWide> velocities(piece.column<float>(kMomentum), wide.momentum);
  const Streamed<float, N, kAllWide> averages(piece.column<float>(kGradAvg), wide.average);
  const Parameter<P, kAllWide> params(piece, wide.param, wide.master);

  const auto advance = [&](const Lanes<N>& g, Lanes<N>* p, Lanes<N>* v, Lanes<N>* gbar) {
#pragma unroll
    for (int k = 0; k < N; ++k) {
      rule.update(g.at[k], p->at[k], v->at[k]);
      if (kAverages) rule.average(g.at[k], gbar->at[k]);
    }
  };

  int i = int(threadIdx.x) * N;
  for (; i + (kUnroll - 1) * kPass + N <= n; i += kUnroll * kPass) {
    Lanes<N> g[kUnroll], v[kUnroll], gbar[kUnroll];
    typename Parameter<P, kAllWide>::Value value[kUnroll];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      g[u] = grads.load(i + u * kPass);
      value[u] = params.load(i + u * kPass);
      v[u] = velocities.load(i + u * kPass);
      if (kAverages) gbar[u] = averages.load(i + u * kPass);
    }
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      Lanes<N> p = value[u].newest();
      advance(g[u], &p, &v[u], &gbar[u]);
      params.store(i + u * kPass, p);
      velocities.store(i + u * kPass, v[u]);
      if (kAverages) averages.store(i + u * kPass, gbar[u]);
    }
  }
  for (; i < n; i += kPass) {
    const Lanes<N> g = grads.load_inside(i, n);
    Lanes<N> p = params.load_inside(i, n).newest();
    Lanes<N> v = velocities.load_inside(i, n), gbar = {};
    if (kAverages) gbar = averages.load_inside(i, n);
    advance(g, &p, &v, &gbar);
    params.store_inside(i, n, p);
    velocities.store_inside(i, n, v);
    if (kAverages) averages.store_inside(i, n, gbar);
  }
}

template <class P, bool kAverages>
__device__ __forceinline__ void apply_piece(const Piece& piece, int n, const YellowFinApply& rule) {
  const Width wide = Width::of<P>(piece);
  if (wide.all()) {
    apply_chunk<P, kAverages, true>(piece, n, wide, rule);
  } else {
    apply_chunk<P, kAverages, false>(piece, n, wide, rule);
  }
}

template <class P>
__global__ void __launch_bounds__(kBlock, 4)
    yellowfin_apply_kernel(Table table, const YellowFinCoefficients* coefficients) {
  if (coefficients->active == 0.0) return;
  for_each_piece(table, blockIdx.x, table.num_chunks, gridDim.x, [&](const Piece& piece) {
    const YellowFinApply rule(coefficients[piece.row.group]);
    const int n = piece.length(table.chunk_size);
    if (piece.row.column[kGradAvg]) {
      apply_piece<P, true>(piece, n, rule);
    } else {
      apply_piece<P, false>(piece, n, rule);
    }
  });
}

template <class P>
void apply(const Table& table, const YellowFinCoefficients* coefficients, const Queue& queue) {
  if (table.num_chunks == 0) return;
  const DeviceGuard guard(queue.device);
  const int64_t resident = resident_blocks(
      reinterpret_cast<const void*>(&yellowfin_apply_kernel<P>), kBlock, queue.device);
  const int grid = int(table.num_chunks < resident ? table.num_chunks : resident);
  YFK_LAUNCH(yellowfin_apply_kernel<P>, grid, kBlock, 0, stream_of(queue), table, coefficients);
}

}  // namespace

void yellowfin_apply(const Table& table, DType dtype, const double* coefficients, Queue queue) {
  const auto* groups = reinterpret_cast<const YellowFinCoefficients*>(coefficients);
  switch (dtype) {
    case DType::kFloat32: return apply<float>(table, groups, queue);
    case DType::kBFloat16: return apply<__nv_bfloat16>(table, groups, queue);
    case DType::kFloat16: return apply<__half>(table, groups, queue);
  }
}

}  // namespace cuda
}  // namespace yfk
