// The passes of hypergradients over chunks of a table (../tangents.h), sixteen elements at a time.
//
// Compiled once per instruction set (YFK_ISA names the namespace); driver.cpp picks one at run
// time. Memory bandwidth is the limit: each column is streamed once, in order.
#include "../tangents.h"

#include <algorithm>

#include "kernels.h"
#include "piece.h"

#define YFK_INLINE_BODY __attribute__((always_inline))

namespace yfk {
namespace YFK_ISA {
namespace {

// Columns of a piece side by side, from one on.
template <class T, int n>
struct Columns {
  T* first[n ? n : 1];

  YFK_FN Columns(const Piece& piece, int column) {
    for (int k = 0; k < n; ++k) first[k] = piece.column<T>(column + k);
  }
  template <class Lanes>
  YFK_FN void read(int64_t i, Floats* values, Lanes lanes) const {
    for (int k = 0; k < n; ++k) values[k] = load(first[k] + i, lanes);
  }
  template <class Lanes>
  YFK_FN void write(int64_t i, const Floats* values, Lanes lanes) const {
    for (int k = 0; k < n; ++k) store(first[k] + i, values[k], lanes);
  }
};

// A column that need not be there: then it reads as 0.
struct Optional {
  const float* first = nullptr;

  YFK_FN Optional() {}
  YFK_FN Optional(const Piece& piece, int column) {
    if (column != kNowhere) first = piece.column<const float>(column);
  }
  template <class Lanes>
  YFK_FN Floats read(int64_t i, Lanes lanes) const {
    return first ? load(first + i, lanes) : zeros();
  }
};

// What a step is taken from, as it is before it.
template <class Family>
struct Before {
  static constexpr int n = Family::kSlots;
  const float *g, *w;
  Columns<const float, n> slots;
  struct Values {
    Floats g, w, slots[n ? n : 1];
  };

  YFK_FN explicit Before(const Piece& piece)
      : g(piece.column<const float>(kGrad)), w(piece.column<const float>(kParam)),
        slots(piece, kSlot) {}
  template <class Lanes>
  YFK_FN Values read(int64_t i, Lanes lanes) const {
    Values values = {load(g + i, lanes), load(w + i, lanes), {}};
    slots.read(i, values.slots, lanes);
    return values;
  }
};

template <class Family>
YFK_FN void advance(const Piece& piece, const Family& family) {
  const Before<Family> before(piece);
  float* probe = piece.column<float>(kProbe);
  const Columns<float, Family::kTangents> tangents(piece, kTangent<Family>);
  for_each_block<kLanes>(piece.n, [&](int64_t i, auto lanes) YFK_INLINE_BODY {
    const auto at = before.read(i, lanes);
    Floats z[Family::kTangents];
    tangents.read(i, z, lanes);
    const Floats own = family.advance(at.g, at.w, load(probe + i, lanes), at.slots, z);
    tangents.write(i, z, lanes);
    if (family.keeps_own) store(probe + i, own, lanes);
  });
}

template <class Family>
YFK_FN void derive(const Piece& piece, const Family& family) {
  const Before<Family> before(piece);
  float* own = piece.column<float>(kTangent<Family>);
  for_each_block<kLanes>(piece.n, [&](int64_t i, auto lanes) YFK_INLINE_BODY {
    const auto at = before.read(i, lanes);
    store(own + i, family.own(at.g, at.w, at.slots), lanes);
  });
}

template <class Form>
YFK_FN void project(const Piece& piece, const Form& form, const Projection& projection,
                    double* chunk_sums) {
  const float* e = piece.column<const float>(kGrad);
  const Optional w(piece, form.decay != 0.0f ? kParam : kNowhere);
  const Optional zw(piece, projection.tangent);
  Optional columns[Form::kColumns];
  if (projection.own != kNowhere)
    for (int k = 0; k < Form::kColumns; ++k) columns[k] = Optional(piece, projection.own + k);
  Sums sums[kProjected];
  for (Sums& sum : sums) sum = no_sums();
  for_each_run<1>(0, piece.n, [&](int64_t i, int64_t count, auto) YFK_INLINE_BODY {
    Floats run[kProjected];
    for (Floats& sum : run) sum = zeros();
    for_each_block<kLanes>(count, [&](int64_t j, auto lanes) YFK_INLINE_BODY {
      Floats x[Form::kColumns];
      for (int k = 0; k < Form::kColumns; ++k) x[k] = columns[k].read(i + j, lanes);
      form.add(load(e + i + j, lanes), w.read(i + j, lanes), form.x(x), zw.read(i + j, lanes), run);
    });
    for (int k = 0; k < kProjected; ++k) add(&sums[k], run[k]);
  });
  for (int k = 0; k < kProjected; ++k) chunk_sums[k] = total(sums[k]);
}

template <class Family>
void advance_chunks(const Table& table, int64_t begin, int64_t end, const double* rows) {
  for (int64_t chunk = begin; chunk < end; ++chunk) {
    const Piece piece = piece_of(table, chunk);
    if (piece.row.column[kGrad]) advance(piece, Family(coefficients<Family>(piece, rows)));
  }
}

template <class Family>
void derive_chunks(const Table& table, int64_t begin, int64_t end, const double* rows) {
  for (int64_t chunk = begin; chunk < end; ++chunk) {
    const Piece piece = piece_of(table, chunk);
    if (piece.row.column[kGrad]) derive(piece, Family(coefficients<Family>(piece, rows)));
  }
}

template <class Form>
void project_chunks(const Table& table, int64_t begin, int64_t end, const Projection& projection,
                    const double* rows, double* chunk_sums) {
  for (int64_t chunk = begin; chunk < end; ++chunk) {
    const Piece piece = piece_of(table, chunk);
    double* sums = chunk_sums + kProjected * chunk;
    std::fill_n(sums, kProjected, 0.0);
    if (!piece.row.column[kGrad]) continue;
    project(piece, Form(coefficients<Form>(piece, rows)), projection, sums);
  }
}

}  // namespace

TangentPasses tangent_passes_of(FamilyId family) {
  switch (family) {
#define YFK_CASE(constant, name, ...) \
  case FamilyId::constant:            \
    return {advance_chunks<__VA_ARGS__>, derive_chunks<__VA_ARGS__>};
    YFK_FAMILIES(YFK_CASE)
#undef YFK_CASE
  }
  return {};
}

ProjectKernel project_kernel(ProjectionId projection) {
  switch (projection) {
#define YFK_CASE(constant, name, ...) \
  case ProjectionId::constant:        \
    return project_chunks<__VA_ARGS__>;
    YFK_PROJECTIONS(YFK_CASE)
#undef YFK_CASE
  }
  return nullptr;
}

}  // namespace YFK_ISA
}  // namespace yfk
