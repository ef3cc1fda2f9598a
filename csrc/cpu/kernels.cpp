// The rules of rules.h run over one chunk of one tensor, sixteen elements at a time.
//
// Compiled once per instruction set (YFK_ISA names the namespace); dispatch.cpp picks one at run
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

template <class T>
YFK_FN T* column(const TensorRow& row, int index, int64_t first) {
  return reinterpret_cast<T*>(row.column[index]) + first;
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

// The same in double precision. The floats are added to it often enough that none of them grows long.
template <bool kAverages, bool kNonzero>
struct MomentSums {
  Sums grad_sq = no_sums(), dot = no_sums(), avg_sq = no_sums(), nonzero = no_sums();

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
  }
};

template <class G, bool kAverages, bool kNonzero>
void measure(const TensorRow& row, int64_t first, int64_t n, double* sums) {
  const G* g = column<const G>(row, kGrad, first);
  const float* gbar = kAverages ? column<const float>(row, kGradAvg, first) : nullptr;
  MomentSums<kAverages, kNonzero> total;
  for_each_run<kReadingTwo>(0, n, [&](int64_t i, int64_t count, auto places) YFK_INLINE_BODY {
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
    total.add_run(moments);
  });
  total.add_to(sums);
  sums[4] += double(n);
}

template <class G, bool kNonzero>
void measure_sketch(const TensorRow& row, int64_t first, int64_t n, double* sums, float* sketch) {
  constexpr int kWord = 32;  // elements that share a word of signs
  static_assert(kStride % kTile == 0, "all places of a run fall into the same buckets");
  const G* g = column<const G>(row, kGrad, first);
  const int64_t origin = row.origin + first;
  // only a shard begins inside a word; it takes the rest of that word one by one
  const int64_t ragged = (kWord - origin % kWord) % kWord;
  const int64_t head = ragged < n ? ragged : n;
  measure<G, false, kNonzero>(row, first, head, sums);
  for (int64_t i = 0; i < head; ++i) {
    const int64_t e = origin + i;
    const Floats grad = flip_signs(load(g + i, SomeLanes{1}), sign_bits(e >> 5) >> (e & 31), 0);
    sketch[e % kTile] += grad.part[0][0];
  }
  MomentSums<false, kNonzero> total;
  for_each_run<kReadingOne>(head, n, [&](int64_t i, int64_t count, auto places) YFK_INLINE_BODY {
    static_assert(kRun == kLanes * kWord, "the signs of a run are one vector");
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
    total.add_run(moments);
  });
  total.add_to(sums);
  sums[4] += double(n - head);
}

template <class G, bool kNonzero>
void measure_chunk(const TensorRow& row, int64_t first, int64_t n, double* sums, float* sketch) {
  if (sketch) {
    measure_sketch<G, kNonzero>(row, first, n, sums, sketch);
  } else {
    measure<G, true, kNonzero>(row, first, n, sums);
  }
}

template <class G>
void measure_any(const TensorRow& row, int64_t first, int64_t n, bool nonzero, double* sums,
                 float* sketch) {
  if (nonzero) {
    measure_chunk<G, true>(row, first, n, sums, sketch);
  } else {
    measure_chunk<G, false>(row, first, n, sums, sketch);
  }
}

void yellowfin_measure(DType dtype, const TensorRow& row, int64_t first, int64_t n, bool nonzero,
                       double* sums, float* sketch) {
  switch (dtype) {
    case DType::kFloat32: return measure_any<float>(row, first, n, nonzero, sums, sketch);
    case DType::kBFloat16: return measure_any<BFloat16>(row, first, n, nonzero, sums, sketch);
    case DType::kFloat16: return measure_any<Float16>(row, first, n, nonzero, sums, sketch);
  }
}

// ---------------------------------------------------------------------------------------------
// YellowFin, apply

template <class P, bool kAverages>
void apply(const TensorRow& row, int64_t first, int64_t n, const YellowFinApply& rule) {
  const P* g = column<const P>(row, kGrad, first);
  P* p = column<P>(row, kParam, first);
  float* v = column<float>(row, kMomentum, first);
  float* gbar = kAverages ? column<float>(row, kGradAvg, first) : nullptr;
  float* master = sizeof(P) < 4 ? column<float>(row, kMaster, first) : nullptr;
  for_each_block<kLanes>(n, [&](int64_t i, auto lanes) YFK_INLINE_BODY {
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
void apply_chunk(const TensorRow& row, int64_t first, int64_t n, const YellowFinApply& rule) {
  if (row.column[kGradAvg]) {
    apply<P, true>(row, first, n, rule);
  } else {
    apply<P, false>(row, first, n, rule);
  }
}

void yellowfin_apply(DType dtype, const TensorRow& row, int64_t first, int64_t n,
                     const YellowFinCoefficients& coefficients) {
  const YellowFinApply rule(coefficients);
  switch (dtype) {
    case DType::kFloat32: return apply_chunk<float>(row, first, n, rule);
    case DType::kBFloat16: return apply_chunk<BFloat16>(row, first, n, rule);
    case DType::kFloat16: return apply_chunk<Float16>(row, first, n, rule);
  }
}

}  // namespace

extern const KernelSet kernel_set;
const KernelSet kernel_set = {YFK_STRING(YFK_ISA), yellowfin_measure, yellowfin_apply};

}  // namespace YFK_ISA
}  // namespace yfk
