// Tune: a trace of steps, with a NaN, an overflow that GradScaler found and an explosion in it.
#include <algorithm>
#include <cmath>
#include <vector>

#include "check.h"
#include "cpu/driver.h"
#include "cuda/driver.h"
#include "queue.h"
#include "tuner_state.h"

namespace yfk {
namespace {

constexpr int kSteps = 13, kNanStep = 5, kOverflowStep = 8, kExplosionStep = 11;
constexpr int kSchedulesAStep = 2;  // so that a trace has met all of them
constexpr float kLossScale = 1024.0f;
constexpr GroupHyper kHyper[] = {
    {1.0, 0.0, 0.0, 1.0}, {0.5, 0.01, 1.0, 1.0}, {2.0, 0.1, 0.0, -1.0}};
// More than a block has threads.
constexpr int kManyGroups = 515;

std::vector<GroupHyper> hyper_of(int groups) {
  std::vector<GroupHyper> all;
  for (int i = 0; i < groups; ++i) {
    all.push_back(kHyper[i % 3]);
    all.back().lr += 0.001 * i;
  }
  return all;
}

// The slots of one measurement.
struct Slots {
  double growth, metric_sq;  // what the update before has summed
  std::vector<double> partials;
  std::vector<float> sketches;

  Slots(int64_t count, bool sketch, int step, Random& random)
      : partials(count * kSums), sketches(sketch ? count * kTile : 0) {
    std::uniform_real_distribution<double> uniform;
    std::normal_distribution<double> normal;
    const double size = (1 + step % 7) * (step == kExplosionStep ? 1e6 : 1.0);
    for (int64_t slot = 0; slot < count; ++slot) {
      double* sums = &partials[slot * kSums];
      sums[0] = (uniform(random) + 0.1) * size;
      sums[1] = 0.01 * normal(random);
      sums[2] = 0.01 * uniform(random);
      sums[3] = 5.0;
      sums[4] = 9.0;
      sums[5] = 4.0;
    }
    growth = 0.01 * normal(random) * size;
    metric_sq = uniform(random) * double(count);
    if (step == kNanStep) partials[0] = NAN;
    // as large as a sketch of such gradients, or its share in the variance would not be seen
    for (float& x : sketches) x = float(normal(random) * std::sqrt(0.3 * size / kTile));
  }

  int64_t count() const { return int64_t(partials.size()) / kSums; }
  const float* sketch_data() const { return sketches.empty() ? nullptr : sketches.data(); }
};

// What one driver keeps from step to step.
struct Tuner {
  std::vector<GroupHyper> hyper;
  std::vector<double> state;
  std::vector<YellowFinCoefficients> coefficients;
  std::vector<double> scratch;

  Tuner(const TunerOptions& options, int groups)
      : hyper(hyper_of(groups)), state(fresh_state(options)), coefficients(groups),
        scratch(kTile + 1) {}

  int64_t groups() const { return int64_t(hyper.size()); }

  void move_sums(const Slots& slots) {
    auto* scalars = reinterpret_cast<TunerState*>(state.data());
    scalars->unread_growth = slots.growth;
    scalars->unread_metric_sq = slots.metric_sq;
  }

  void step_on_cpu(const TunerOptions& options, const Slots& slots, bool amp, bool overflow) {
    move_sums(slots);
    cpu::yellowfin_tune(options, slots.count(), slots.partials.data(), slots.sketch_data(),
                        amp ? 1.0 / double(kLossScale) : 1.0, overflow, state.data(), groups(),
                        &hyper[0].lr, &coefficients[0].active);
  }

  void step_on_cuda(const TunerOptions& options, const Slots& slots, bool amp, bool overflow) {
    move_sums(slots);
    const float scale = kLossScale, found_inf = overflow ? 1.0f : 0.0f;
    cuda::yellowfin_tune(options, slots.count(), slots.partials.data(), slots.sketch_data(),
                         amp ? &scale : nullptr, amp ? &found_inf : nullptr, state.data(), groups(),
                         &hyper[0].lr, &coefficients[0].active, scratch.data(), kQueue);
    EXPECT(scratch[kTile] == 0.0, "the ticket is not back at zero");
  }

  // State and coefficients in one list.
  std::vector<double> values() const {
    std::vector<double> all = state;
    const double* first = &coefficients[0].active;
    all.insert(all.end(), first, first + groups() * sizeof(YellowFinCoefficients) / sizeof(double));
    return all;
  }
};

// The largest relative difference; an absolute one for values next to zero.
double distance(const std::vector<double>& a, const std::vector<double>& b) {
  double worst = 0.0;
  for (size_t i = 0; i < a.size(); ++i) {
    const double off = std::fabs(a[i] - b[i]) / (std::fabs(a[i]) + 1e-12);
    if (!(off <= worst)) worst = off;  // NaN stays
    if (std::isnan(off)) break;
  }
  return worst;
}

void check_trace(const TunerOptions& options, int64_t num_slots, bool amp, Random& random,
                 int groups = 3) {
  // Sums over slots and buckets are the only ones that run in another order.
  const double tolerance = num_slots == 1 && !options.sketch ? 0.0 : 1e-9;
  Tuner cpu(options, groups), cuda(options, groups);
  const auto all = schedules(random);
  for (int step = 0; step < kSteps; ++step) {
    const Slots slots(num_slots, options.sketch, step, random);
    const bool overflow = amp && step == kOverflowStep;
    cpu.step_on_cpu(options, slots, amp, overflow);
    const Tuner before = cuda;
    cuda_on_cpu::schedule = {};
    cuda.step_on_cuda(options, slots, amp, overflow);
    for (int i = 0; i < kSchedulesAStep; ++i) {
      Tuner other = before;
      cuda_on_cpu::schedule = all[(step * kSchedulesAStep + i) % all.size()];
      other.step_on_cuda(options, slots, amp, overflow);
      EXPECT(other.values() == cuda.values(), "step " << step << ", " << num_slots
                                                      << " slots: the result changes with "
                                                      << name_of(cuda_on_cpu::schedule));
    }
    const double off = distance(cpu.values(), cuda.values());
    EXPECT(off <= tolerance, "step " << step << ", " << num_slots << " slots: off by " << off);
  }
  const TunerState last = scalars_of(cuda.state);
  EXPECT(last.skipped == 1.0 + amp, last.skipped << " steps skipped");
  EXPECT(last.step == kSteps - last.skipped, last.step << " steps taken");
}

}  // namespace

void check_tune(Random& random) {
  for (const bool sketch : {false, true}) {
    const TunerOptions usual = {0.999, INFINITY, 1e-4, 0.0, 20, true, false, true, false, sketch};
    const TunerOptions other = {0.99, 1.0, 1e-4, 0.1, 3, true, true, false, true, sketch};
    TunerOptions robust = usual;
    robust.polyak = robust.robust = true;
    check_trace(usual, 33, false, random);
    check_trace(other, 1, true, random);
    check_trace(robust, 1, true, random, 1);
    if (sketch) continue;  // 32 blocks a step: what follows would repeat it at some length
    check_trace(usual, 1, true, random);
    check_trace(other, 31, false, random);
    check_trace(other, 256, true, random, kManyGroups);
    TunerOptions preconditioned = robust;
    preconditioned.preconditioned = true;
    preconditioned.window = 3;
    check_trace(preconditioned, 1, true, random);
    check_trace(preconditioned, 31, false, random, kManyGroups);
  }
}

}  // namespace yfk
