// One chunk of a tensor: where its columns are, and how its parameter is read and written.
#pragma once

#include <type_traits>

#include "bytes.h"

namespace yfk {
namespace YFK_ISA {

struct Piece {
  const TensorRow& row;
  int64_t first, n;

  template <class T>
  YFK_FN T* column(int index) const {
    return reinterpret_cast<T*>(row.column[index]) + first;
  }

  // Steps the tensor has taken, or 0 if nobody counts them.
  YFK_FN double steps() const {
    const auto* step = reinterpret_cast<const float*>(row.column[kStep]);
    return step ? double(*step) : 0.0;
  }
};

YFK_FN Piece piece_of(const Table& table, int64_t chunk) {
  const int64_t first = table.chunks[chunk].first;
  const TensorRow& row = table.rows[table.chunks[chunk].row];
  const int64_t rest = row.numel - first;
  return {row, first, rest < table.chunk_size ? rest : table.chunk_size};
}

// Coefficients of the piece's parameter group.
template <class Rule>
YFK_FN const typename Rule::Coefficients& coefficients(const Piece& piece, const double* groups) {
  return reinterpret_cast<const typename Rule::Coefficients*>(groups)[piece.row.group];
}

// A state in eight bits (codes.h): an average of squares in codes, or float8.
template <class Byte>
struct ByteColumn {
  Byte* p;
  uint32_t first;  // element of the piece, plus the seed of the step

  YFK_FN ByteColumn(const Piece& piece, int column, double step)
      : p(piece.column<Byte>(column)), first(uint32_t(piece.row.origin + piece.first) +
                                             rounding_seed(piece.row.origin + piece.first, step)) {}

  template <class Lanes>
  YFK_FN Floats read(int64_t i, Lanes lanes) const {
    return load(p + i, lanes);
  }
  // Returns what is kept of them.
  YFK_FN Floats write(int64_t i, const Floats& a, AllLanes) const {
    return round(code_weyl(first + uint32_t(i)), a, p + i);
  }
  YFK_FN Floats write(int64_t i, const Floats& a, SomeLanes some) const {
    Byte block[kLanes];
    const Floats kept = round(code_weyl(first + uint32_t(i)), a, block);
    memcpy(p + i, block, size_t(some.count));
    return kept;
  }

 private:
  template <class Format>
  static YFK_FN Floats round(uint32_t here, const Floats& a, Code<Format>* out) {
    UIntVec random[kParts];
    for (int k = 0; k < kParts; ++k)
      random[k] = UIntVec{} + here + code_weyl(lane_numbers() + uint32_t(k * kWidth));
    return store_coded(out, a, random);
  }
  static YFK_FN Floats round(uint32_t here, const Floats& a, Float8* out) {
    WideVec random;  // the lower halves are all that is wanted
    for (int k = 0; k < kLanes; ++k) random[k] = uint16_t(code_weyl(uint32_t(k)));
    return store_float8(out, a, float8_bits_of(random + uint16_t(here)));
  }
};

// A column in float32.
struct FloatColumn {
  float* p;

  YFK_FN FloatColumn(const Piece& piece, int column) : p(piece.column<float>(column)) {}

  template <class Lanes>
  YFK_FN Floats read(int64_t i, Lanes lanes) const {
    return load(p + i, lanes);
  }
  template <class Lanes>
  YFK_FN void write(int64_t i, const Floats& a, Lanes lanes) const {
    store(p + i, a, lanes);
  }
};

// A half-precision column that is rounded stochastically, by the bits of `seed`.
template <class Half>
struct RoundedColumn {
  Half* p;
  uint32_t element, seed;  // of the piece's first element

  YFK_FN RoundedColumn(const Piece& piece, int column, uint32_t seed)
      : p(piece.column<Half>(column)), element(uint32_t(piece.row.origin + piece.first)),
        seed(seed) {}

  template <class Lanes>
  YFK_FN Floats read(int64_t i, Lanes lanes) const {
    return load(p + i, lanes);
  }
  YFK_FN void write(int64_t i, const Floats& a, AllLanes) const { round(i, a, p + i); }
  YFK_FN void write(int64_t i, const Floats& a, SomeLanes some) const {
    Half block[kLanes];
    round(i, a, block);
    memcpy(p + i, block, size_t(some.count) * sizeof(Half));
  }

 private:
  YFK_FN void round(int64_t i, const Floats& a, Half* out) const {
    for (int k = 0; k < kParts; ++k) {
      const UIntVec at = lane_numbers() + (element + uint32_t(i + k * kWidth));
      const HalfVec h = narrow(a.part[k], Half{}, mixed(at ^ seed));
      memcpy(out + k * kWidth, &h, sizeof h);
    }
  }
};

// A parameter of a piece is read and written in one of three ways. `step`: this one, from 1.

struct FloatParameter : FloatColumn {
  YFK_FN FloatParameter(const Piece& piece, double) : FloatColumn(piece, kParam) {}
};

// A half-precision parameter and its float32 master. The master counts, unless somebody has
// written to the parameter since (a checkpoint loaded, weights averaged): then the parameter does.
template <class Half>
struct MasteredParameter {
  Half* p;
  float* master;

  YFK_FN MasteredParameter(const Piece& piece, double)
      : p(piece.column<Half>(kParam)), master(piece.column<float>(kMaster)) {}

  template <class Lanes>
  YFK_FN Floats read(int64_t i, Lanes lanes) const {
    const Floats low = load(p + i, lanes), high = load(master + i, lanes);
    Floats r;
    for (int k = 0; k < kParts; ++k) {
      const FloatVec rounded = widen(narrow(high.part[k], Half{}), Half{});
      const UIntVec same = (UIntVec)(rounded == low.part[k]);
      r.part[k] = (FloatVec)select(same, (UIntVec)high.part[k], (UIntVec)low.part[k]);
    }
    return r;
  }
  template <class Lanes>
  YFK_FN void write(int64_t i, const Floats& a, Lanes lanes) const {
    store(master + i, a, lanes);
    store(p + i, a, lanes);
  }
};

// A half-precision parameter without a master.
template <class Half>
struct RoundedParameter : RoundedColumn<Half> {
  YFK_FN RoundedParameter(const Piece& piece, double step)
      : RoundedColumn<Half>(piece, kParam, rounding_seed(piece.row.origin + piece.first, step)) {}
};

// Calls body(parameter) with the piece's parameter in the form that its dtype and columns ask for.
template <class P, class Body>
YFK_FN void with_parameter(const Piece& piece, double step, Body body) {
  if constexpr (std::is_same_v<P, float>) {
    body(FloatParameter(piece, step));
  } else if (piece.row.column[kMaster]) {
    body(MasteredParameter<P>(piece, step));
  } else {
    body(RoundedParameter<P>(piece, step));
  }
}

}  // namespace YFK_ISA
}  // namespace yfk
