// The passes of hypergradients (../tangents.h): tangents advance, and are projected on a gradient.
// Divisions and roots of elements: the GPU's own, good to a few units in the last place.
// compile with: -prec-div=false -prec-sqrt=false
#include "../tangents.h"
#include "move_sums.cuh"
#include "pass.cuh"

namespace yfk {
namespace cuda {
namespace {

constexpr int N = kVec<float>;

// Some columns of a piece side by side, from one on.
template <int n, bool kAllWide, Reuse kReuse>
struct Columns {
  float* first[n ? n : 1];
  bool wide[n ? n : 1];

  __device__ __forceinline__ Columns(const Piece& piece, int column) {
#pragma unroll
    for (int k = 0; k < n; ++k) {
      first[k] = piece.column<float>(column + k);
      wide[k] = piece.wide<float>(column + k);
    }
  }
  template <class Which>
  __device__ __forceinline__ Lanes<N> load(int k, int i, Which lanes) const {
    return Column<float, N, kAllWide, kReuse>(first[k], wide[k]).load(i, lanes);
  }
  template <class Which>
  __device__ __forceinline__ void load(int i, Lanes<N>* values, Which lanes) const {
#pragma unroll
    for (int k = 0; k < n; ++k) values[k] = load(k, i, lanes);
  }
  template <class Which>
  __device__ __forceinline__ void store(int i, const Lanes<N>* values, Which lanes) const {
#pragma unroll
    for (int k = 0; k < n; ++k)
      Column<float, N, kAllWide, kReuse>(first[k], wide[k]).store(i, values[k], lanes);
  }
};

// Of `n` columns from one on, whether all lie on 16 bytes.
__device__ __forceinline__ bool are_wide(const Piece& piece, int column, int n) {
  bool wide = true;
  for (int k = 0; k < n; ++k) wide = wide && piece.wide<float>(column + k);
  return wide;
}

// Element k of some columns.
template <int n>
__device__ __forceinline__ void gather(const Lanes<N>* columns, int k, float* values) {
#pragma unroll
  for (int c = 0; c < n; ++c) values[c] = columns[c].at[k];
}

// ---- advance, own

// What a step is taken from. The step reads it next: it is to stay in the L2 cache.
template <class Family, bool kAllWide>
struct Before {
  static constexpr int n = Family::kSlots;
  struct Values {
    Lanes<N> g_and_w[2], slots[n ? n : 1];
  };
  Columns<2, kAllWide, Reuse::kKeep> g_and_w;
  Columns<n, kAllWide, Reuse::kKeep> slots;

  __device__ __forceinline__ explicit Before(const Piece& piece)
      : g_and_w(piece, kGrad), slots(piece, kSlot) {}
  template <class Which>
  __device__ __forceinline__ Values load(int i, Which lanes) const {
    Values values;
    g_and_w.load(i, values.g_and_w, lanes);
    slots.load(i, values.slots, lanes);
    return values;
  }
};
static_assert(kParam == kGrad + 1, "side by side");

template <class Family, bool kAllWide>
__device__ __forceinline__ void advance_chunk(const Piece& piece, int rank, const Family& family) {
  constexpr int kTangents = Family::kTangents;
  const Before<Family, kAllWide> before(piece);
  const Columns<1, kAllWide, Reuse::kStream> probe(piece, kProbe);
  const Columns<kTangents, kAllWide, Reuse::kStream> tangents(piece, kTangent<Family>);

  struct Values {
    typename Before<Family, kAllWide>::Values at;
    Lanes<N> probe, z[kTangents];
  };
  const auto load = [&](int i, auto lanes) {
    Values values = {before.load(i, lanes), probe.load(0, i, lanes), {}};
    tangents.load(i, values.z, lanes);
    return values;
  };
  const auto work = [&](int i, Values& value, auto lanes) {
#pragma unroll
    for (int k = 0; k < N; ++k) {
      float slots[Family::kSlots + 1], z[kTangents];
      gather<Family::kSlots>(value.at.slots, k, slots);
      gather<kTangents>(value.z, k, z);
      value.probe.at[k] = family.advance(value.at.g_and_w[0].at[k], value.at.g_and_w[1].at[k],
                                         value.probe.at[k], slots, z);
#pragma unroll
      for (int c = 0; c < kTangents; ++c) value.z[c].at[k] = z[c];
    }
    tangents.store(i, value.z, lanes);
    if (family.keeps_own) probe.store(i, &value.probe, lanes);
  };
  for_each_lanes<N, kAllWide>(piece.n, rank, load, work);
}

template <class Family, bool kAllWide>
__device__ __forceinline__ void derive_chunk(const Piece& piece, int rank, const Family& family) {
  const Before<Family, kAllWide> before(piece);
  const Columns<1, kAllWide, Reuse::kStream> tangent(piece, kTangent<Family>);
  const auto load = [&](int i, auto lanes) { return before.load(i, lanes); };
  const auto work = [&](int i, const auto& at, auto lanes) {
    Lanes<N> own;
#pragma unroll
    for (int k = 0; k < N; ++k) {
      float slots[Family::kSlots + 1];
      gather<Family::kSlots>(at.slots, k, slots);
      own.at[k] = family.own(at.g_and_w[0].at[k], at.g_and_w[1].at[k], slots);
    }
    tangent.store(i, &own, lanes);
  };
  for_each_lanes<N, kAllWide>(piece.n, rank, load, work);
}

// By one thread of a block. rows: the coefficients of each tensor.
template <class Rule>
__device__ __forceinline__ void open_chunk(const Table& table,
                                           const typename Rule::Coefficients* rows, int64_t chunk,
                                           Job<Rule>* job) {
  job->piece = piece_of(table, chunk);
  if (job->piece.has_grad()) job->make(rows[job->piece.row.group]);
}

// Runs work(piece, rank, rule) on every warp that has a share of a chunk.
template <class Rule, class Work>
__device__ __forceinline__ void for_each_share(const Table& table,
                                               const typename Rule::Coefficients* rows, Work work) {
  __shared__ Job<Rule> jobs[kBatch];
  const int warp = warp_index();
  const auto open = [&](int k, int64_t chunk) { open_chunk(table, rows, chunk, &jobs[k]); };
  const auto share = [&](int k) {
    const Piece& piece = jobs[k].piece;
    const int rank = Dealt::rank(warp, k);
    if (Dealt::has_share(rank, piece.n)) work(piece, rank, Rule(jobs[k].rule()));
  };
  for_each_batch(int(blockIdx.x), int(table.num_chunks), int(gridDim.x), open, share);
}

// Blocks on a multiprocessor, by what a thread has under way: 64 registers, 80 or 128.
template <class Family>
constexpr int kAdvancing = 5 - Family::kTangents;

template <class Family>
__global__ void __launch_bounds__(kBlock, kAdvancing<Family>)
    advance_kernel(Table table, const typename Family::Coefficients* rows) {
  for_each_share<Family>(table, rows, [](const Piece& piece, int rank, const Family& family) {
    const bool wide = are_wide(piece, kGrad, 2) &&
                      are_wide(piece, kProbe, 1 + Family::kSlots + Family::kTangents);
    if (wide) {
      advance_chunk<Family, true>(piece, rank, family);
    } else {
      advance_chunk<Family, false>(piece, rank, family);
    }
  });
}

template <class Family>
__global__ void __launch_bounds__(kBlock, 4)
    own_kernel(Table table, const typename Family::Coefficients* rows) {
  for_each_share<Family>(table, rows, [](const Piece& piece, int rank, const Family& family) {
    if (are_wide(piece, kGrad, 2) && are_wide(piece, kSlot, Family::kSlots + 1)) {
      derive_chunk<Family, true>(piece, rank, family);
    } else {
      derive_chunk<Family, false>(piece, rank, family);
    }
  });
}

// ---- project

// A column that need not be there: then it reads as 0.
template <bool kAllWide>
struct Optional {
  const float* first = nullptr;
  bool wide = true;

  __device__ __forceinline__ Optional() {}
  __device__ __forceinline__ Optional(const Piece& piece, int column) {
    if (column == kNowhere) return;
    first = piece.column<const float>(column);
    wide = piece.wide<float>(column);
  }
  template <class Which>
  __device__ __forceinline__ Lanes<N> load(int i, Which lanes) const {
    if (!first) return {};
    return Column<const float, N, kAllWide, Reuse::kStream>(first, wide).load(i, lanes);
  }
};

// A thread sums its elements of a chunk, 256 at most, in float. The next step reads e and w.
template <class Form, bool kAllWide>
__device__ __forceinline__ void project_chunk(const Piece& piece, int rank, const Form& form,
                                              const Projection& projection, float* sums) {
  const Columns<1, kAllWide, Reuse::kKeep> gradient(piece, kGrad);
  const Optional<kAllWide> w(piece, form.decay != 0.0f ? kParam : kNowhere);
  const Optional<kAllWide> tangent(piece, projection.tangent);
  Optional<kAllWide> columns[Form::kColumns];
  if (projection.own != kNowhere)
    for (int c = 0; c < Form::kColumns; ++c)
      columns[c] = Optional<kAllWide>(piece, projection.own + c);

  struct Values {
    Lanes<N> e, w, tangent, columns[Form::kColumns];
  };
  const auto load = [&](int i, auto lanes) {
    Values values = {gradient.load(0, i, lanes), w.load(i, lanes), tangent.load(i, lanes), {}};
#pragma unroll
    for (int c = 0; c < Form::kColumns; ++c) values.columns[c] = columns[c].load(i, lanes);
    return values;
  };
  const auto work = [&](int, const Values& value, auto) {
#pragma unroll
    for (int k = 0; k < N; ++k) {
      float x[Form::kColumns];
      gather<Form::kColumns>(value.columns, k, x);
      form.add(value.e.at[k], value.w.at[k], form.x(x), value.tangent.at[k], sums);
    }
  };
  for_each_lanes<N, kAllWide>(piece.n, rank, load, work);
}

// The sum over a tensor's chunks in an order that depends on their number alone; by a warp.
__device__ __forceinline__ void sum_chunks(const double* chunks, unsigned count, double* sums) {
  for (int i = 0; i < kProjected; ++i) {
    double sum = 0.0;
#pragma unroll 4
    for (unsigned chunk = threadIdx.x; chunk < count; chunk += kWarp)
      sum += __ldcg(chunks + kProjected * chunk + i);
    sum = warp_sum(sum);
    if (threadIdx.x == 0) sums[i] = sum;
  }
}

// Blocks on a multiprocessor: 80 registers a thread, or 128 where those would spill.
template <class Form>
constexpr int kProjecting = Form::kColumns == 1 ? 3 : 2;

// The last chunk of a tensor to be done adds all of them up.
template <class Form>
__global__ void __launch_bounds__(kBlock, kProjecting<Form>)
    project_kernel(Table table, Projection projection, const ProjectionCoefficients* rows,
                   double* chunk_sums, double* sums, unsigned* tickets) {
  __shared__ Job<Form> jobs[kBatch];
  __shared__ MoveSums<kProjected, kWarps, Dealt> summed;
  const int warp = warp_index();

  const auto open = [&](int k, int64_t chunk) { open_chunk(table, rows, chunk, &jobs[k]); };
  const auto project = [&](int k) {
    const Piece& piece = jobs[k].piece;
    const int rank = Dealt::rank(warp, k);
    if (!Dealt::has_share(rank, piece.n)) return;
    const Form form = jobs[k].rule();
    bool wide = are_wide(piece, kGrad, 2);
    if (projection.own != kNowhere) wide = wide && are_wide(piece, projection.own, Form::kColumns);
    if (projection.tangent != kNowhere) wide = wide && are_wide(piece, projection.tangent, 1);
    float own[kProjected] = {};
    if (wide) {
      project_chunk<Form, true>(piece, rank, form, projection, own);
    } else {
      project_chunk<Form, false>(piece, rank, form, projection, own);
    }
    summed.add(k, rank, own);
  };
  const auto close = [&](bool opened) {
    summed.end_batch(opened ? &jobs[threadIdx.x].piece : nullptr, chunk_sums);
    if (threadIdx.x >= kWarp) return;
    bool last = false;
    if (opened) {
      const Piece& piece = jobs[threadIdx.x].piece;
      const unsigned chunks = chunks_of(piece, table.chunk_size);
      last = thread_arrives_last(tickets + piece.index, chunks);
    }
    for (int k = 0; k < kBatch; ++k) {
      if (!told_by(k, last)) continue;
      const Piece& piece = jobs[k].piece;
      const double* first =
          chunk_sums + kProjected * (piece.chunk - piece.first / table.chunk_size);
      sum_chunks(first, chunks_of(piece, table.chunk_size), sums + kProjected * piece.index);
    }
  };
  for_each_batch(int(blockIdx.x), int(table.num_chunks), int(gridDim.x), open, project, close);
}

template <class Family>
void launch_advance(const Table& table, const double* rows, const Queue& queue) {
  const auto* kernel = reinterpret_cast<const void*>(&advance_kernel<Family>);
  YFK_LAUNCH((advance_kernel<Family>), grid_of(table, kernel, queue.device), kBlock, 0,
             stream_of(queue), table, reinterpret_cast<const typename Family::Coefficients*>(rows));
}

template <class Family>
void launch_own(const Table& table, const double* rows, const Queue& queue) {
  const auto* kernel = reinterpret_cast<const void*>(&own_kernel<Family>);
  YFK_LAUNCH((own_kernel<Family>), grid_of(table, kernel, queue.device), kBlock, 0,
             stream_of(queue), table, reinterpret_cast<const typename Family::Coefficients*>(rows));
}

template <class Form>
void launch_project(const Table& table, const Projection& projection, const double* rows,
                    double* chunk_sums, double* sums, unsigned* tickets, const Queue& queue) {
  const auto* kernel = reinterpret_cast<const void*>(&project_kernel<Form>);
  YFK_LAUNCH((project_kernel<Form>), grid_of(table, kernel, queue.device), kBlock, 0,
             stream_of(queue), table, projection,
             reinterpret_cast<const ProjectionCoefficients*>(rows), chunk_sums, sums, tickets);
}

}  // namespace

void advance_tangents(const Table& table, FamilyId family, const double* coefficients,
                      Queue queue) {
  if (table.num_chunks == 0) return;
  const DeviceGuard guard(queue.device);
  switch (family) {
#define YFK_CASE(constant, name, ...) \
  case FamilyId::constant:            \
    return launch_advance<__VA_ARGS__>(table, coefficients, queue);
    YFK_FAMILIES(YFK_CASE)
#undef YFK_CASE
  }
}

void own_derivatives(const Table& table, FamilyId family, const double* coefficients, Queue queue) {
  if (table.num_chunks == 0) return;
  const DeviceGuard guard(queue.device);
  switch (family) {
#define YFK_CASE(constant, name, ...) \
  case FamilyId::constant:            \
    return launch_own<__VA_ARGS__>(table, coefficients, queue);
    YFK_FAMILIES(YFK_CASE)
#undef YFK_CASE
  }
}

void project(const Table& table, const Projection& projection, const double* coefficients,
             double* chunk_sums, double* sums, unsigned* tickets, Queue queue) {
  if (table.num_chunks == 0) return;
  const DeviceGuard guard(queue.device);
  switch (projection.id) {
#define YFK_CASE(constant, name, ...)                                                         \
  case ProjectionId::constant:                                                                \
    return launch_project<__VA_ARGS__>(table, projection, coefficients, chunk_sums, sums,     \
                                       tickets, queue);
    YFK_PROJECTIONS(YFK_CASE)
#undef YFK_CASE
  }
}

}  // namespace cuda
}  // namespace yfk
