// The rules of rules.h run over chunks of a table, sixteen elements at a time.
//
// Compiled once per instruction set (YFK_ISA names the namespace); driver.cpp picks one at run
// time. Memory bandwidth is the limit: each column is streamed once, in order.
#include "kernels.h"

#include "simd.h"

#define YFK_INLINE_BODY __attribute__((always_inline))
#define YFK_STRING(name) YFK_STRING_OF(name)
#define YFK_STRING_OF(name) #name

namespace yfk {
namespace YFK_ISA {
namespace {

// Places a measurement reads in turn, by the number of columns it reads.
constexpr int kReadingOne = 4, kReadingTwo = 2;

// The part of a tensor that a chunk covers.
struct Piece {
  const TensorRow& row;
  int64_t first, n;

  template <class T>
  YFK_FN T* column(int index) const {
    return reinterpret_cast<T*>(row.column[index]) + first;
  }
};

YFK_FN Piece piece_of(const Table& table, int64_t chunk) {
  const int64_t first = table.chunks[chunk].first;
  const TensorRow& row = table.rows[table.chunks[chunk].row];
  const int64_t rest = row.numel - first;
  return {row, first, rest < table.chunk_size ? rest : table.chunk_size};
}

// ---------------------------------------------------------------------------------------------
// YellowFin, measure

// kNonzero: count the entries that are not zero; a good part of the arithmetic, and seldom wanted.
template <bool kAverages, bool kNonzero>
struct Moments {
  Floats grad_sq = zeros(), dot = zeros(), avg_sq = zeros();
  Counts nonzero = no_counts();

  YFK_FN void add(const Floats& g) {
    grad_sq = grad_sq + g * g;
    if (kNonzero) count_nonzero(&nonzero, g);
  }
  YFK_FN void add_average(const Floats& g, const Floats& gbar) {
    dot = dot + gbar * g;
    avg_sq = avg_sq + gbar * gbar;
  }
};

// The same over a whole slot, in double precision; the floats are added often enough that none of
// them grows long.
template <bool kAverages, bool kNonzero>
struct SlotMoments {
  Sums grad_sq = no_sums(), dot = no_sums(), avg_sq = no_sums(), nonzero = no_sums();
  int64_t entries = 0;

  YFK_FN void add_run(const Moments<kAverages, kNonzero>& run) {
    add(&grad_sq, run.grad_sq);
    if (kAverages) {
      add(&dot, run.dot);
      add(&avg_sq, run.avg_sq);
    }
    if (kNonzero) add(&nonzero, run.nonzero);
  }
  YFK_FN void add_to(double* sums) const {
    sums[0] += total(grad_sq);
    if (kAverages) {
      sums[1] += total(dot);
      sums[2] += total(avg_sq);
    }
    if (kNonzero) sums[3] += total(nonzero);
    sums[4] += double(entries);
  }
};

template <class G, bool kAverages, bool kNonzero>
YFK_FN void measure(const Piece& piece, SlotMoments<kAverages, kNonzero>* slot) {
  const G* g = piece.column<const G>(kGrad);
  const float* gbar = kAverages ? piece.column<const float>(kGradAvg) : nullptr;
  for_each_run<kReadingTwo>(0, piece.n, [&](int64_t i, int64_t count, auto places) YFK_INLINE_BODY {
    Moments<kAverages, kNonzero> moments;
    for_each_block<kLanes>(count, [&](int64_t j, auto lanes) YFK_INLINE_BODY {
#pragma GCC unroll 4
      for (int place = 0; place < places.kCount; ++place) {
        const int64_t at = i + j + place * kStride;
        const Floats grad = load(g + at, lanes);
        moments.add(grad);
        if (kAverages) moments.add_average(grad, load(gbar + at, lanes));
      }
    });
    slot->add_run(moments);
  });
}

template <class G, bool kNonzero>
YFK_FN void measure_sketch(const Piece& piece, SlotMoments<false, kNonzero>* slot, float* sketch) {
  constexpr int kWord = 32;  // elements that share a word of signs
  static_assert(kStride % kTile == 0, "all places of a run fall into the same buckets");
  static_assert(kRun == kLanes * kWord, "the signs of a run are one vector");
  const G* g = piece.column<const G>(kGrad);
  const int64_t origin = piece.row.origin + piece.first;
  // only a shard begins inside a word; it takes the rest of that word one by one
  const int64_t ragged = (kWord - origin % kWord) % kWord;
  const int64_t head = ragged < piece.n ? ragged : piece.n;
  for (int64_t i = 0; i < head; ++i) {
    const int64_t e = origin + i;
    const Floats grad = load(g + i, SomeLanes{1});
    Moments<false, kNonzero> moments;
    moments.add(grad);
    slot->add_run(moments);
    sketch[e % kTile] += flip_signs(grad, sign_bits(e >> 5) >> (e & 31), 0).part[0][0];
  }
  const auto run = [&](int64_t i, int64_t count, auto places) YFK_INLINE_BODY {
    uint32_t signs[places.kCount][kLanes];
    for (int place = 0; place < places.kCount; ++place)
      sign_words((origin + i + place * kStride) >> 5, signs[place]);
    Moments<false, kNonzero> moments;
    for_each_block<kWord>(count, [&](int64_t j, auto lanes) YFK_INLINE_BODY {
#pragma GCC unroll 2
      for (int half = 0; half < kWord; half += kLanes) {
        const auto there = lanes_from(lanes, half);
        float* bucket = sketch + (origin + i + j) % kTile + half;
        Floats sum = load(bucket, there);
#pragma GCC unroll 4
        for (int place = 0; place < places.kCount; ++place) {
          const Floats grad = load(g + i + j + place * kStride + half, there);
          moments.add(grad);
          sum = sum + flip_signs(grad, signs[place][j / kWord], half);
        }
        store(bucket, sum, there);
      }
    });
    slot->add_run(moments);
  };
  for_each_run<kReadingOne>(head, piece.n, run);
}

template <class G, bool kSketch, bool kNonzero>
void measure_chunks(const Table& table, int64_t begin, int64_t end, double* sums, float* sketch) {
  SlotMoments<!kSketch, kNonzero> slot;
  for (int64_t chunk = begin; chunk < end; ++chunk) {
    const Piece piece = piece_of(table, chunk);
    if (!piece.row.column[kGrad]) continue;
    slot.entries += piece.n;
    if constexpr (kSketch) {
      measure_sketch<G>(piece, &slot, sketch);
    } else {
      measure<G>(piece, &slot);
    }
  }
  slot.add_to(sums);
}

template <class G>
void measure_any(const Table& table, int64_t begin, int64_t end, bool nonzero, double* sums,
                 float* sketch) {
  if (sketch) {
    (nonzero ? measure_chunks<G, true, true> : measure_chunks<G, true, false>)(table, begin, end,
                                                                             sums, sketch);
  } else {
    (nonzero ? measure_chunks<G, false, true> : measure_chunks<G, false, false>)(
        table, begin, end, sums, nullptr);
  }
}

void yellowfin_measure(const Table& table, int64_t begin, int64_t end, DType dtype, bool nonzero,
                       double* sums, float* sketch) {
  switch (dtype) {
    case DType::kFloat32: return measure_any<float>(table, begin, end, nonzero, sums, sketch);
    case DType::kBFloat16: return measure_any<BFloat16>(table, begin, end, nonzero, sums, sketch);
    case DType::kFloat16: return measure_any<Float16>(table, begin, end, nonzero, sums, sketch);
  }
}

// ---------------------------------------------------------------------------------------------
// YellowFin, apply

template <class P, bool kAverages>
YFK_FN void apply(const Piece& piece, const YellowFinApply& rule) {
  const P* g = piece.column<const P>(kGrad);
  P* p = piece.column<P>(kParam);
  float* v = piece.column<float>(kMomentum);
  float* gbar = kAverages ? piece.column<float>(kGradAvg) : nullptr;
  float* master = sizeof(P) < 4 ? piece.column<float>(kMaster) : nullptr;
  for_each_block<kLanes>(piece.n, [&](int64_t i, auto lanes) YFK_INLINE_BODY {
    const Floats grad = load(g + i, lanes);
    Floats param = load_param(p, master, i, lanes);
    Floats velocity = load(v + i, lanes);
    rule.update(grad, param, velocity);
    store_param(p, master, i, param, lanes);
    store(v + i, velocity, lanes);
    if (kAverages) {
      Floats average = load(gbar + i, lanes);
      rule.average(grad, average);
      store(gbar + i, average, lanes);
    }
  });
}

template <class P>
void apply_chunks(const Table& table, int64_t begin, int64_t end,
                  const YellowFinCoefficients* groups) {
  for (int64_t chunk = end - 1; chunk >= begin; --chunk) {
    const Piece piece = piece_of(table, chunk);
    if (!piece.row.column[kGrad]) continue;
    const YellowFinApply rule(groups[piece.row.group]);
    if (piece.row.column[kGradAvg]) {
      apply<P, true>(piece, rule);
    } else {
      apply<P, false>(piece, rule);
    }
  }
}

void yellowfin_apply(const Table& table, int64_t begin, int64_t end, DType dtype,
                     const YellowFinCoefficients* groups) {
  switch (dtype) {
    case DType::kFloat32: return apply_chunks<float>(table, begin, end, groups);
    case DType::kBFloat16: return apply_chunks<BFloat16>(table, begin, end, groups);
    case DType::kFloat16: return apply_chunks<Float16>(table, begin, end, groups);
  }
}

}  // namespace

extern const KernelSet kernel_set;
const KernelSet kernel_set = {YFK_STRING(YFK_ISA), yellowfin_measure, yellowfin_apply};

}  // namespace YFK_ISA
}  // namespace yfk
