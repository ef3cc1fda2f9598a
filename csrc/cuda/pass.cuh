// What the passes of a rule over a table have in common (update.cuh, update_state.cuh, apply.cuh).
//
// A grid as large as the device holds strides over the chunks, and a block's warps share what it
// meets (Deal). A thread takes eight elements of each column at a time: in float32 that is two
// 16-byte accesses, 32 KB under way in a block for each four columns that it reads.
#pragma once

#include <new>

#include "../rules.h"
#include "launch.h"
#include "parameter.cuh"
#include "ticket.cuh"

namespace yfk {
namespace cuda {

constexpr int kBlock = 256;
constexpr int kWarps = kBlock / kWarp;
constexpr int kSegment = 8 * kWarp;  // of a chunk: what a warp takes at a time
using Dealt = Deal<kWarps, kSegment>;

// A chunk and what its block has to know to run a rule over it: worked out once, by one thread,
// because the doubles in it would cost a whole block more than small tensors take.
template <class Rule>
struct Job {
  Piece piece;
  uint32_t seed;  // of stochastic rounding
  alignas(8) unsigned char bytes[sizeof(Rule)];

  // step: of this tensor's, from 1
  __device__ __forceinline__ void set(const typename Rule::Coefficients& group, double step,
                                      double ratio) {
    make(group, step, ratio);
    seed = rounding_seed(piece.row.origin + piece.first, step);
  }
  template <class... Given>
  __device__ __forceinline__ void make(const Given&... given) {
    new (bytes) Rule(given...);
  }
  __device__ __forceinline__ const Rule& rule() const {
    return *reinterpret_cast<const Rule*>(bytes);
  }
};

// Steps the tensor has taken, or 0 if nobody counts them.
__device__ __forceinline__ double steps_of(const Piece& piece) {
  const auto* step = reinterpret_cast<const float*>(piece.row.column[kStep]);
  return step ? double(load_word<Reuse::kKeep>(step)) : 0.0;
}

__device__ __forceinline__ void count_step(const Piece& piece) {
  auto* step = reinterpret_cast<float*>(piece.row.column[kStep]);
  if (step) store_word<Reuse::kKeep>(step, load_word<Reuse::kKeep>(step) + 1.0f);
}

// Chunks of the tensor that a piece belongs to.
__device__ __forceinline__ unsigned chunks_of(const Piece& piece, int64_t chunk_size) {
  return unsigned((piece.row.numel + chunk_size - 1) / chunk_size);
}

// The state columns of a piece, read and written together.
template <class Rule, int N, bool kAllWide, Reuse kReuse>
struct StatesOf {
  static constexpr int n = Rule::kStates;
  static constexpr Stored kStored = Rule::kStored;
  using Codes = std::conditional_t<kStored == Stored::kMoments, AbsoluteCode, RelativeCode>;
  using First = std::conditional_t<is_in_float8(kStored), Float8, float>;
  using Last = std::conditional_t<is_coded(kStored), Codes, float>;
  struct Value {
    Lanes<N> column[n];
  };
  Column<First, N, kAllWide, kReuse> first;
  Column<Last, N, kAllWide, kReuse> last;  // the same one if there is only one

  __device__ __forceinline__ explicit StatesOf(const Piece& piece)
      : first(column_of<First, kAllWide, kReuse, N>(piece, kState)),
        last(column_of<Last, kAllWide, kReuse, N>(piece, kState + n - 1)) {}

  template <class Which>
  __device__ __forceinline__ Value load(int i, Which lanes) const {
    if constexpr (n == 1) {
      return {first.load(i, lanes)};
    } else {
      Value value = {first.load(i, lanes), last.load(i, lanes)};
      if constexpr (kStored == Stored::kMoments) {
#pragma unroll
        for (int k = 0; k < N; ++k) {
          const uint32_t square = __float_as_uint(value.column[1].at[k]);
          value.column[0].at[k] *= __uint_as_float(bits_of_unit(square));
        }
      }
      return value;
    }
  }
  // element: of the first one, plus the seed of the step.
  template <class Which>
  __device__ __forceinline__ void store(int i, Value& value, uint32_t element, Which lanes) const {
    if constexpr (is_coded(kStored)) {
#pragma unroll
      for (int k = 0; k < N; ++k) round(value, k, code_weyl(element + uint32_t(k)));
    }
    first.store(i, value.column[0], lanes);
    if constexpr (n == 2) last.store(i, value.column[1], lanes);
  }

 private:
  static __device__ __forceinline__ void round(Value& value, int k, uint32_t random) {
    float& square = value.column[n - 1].at[k];
    square = rounded(square, random, Last{});
    float& x = value.column[0].at[k];
    if constexpr (kStored == Stored::kMoments)
      x *= __uint_as_float(bits_of_inverse_unit(__float_as_uint(square)));
    if constexpr (is_in_float8(kStored)) x = rounded(x, random, Float8{});
  }
};

// u of N elements, whose states advance.
template <class Rule, int N, class State>
__device__ __forceinline__ Lanes<N> directions(const Rule& rule, const Lanes<N>& g,
                                               const Lanes<N>& p, State* state) {
  Lanes<N> u;
#pragma unroll
  for (int k = 0; k < N; ++k) {
    float own[Rule::kStates];
#pragma unroll
    for (int c = 0; c < Rule::kStates; ++c) own[c] = state->column[c].at[k];
    u.at[k] = rule.direction(g.at[k], p.at[k], own);
#pragma unroll
    for (int c = 0; c < Rule::kStates; ++c) state->column[c].at[k] = own[c];
  }
  return u;
}

// Whether all columns that a pass over a piece touches lie on 16 bytes.
template <class P, class Rule>
__device__ __forceinline__ bool all_wide(const Piece& piece, bool with_grad) {
  bool wide = piece.wide<P>(kParam) && piece.wide<float>(kMaster);
  if (with_grad) wide = wide && piece.wide<P>(kGrad);
  for (int c = 0; c < Rule::kStates; ++c) wide = wide && piece.wide<float>(kState + c);
  return wide;
}

// Calls body(parameter) with the parameter of a job in the form that its type and columns ask for.
template <class P, Reuse kReuse, bool kAllWide, class Rule, class Body>
__device__ __forceinline__ void with_parameter(const Job<Rule>& job, Body body) {
  if constexpr (std::is_same_v<P, float>) {
    body(FloatParameter<kAllWide>(job.piece, job.seed));
  } else if (job.piece.row.column[kMaster]) {
    body(MasteredParameter<P, kAllWide, kReuse>(job.piece, job.seed));
  } else {
    body(RoundedParameter<P, kAllWide>(job.piece, job.seed));
  }
}

template <class P, Reuse kReuse, class Rule, class Body>
__device__ __forceinline__ void with_parameter(const Job<Rule>& job, bool wide, Body body) {
  if (wide) {
    with_parameter<P, kReuse, true>(job, body);
  } else {
    with_parameter<P, kReuse, false>(job, body);
  }
}

// Runs over a warp's segments of a chunk of n elements, a thread over N in a row:
// work(i, load(i, lanes), lanes). Eight elements are loaded before the first of them is worked on;
// where all columns lie on 16 bytes, by accesses of that width alone.
template <int N, bool kAllWide, class Load, class Work>
__device__ __forceinline__ void for_each_lanes(int n, int rank, Load load, Work work) {
  constexpr int kApart = kWarp * N, kUnroll = kSegment / kApart, kRound = kWarps * kSegment;
  int i = rank * kSegment + int(threadIdx.x % kWarp) * N;
  if constexpr (kAllWide) {
    for (; i + (kUnroll - 1) * kApart + N <= n; i += kRound) {
      decltype(load(0, Whole{})) values[kUnroll];
#pragma unroll
      for (int u = 0; u < kUnroll; ++u) values[u] = load(i + u * kApart, Whole{});
#pragma unroll
      for (int u = 0; u < kUnroll; ++u) work(i + u * kApart, values[u], Whole{});
    }
  }
#pragma unroll 1
  for (; i < n; i += kRound) {
    decltype(load(0, Inside{n})) values[kUnroll];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) values[u] = load(i + u * kApart, Inside{n});
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) work(i + u * kApart, values[u], Inside{n});
  }
}

// Blocks for a pass over a table.
inline int grid_of(const Table& table, const void* kernel, int device) {
  const int64_t resident = resident_blocks(kernel, kBlock, device);
  return int(table.num_chunks < resident ? table.num_chunks : resident);
}

}  // namespace cuda
}  // namespace yfk
