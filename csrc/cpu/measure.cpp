// The reading pass over chunks of a table: sums over the gradients, sixteen elements at a time.
//
// Compiled once per instruction set (YFK_ISA names the namespace); driver.cpp picks one at run
// time. Memory bandwidth is the limit: each column is streamed once, in order.
#include "kernels.h"
#include "piece.h"

#define YFK_INLINE_BODY __attribute__((always_inline))

namespace yfk {
namespace YFK_ISA {
namespace {

// Places a measurement reads in turn, by the number of columns it reads.
constexpr int kReadingOne = 4, kReadingTwo = 2;

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
  const float* gbar = kAverages ? piece.column<const float>(kState + 1) : nullptr;
  constexpr int kPlaces = kAverages ? kReadingTwo : kReadingOne;
  for_each_run<kPlaces>(0, piece.n, [&](int64_t i, int64_t count, auto places) YFK_INLINE_BODY {
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

template <class G, Measure what, bool kNonzero>
void measure_chunks(const Table& table, int64_t begin, int64_t end, double* sums, float* sketch) {
  SlotMoments<what == Measure::kAverage, kNonzero> slot;
  for (int64_t chunk = begin; chunk < end; ++chunk) {
    const Piece piece = piece_of(table, chunk);
    if (!piece.row.column[kGrad]) continue;
    slot.entries += piece.n;
    if constexpr (what == Measure::kSketch) {
      measure_sketch<G>(piece, &slot, sketch);
    } else {
      measure<G>(piece, &slot);
    }
  }
  slot.add_to(sums);
}

template <class G, Measure what>
constexpr MeasureKernel kernel_for(bool nonzero) {
  return nonzero ? measure_chunks<G, what, true> : measure_chunks<G, what, false>;
}

template <class G>
MeasureKernel kernel_for(Measure what, bool nonzero) {
  switch (what) {
    case Measure::kNorm: return kernel_for<G, Measure::kNorm>(nonzero);
    case Measure::kAverage: return kernel_for<G, Measure::kAverage>(nonzero);
    case Measure::kSketch: break;
  }
  return kernel_for<G, Measure::kSketch>(nonzero);
}

}  // namespace

MeasureKernel measure_kernel(DType dtype, Measure what, bool nonzero) {
  switch (dtype) {
    case DType::kFloat32: break;
    case DType::kBFloat16: return kernel_for<BFloat16>(what, nonzero);
    case DType::kFloat16: return kernel_for<Float16>(what, nonzero);
  }
  return kernel_for<float>(what, nonzero);
}

}  // namespace YFK_ISA
}  // namespace yfk
