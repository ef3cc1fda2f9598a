// Step: measure, tune and update together, against YellowFin in float64.
//
// The oracle takes over the kernels' tensors before each step, so that only one step's rounding
// has to be allowed for; its scalars are its own from the first step on.
#include <cmath>

#include "cuda/driver.h"
#include "model.h"
#include "oracle.h"
#include "queue.h"
#include "small_float.h"
#include "tuner_state.h"

namespace yfk {
namespace {

// Gradient sizes: quiet, above the envelope (clipped in the update), beyond its hundredfold square
// (clipped in the statistics too), quiet again. Far enough apart that rounding decides nothing.
constexpr double kSizes[] = {1.0, 0.7, 1.6, 30.0, 1.2};
constexpr float kLossScale = 4.0f;
constexpr int64_t kSlots = 3;

// The third group's multiplier is so large that the cap on a step's move holds it.
const std::vector<GroupHyper> kHyper = {
    {1.0, 0.0, 0.0, 1.0}, {0.5, 0.01, 1.0, -1.0}, {1e9, 0.1, 0.0, 1.0}};

// A thread adds at most 128 products in float (its share of a chunk), each sum off by 2^-24: 7.6e-6
// of a sum of squares, and by Cauchy and Schwarz of the norms' product for <ḡ, g>. A bucket adds
// a dozen or two elements of a slot: some 1e-6 of their sizes.
constexpr double kSumsOff = 1e-5;
// Roundings on an element's way, coefficients included, of 2^-24 each.
constexpr double kElementOff = 8.0 / (1 << 24);

struct Trace {
  Blueprint blueprint;
  TunerOptions options;
};

std::vector<OracleTensor> tensors_of(Model& model, const Blueprint& blueprint) {
  std::vector<OracleTensor> tensors;
  for (int64_t t = 0; t < int64_t(blueprint.tensors.size()); ++t) {
    const TensorRow& row = model.row(t);
    OracleTensor tensor = {blueprint.tensors[t].has_grad,
                           row.group,
                           row.origin,
                           model.read(t, kGrad),
                           model.read(t, kParam),
                           model.read(t, kState),
                           model.read(t, kState + 1)};
    // the master counts, unless somebody has written to the parameter since
    const std::vector<double> master = model.read(t, kMaster);
    const bool half = blueprint.dtype == DType::kFloat16;
    const auto& type = half ? cuda_on_cpu::kHalf : cuda_on_cpu::kBFloat16;
    for (size_t i = 0; i < master.size(); ++i)
      if (double(type.widen(type.narrow(float(master[i])))) == tensor.param[i])
        tensor.param[i] = master[i];
    tensors.push_back(tensor);
  }
  return tensors;
}

class Stepper {
 public:
  Stepper(const Trace& trace, Random& random)
      : trace_(trace), random_(random), model_(trace.blueprint, Alignment::kOdd),
        oracle_(trace.options, kHyper), state_(fresh_state(trace.options)),
        coefficients_(kHyper.size()) {
    model_.draw(kState + 1, 0.0, random);
  }

  void step(double size) {
    model_.draw(kGrad, size * kLossScale, random_);
    const std::vector<OracleTensor> before = tensors_of(model_, trace_.blueprint);
    std::vector<OracleTensor> wanted = before;
    const Decision& decision = oracle_.step(&wanted, kLossScale);
    on_cuda();
    compare_scalars(decision);
    const std::vector<OracleTensor> got = tensors_of(model_, trace_.blueprint);
    for (size_t t = 0; t < got.size(); ++t)
      if (got[t].has_grad) {
        compare(got[t], wanted[t], before[t], decision);
      } else {
        EXPECT(got[t].param == before[t].param && got[t].velocity == before[t].velocity &&
                   got[t].average == before[t].average,
               "tensor " << t << " has no gradient and has changed");
      }
    EXPECT(model_.guards_intact(), "written outside of a column");
    ++steps_;
  }

 private:
  void on_cuda() {
    const auto all = schedules(random_);
    cuda_on_cpu::schedule = all[random_() % all.size()];
    const Blueprint& blueprint = trace_.blueprint;
    std::vector<double> partials(kSlots * kSums), scratch(kTile + 1);
    const bool sketched = trace_.options.sketch;
    std::vector<float> sketches(sketched ? kSlots * kTile : 0);
    const float* sketch = sketched ? sketches.data() : nullptr;
    cuda::measure(model_.table(), blueprint.dtype, sketched ? Measure::kSketch : Measure::kAverage,
                  kSlots, partials.data(), sketches.data(), kQueue);
    cuda::yellowfin_tune(trace_.options, kSlots, partials.data(), sketch, &kLossScale, nullptr,
                         state_.data(), int64_t(kHyper.size()), &kHyper[0].lr,
                         &coefficients_[0].active, scratch.data(), kQueue);
    cuda::update(model_.table(), blueprint.dtype,
                 sketched ? RuleId::kYellowFinSketch : RuleId::kYellowFin, &coefficients_[0].active,
                 nullptr, nullptr, nullptr, nullptr, kQueue);
  }

  void near(const char* what, double got, double wanted, double tolerance) const {
    EXPECT(std::fabs(got - wanted) <= tolerance, what << " of step " << steps_ << ": " << got
                                                      << ", oracle " << wanted << ", "
                                                      << name_of(cuda_on_cpu::schedule));
  }

  // How far lr may be off, relatively. The root of SingleStep's cubic moves by less than its
  // coefficient D²h²/C does: twice D, twice h (1 and 1.5 times the sums) and C, which cancels.
  double lr_off(const Decision& decision) const {
    return kSumsOff * (6.0 + 2.0 * decision.variance_scale / decision.variance);
  }

  void compare_scalars(const Decision& wanted) const {
    const TunerState got = scalars_of(state_);
    near("grad_norm", got.grad_norm, wanted.norm, kSumsOff * wanted.norm);
    near("h_min", got.h_min, wanted.h_min, 2.0 * kSumsOff * wanted.h_min);
    near("h_max", got.h_max, wanted.h_max, 2.0 * kSumsOff * wanted.h_max);
    near("variance", got.variance, wanted.variance, 2.0 * kSumsOff * wanted.variance_scale);
    near("distance", got.distance, wanted.distance, 2.0 * kSumsOff * wanted.distance);
    near("clip_coefficient", got.clip_coefficient, wanted.clip, 2.0 * kSumsOff * wanted.clip);
    if (steps_ == 0) {
      near("lr", got.lr, wanted.lr[0], 0.0);
      near("momentum", got.momentum, wanted.momentum, 0.0);
    } else {
      near("lr", got.lr, wanted.lr[0], lr_off(wanted) * wanted.lr[0]);
      near("momentum", got.momentum, wanted.momentum, lr_off(wanted));
    }
  }

  // Allows for float's rounding of every term, and for what the scalars may be off.
  void compare(const OracleTensor& got, const OracleTensor& wanted, const OracleTensor& before,
               const Decision& decision) const {
    const GroupHyper& group = kHyper[wanted.group];
    const double lr = decision.lr[wanted.group];
    const double scalars_off = steps_ == 0 ? 3.0 * kSumsOff : lr_off(decision) + 3.0 * kSumsOff;
    const double velocity_gain = trace_.options.polyak ? lr : 1.0;
    const double param_gain = trace_.options.polyak ? 1.0 : lr;
    for (size_t i = 0; i < got.grad.size(); ++i) {
      const double p = std::fabs(before.param[i]), v = std::fabs(before.velocity[i]);
      const double g = std::fabs(before.grad[i]) / kLossScale;
      const double d = decision.clip * g + group.weight_decay * p;
      const double velocity = decision.momentum * v + velocity_gain * d;
      const double velocity_off =
          kElementOff * velocity + scalars_off * (velocity + (steps_ == 0 ? 0.0 : v));
      const double decay = group.decoupled != 0.0 ? lr * group.weight_decay * p : 0.0;
      near("velocity", got.velocity[i], wanted.velocity[i], velocity_off);
      const double move = param_gain * velocity;
      near("parameter", got.param[i], wanted.param[i],
           kElementOff * (p + move) + scalars_off * (decay + move) + param_gain * velocity_off);
      if (got.average.empty()) continue;
      const double average = std::fabs(before.average[i]), gain = (1.0 - trace_.options.beta) * g;
      near("average", got.average[i], wanted.average[i],
           kElementOff * (average + gain) + 2.0 * kSumsOff * gain);
    }
  }

  Trace trace_;
  Random& random_;
  Model model_;
  Oracle oracle_;
  std::vector<double> state_;
  std::vector<YellowFinCoefficients> coefficients_;
  int steps_ = 0;
};

}  // namespace

void check_step(Random& random) {
  for (const DType dtype : kDTypes) {
    for (const bool sketch : {false, true}) {
      const TunerOptions usual = {0.999, INFINITY, 1e-4, 0.0, 20, true, false, true, false, sketch};
      const TunerOptions other = {0.99, 1000.0, 1e-4, 0.1, 3, true, true, false, true, sketch};
      for (const TunerOptions& options : {usual, other}) {
        const Blueprint blueprint = {dtype, sketch ? Second::kNone : Second::kAverage, 16 * kTile,
                                     awkward_tensors(random), unsigned(random())};
        Stepper stepper({blueprint, options}, random);
        for (const double size : kSizes) stepper.step(size);
      }
    }
  }
}

}  // namespace yfk
