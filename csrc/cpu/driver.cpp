#include "driver.h"

#include <algorithm>

#include "kernels.h"
#include "parallel.h"

namespace yfk {

#define YFK_DECLARE_KERNELS(isa) \
  namespace isa {                \
  extern const KernelSet kernel_set; \
  }
YFK_DECLARE_KERNELS(baseline)
#if YFK_ISA_AVX2
YFK_DECLARE_KERNELS(avx2)
#endif
#if YFK_ISA_AVX512
YFK_DECLARE_KERNELS(avx512)
#endif

#if YFK_ISA_AVX2
// everything CMakeLists.txt lets the compiler use at this level
static bool has_avx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
         __builtin_cpu_supports("f16c") && __builtin_cpu_supports("bmi2");
}
#endif

const KernelSet& kernels() {
  static const KernelSet& best = []() -> const KernelSet& {
#if YFK_ISA_AVX512
    if (has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
      return avx512::kernel_set;
#endif
#if YFK_ISA_AVX2
    if (has_avx2()) return avx2::kernel_set;
#endif
    return baseline::kernel_set;
  }();
  return best;
}

namespace cpu {

void yellowfin_measure(const Table& table, DType dtype, int64_t num_slots, bool nonzero,
                       double* partials, float* sketches, int threads) {
  const KernelSet& set = kernels();
  parallel_for(num_slots, threads, [&](int64_t slot) {
    double sums[kSums] = {};
    float* sketch = sketches ? sketches + slot * kTile : nullptr;
    if (sketch) std::fill_n(sketch, kTile, 0.0f);
    set.yellowfin_measure(table, slot * table.num_chunks / num_slots,
                          (slot + 1) * table.num_chunks / num_slots, dtype, nonzero, sums, sketch);
    std::copy_n(sums, kSums, partials + slot * kSums);
  });
}

void yellowfin_tune(const TunerOptions& options, int64_t num_slots, const double* partials,
                    const float* sketches, double inv_scale, bool found_inf, double* state,
                    int64_t num_groups, const double* groups, double* coefficients) {
  double total[kSums] = {};
  for (int64_t slot = 0; slot < num_slots; ++slot)
    for (int i = 0; i < kSums; ++i) total[i] += partials[slot * kSums + i];
  GradientSums sums = {total[0], total[1], total[2], total[3], total[4], total[0]};

  // the sketch plays the part of the gradient, its average that of gbar
  double sketch[kTile];
  double* average = state + sizeof(TunerState) / sizeof(double) + options.window;
  if (options.sketch) {
    std::fill_n(sketch, kTile, 0.0);
    for (int64_t slot = 0; slot < num_slots; ++slot)
      for (int j = 0; j < kTile; ++j) sketch[j] += double(sketches[slot * kTile + j]);
    sums.avg_dot_grad = sums.avg_sq = sums.avg_grad_sq = 0.0;
    for (int j = 0; j < kTile; ++j) {
      sums.avg_dot_grad += average[j] * sketch[j];
      sums.avg_sq += average[j] * average[j];
      sums.avg_grad_sq += sketch[j] * sketch[j];
    }
  }

  auto* out = reinterpret_cast<YellowFinCoefficients*>(coefficients);
  tune(options, sums, inv_scale, found_inf, reinterpret_cast<TunerState*>(state),
       reinterpret_cast<const GroupHyper*>(groups), num_groups, out);

  if (options.sketch && out->active != 0.0)
    for (int j = 0; j < kTile; ++j)
      average[j] = out->average_decay * average[j] + out->average_gain * sketch[j];
}

void yellowfin_apply(const Table& table, DType dtype, const double* coefficients, int threads) {
  const auto* groups = reinterpret_cast<const YellowFinCoefficients*>(coefficients);
  if (groups->active == 0.0) return;
  const KernelSet& set = kernels();
  // a few runs of chunks for each thread: even shares, and no counter touched for every tiny tensor
  const int64_t num_runs = std::min<int64_t>(table.num_chunks, int64_t(threads) * 16);
  // from the end, which the measurement has read last: what a cache has kept is met before it is
  // displaced (too little to show at 50M parameters, bench/NOTES.md)
  parallel_for(num_runs, threads, [&](int64_t turn) {
    const int64_t run = num_runs - 1 - turn;
    set.yellowfin_apply(table, run * table.num_chunks / num_runs,
                        (run + 1) * table.num_chunks / num_runs, dtype, groups);
  });
}

void write_words(int64_t* destination, int64_t stride, const int64_t* words, int64_t count) {
  for (int64_t i = 0; i < count; ++i) destination[i * stride] = words[i];
}

const char* instruction_set() { return kernels().name; }

}  // namespace cpu
}  // namespace yfk
