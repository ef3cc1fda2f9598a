// The gate: as the CPU driver decides, alone and after a measurement, over a trace of steps.
#include <algorithm>
#include <cmath>

#include "cpu/driver.h"
#include "cuda/driver.h"
#include "model.h"
#include "queue.h"
#include "update.h"

namespace yfk {
namespace {

constexpr float kLossScale = 1024.0f;
constexpr int64_t kWords = sizeof(QHMCoefficients) / sizeof(double);

// What one driver keeps from step to step.
struct Gatekeeper {
  GateState state = {NAN, 0.0};
  std::vector<double> coefficients;

  Gatekeeper(int groups, Random& random)
      : coefficients(words_of(some_settings<QHMCoefficients>(groups, random))) {
    // clipped, not clipped, and without a clip
    const double max_norms[] = {1e-3, 1e9, INFINITY}, signs[] = {1.0, -1.0, 1.0};
    for (int i = 0; i < groups; ++i) {
      auto* group = reinterpret_cast<Settings*>(&coefficients[i * kWords]);
      group->max_norm = max_norms[i % 3];
      group->sign = signs[i % 3];
    }
  }

  int64_t groups() const { return int64_t(coefficients.size()) / kWords; }

  // State and coefficients in one list.
  std::vector<double> values() const {
    std::vector<double> all = {state.grad_norm, state.skipped};
    all.insert(all.end(), coefficients.begin(), coefficients.end());
    return all;
  }
};

// Bit for bit, or up to the order of the sums.
bool agree(const std::vector<double>& a, const std::vector<double>& b, double tolerance) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [&](double x, double y) {
    return x == y || (std::isnan(x) && std::isnan(y)) ||
           std::fabs(x - y) <= tolerance * std::fabs(y);
  });
}

struct Scale {
  float grad_scale, found_inf;
  bool amp;

  const float* scale() const { return amp ? &grad_scale : nullptr; }
  const float* found() const { return amp ? &found_inf : nullptr; }
};

cuda::GateArguments arguments(const std::vector<double>& partials, const Scale& scale,
                              Gatekeeper& keeper) {
  return {int64_t(partials.size()) / kSums,
          partials.empty() ? nullptr : partials.data(),
          scale.scale(),
          scale.found(),
          &keeper.state,
          keeper.groups(),
          kWords,
          keeper.coefficients.data()};
}

void on_cpu(const std::vector<double>& partials, const Scale& scale, Gatekeeper& keeper) {
  cpu::decide(int64_t(partials.size()) / kSums, partials.data(),
              scale.amp ? 1.0 / double(scale.grad_scale) : 1.0,
              scale.amp && scale.found_inf != 0.0f, &keeper.state, keeper.groups(), kWords,
              keeper.coefficients.data());
}

// A good step, one with a NaN (or an infinity), one that GradScaler has found to overflow, a good
// one.
void check_alone(int64_t slots, int groups, bool amp, Random& random) {
  std::uniform_real_distribution<double> uniform;
  Gatekeeper cpu(groups, random), cuda = cpu;
  for (int step = 0; step < 4; ++step) {
    std::vector<double> partials(slots * kSums);
    for (double& x : partials) x = uniform(random);
    if (step == 1 && slots) partials[(slots - 1) * kSums] = amp ? NAN : INFINITY;
    const Scale scale = {kLossScale, step == 2 ? 1.0f : 0.0f, amp};
    on_cpu(partials, scale, cpu);
    const Gatekeeper before = cuda;
    for (const auto& schedule : schedules(random)) {
      cuda_on_cpu::schedule = schedule;
      cuda = before;
      cuda::decide(arguments(partials, scale, cuda), kQueue);
      EXPECT(agree(cuda.values(), cpu.values(), slots == 1 ? 0.0 : 1e-14),
             "step " << step << ", " << slots << " slots, " << groups << " groups, "
                     << name_of(schedule));
    }
  }
  EXPECT(cuda.state.skipped == (slots ? 1.0 : 0.0) + amp, cuda.state.skipped << " steps skipped");
}

// After the measurement of the last of two tables.
void check_after_measurement(DType dtype, Random& random) {
  constexpr int64_t kOther = 3, kOwn = 5;
  const Blueprint blueprint = {dtype, Second::kNone, kTile, awkward_tensors(random),
                               unsigned(random())};
  constexpr int kMany = 70;  // groups: two or three for each lane
  const Gatekeeper fresh(kMany, random);
  const Scale scale = {kLossScale, 0.0f, true};
  std::vector<double> first;
  for (const auto& schedule : schedules(random)) {
    cuda_on_cpu::schedule = schedule;
    Model model(blueprint, Alignment::kOdd);
    std::vector<double> partials((kOther + kOwn) * kSums, NAN);
    std::fill_n(partials.begin(), kOther * kSums, 0.25);
    Gatekeeper cuda = fresh, cpu = fresh;
    unsigned ticket = 0;
    cuda::measure_then_decide(model.table(), dtype, kOwn, &partials[kOther * kSums],
                              arguments(partials, scale, cuda), &ticket, kQueue);
    on_cpu(partials, scale, cpu);
    EXPECT(agree(cuda.values(), cpu.values(), 1e-14), "not the CPU's with " << name_of(schedule));
    EXPECT(ticket == 0, "the ticket is " << ticket << " with " << name_of(schedule));
    if (first.empty()) first = cuda.values();
    EXPECT(agree(cuda.values(), first, 0.0), "the result changes with " << name_of(schedule));
  }
}

}  // namespace

void check_gate(Random& random) {
  for (const int64_t slots : {0, 1, 31, 256})
    for (const bool amp : {false, true})
      for (const int groups : {1, 33}) check_alone(slots, groups, amp, random);
  for (const DType dtype : kDTypes) check_after_measurement(dtype, random);
}

}  // namespace yfk
