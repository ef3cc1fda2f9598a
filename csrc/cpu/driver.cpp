#include "driver.h"

#include <algorithm>

#include "kernels.h"
#include "parallel.h"
#include "runs.h"

namespace yfk {

#define YFK_KERNELS(isa)                                                                   \
  namespace isa {                                                                          \
  MeasureKernel measure_kernel(DType dtype, Measure what, bool nonzero);                   \
  Passes passes_of(DType dtype, RuleId rule);                                              \
  AverageKernel average_kernel(DType dtype, DType average);                                \
  TangentPasses tangent_passes_of(FamilyId family);                                        \
  ProjectKernel project_kernel(ProjectionId projection);                                   \
  constexpr KernelSet kernel_set = {#isa,           measure_kernel,    passes_of,          \
                                    average_kernel, tangent_passes_of, project_kernel};    \
  }
YFK_KERNELS(baseline)
#if YFK_ISA_AVX2
YFK_KERNELS(avx2)
#endif
#if YFK_ISA_AVX512
YFK_KERNELS(avx512)
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

void measure(const Table& table, DType dtype, Measure what, int64_t num_slots, bool nonzero,
             double* partials, float* sketches, int threads) {
  const MeasureKernel kernel = kernels().measure(dtype, what, nonzero);
  parallel_for(num_slots, threads, [&](int64_t slot) {
    double sums[kMeasured] = {};
    float* sketch = what == Measure::kSketch ? sketches + slot * kTile : nullptr;
    if (sketch) std::fill_n(sketch, kTile, 0.0f);
    kernel(table, slot * table.num_chunks / num_slots, (slot + 1) * table.num_chunks / num_slots,
           sums, sketch);
    std::copy_n(sums, kMeasured, partials + slot * kSums);
  });
}

void yellowfin_tune(const TunerOptions& options, int64_t num_slots, const double* partials,
                    const float* sketches, double inv_scale, bool found_inf, double* state,
                    int64_t num_groups, const double* groups, double* coefficients) {
  double total[kSums] = {};
  for (int64_t slot = 0; slot < num_slots; ++slot)
    for (int i = 0; i < kSums; ++i) total[i] += partials[slot * kSums + i];
  GradientSums sums = {total[0], total[1], total[2], total[3], total[4], total[0], total[5]};

  // the sketch plays the part of the gradient, its average that of ḡ
  auto* scalars = reinterpret_cast<TunerState*>(state);
  double* average = sketch_average_of(options, scalars);
  double sketch[kTile];
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

  const auto* hyper = reinterpret_cast<const GroupHyper*>(groups);
  double longest = 1.0;
  for (int64_t i = 0; i < num_groups; ++i) longest = std::max(longest, hyper[i].lr);
  const Tuned tuned = tune(options, sums, inv_scale, found_inf, longest, scalars);
  for (int64_t i = 0; i < num_groups; ++i)
    tune_group(options, tuned, i, hyper, reinterpret_cast<YellowFinCoefficients*>(coefficients),
               scalars);

  if (options.sketch && tuned.active)
    for (int j = 0; j < kTile; ++j)
      average[j] = options.beta * average[j] + tuned.average_gain * sketch[j];
}

void decide(int64_t num_slots, const double* partials, double inv_scale, bool found_inf,
            GateState* state, int64_t num_groups, int64_t words, double* coefficients) {
  double norm_sq = 0.0;
  for (int64_t slot = 0; slot < num_slots; ++slot) norm_sq += partials[slot * kSums];
  decide(num_slots > 0, norm_sq, inv_scale, found_inf, state, num_groups, words, coefficients);
}

static bool active(const double* coefficients) {
  return reinterpret_cast<const Gate*>(coefficients)->active != 0.0;
}

// After a pass, when every chunk of the tensor has read how many steps it has taken.
static void count_step(const TensorRow& row) {
  auto* step = reinterpret_cast<float*>(row.column[kStep]);
  if (row.column[kGrad] && step) *step += 1.0f;
}

// The same, and norms[row] = the sum over the tensor's chunks, in order.
static void end_tensor(const Table& table, int64_t first, int64_t end, const double* chunk_norms,
                       double* norms) {
  const int64_t row = table.chunks[first].row;
  if (!table.rows[row].column[kGrad]) return;
  double p_sq = 0.0, u_sq = 0.0;
  for (int64_t chunk = first; chunk < end; ++chunk) {
    p_sq += chunk_norms[2 * chunk];
    u_sq += chunk_norms[2 * chunk + 1];
  }
  norms[2 * row] = p_sq;
  norms[2 * row + 1] = u_sq;
  count_step(table.rows[row]);
}

void update(const Table& table, DType dtype, RuleId rule, const double* coefficients,
            double* chunk_move_sums, double* move_sums, int threads) {
  if (!active(coefficients)) return;
  const Passes passes = kernels().passes(dtype, rule);
  const Runs runs(table, threads);
  // from the end, which the measurement has read last: what a cache has kept is met before it is
  // displaced (too little to show at 50M parameters, bench/NOTES.md)
  parallel_for(runs.count(), threads, [&](int64_t turn) {
    const int64_t run = runs.count() - 1 - turn;
    passes.update(table, runs.begin(run), runs.end(run), coefficients, chunk_move_sums);
  });
  for (int k = 0; k < passes.move_sums; ++k) {
    move_sums[k] = 0.0;
    for (int64_t chunk = 0; chunk < table.num_chunks; ++chunk)
      move_sums[k] += chunk_move_sums[passes.move_sums * chunk + k];
  }
  for (int64_t chunk = 0; chunk < table.num_chunks; chunk = runs.end_of_tensor(chunk))
    count_step(table.rows[table.chunks[chunk].row]);
}

void update_state(const Table& table, DType dtype, RuleId rule, const double* coefficients,
                  double* chunk_norms, double* norms, int threads) {
  if (!active(coefficients)) return;
  const UpdateStateKernel kernel = kernels().passes(dtype, rule).update_state;
  const Runs runs(table, threads);
  parallel_for(runs.count(), threads, [&](int64_t turn) {
    const int64_t run = runs.count() - 1 - turn;
    kernel(table, runs.begin(run), runs.end(run), coefficients, chunk_norms);
  });
  for (int64_t chunk = 0; chunk < table.num_chunks; chunk = runs.end_of_tensor(chunk))
    end_tensor(table, chunk, runs.end_of_tensor(chunk), chunk_norms, norms);
}

void apply(const Table& table, DType dtype, RuleId rule, const double* coefficients,
           const double* norms, int threads) {
  if (!active(coefficients)) return;
  const ApplyKernel kernel = kernels().passes(dtype, rule).apply;
  const Runs runs(table, threads);
  parallel_for(runs.count(), threads, [&](int64_t run) {
    kernel(table, runs.begin(run), runs.end(run), coefficients, norms);
  });
}

void update_state_then_apply(const Table& table, DType dtype, RuleId rule,
                             const double* coefficients, double* chunk_norms, double* norms,
                             int threads) {
  if (!active(coefficients)) return;
  const Passes passes = kernels().passes(dtype, rule);
  const Runs runs(table, threads);
  parallel_for(runs.count(), threads, [&](int64_t turn) {
    runs.for_each_tensor(runs.count() - 1 - turn, [&](int64_t begin, int64_t end) {
      passes.update_state(table, begin, end, coefficients, chunk_norms);
      if (!runs.whole(begin, end)) return;
      end_tensor(table, begin, end, chunk_norms, norms);
      passes.apply(table, begin, end, coefficients, norms);
    });
  });
  for (int64_t run = 0, ended = 0; run < runs.count(); ++run) {
    runs.for_each_tensor(run, [&](int64_t begin, int64_t end) {
      if (begin < ended || runs.whole(begin, end)) return;
      ended = runs.end_of_tensor(begin);
      end_tensor(table, begin, ended, chunk_norms, norms);
    });
  }
  parallel_for(runs.count(), threads, [&](int64_t run) {
    runs.for_each_tensor(run, [&](int64_t begin, int64_t end) {
      if (!runs.whole(begin, end)) passes.apply(table, begin, end, coefficients, norms);
    });
  });
}

// A kernel over all chunks, in runs of them.
template <class Kernel, class... Given>
static void run_over(const Table& table, int threads, Kernel kernel, const Given&... given) {
  const Runs runs(table, threads);
  parallel_for(runs.count(), threads,
               [&](int64_t run) { kernel(table, runs.begin(run), runs.end(run), given...); });
}

// Whether it is some tensor's turn: in most steps threads need not be woken.
static bool any_is_due(const Table& table, const Averaging& averaging) {
  for (int64_t chunk = 0; chunk < table.num_chunks; ++chunk) {
    const TensorRow& row = table.rows[table.chunks[chunk].row];
    if (row.column[kGrad] && averaging.is_due(*reinterpret_cast<const float*>(row.column[kStep])))
      return true;
  }
  return false;
}

void average(const Table& table, DType dtype, DType average, const double* coefficients,
             const Averaging& averaging, int threads) {
  if (!active(coefficients) || !any_is_due(table, averaging)) return;
  run_over(table, threads, kernels().average(dtype, average), averaging);
}

void advance_tangents(const Table& table, FamilyId family, const double* coefficients,
                      int threads) {
  run_over(table, threads, kernels().tangent_passes(family).advance, coefficients);
}

void own_derivatives(const Table& table, FamilyId family, const double* coefficients, int threads) {
  run_over(table, threads, kernels().tangent_passes(family).own, coefficients);
}

void project(const Table& table, const Projection& projection, const double* coefficients,
             double* chunk_sums, double* sums, int threads) {
  run_over(table, threads, kernels().project(projection.id), projection, coefficients, chunk_sums);
  for (int64_t chunk = 0; chunk < table.num_chunks; ++chunk) {
    double* of_tensor = sums + kProjected * table.chunks[chunk].row;
    if (table.chunks[chunk].first == 0) std::fill_n(of_tensor, kProjected, 0.0);
    for (int k = 0; k < kProjected; ++k) of_tensor[k] += chunk_sums[kProjected * chunk + k];
  }
}

void write_words(int64_t* destination, int64_t stride, const int64_t* words, int64_t count) {
  for (int64_t i = 0; i < count; ++i) destination[i * stride] = words[i];
}

const char* instruction_set() { return kernels().name; }

}  // namespace cpu
}  // namespace yfk
