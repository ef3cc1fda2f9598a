// YellowFin with a preconditioner: all storages of the squares and of the velocity.
#include <cmath>

#include "model.h"
#include "update.h"

namespace yfk {
namespace {

// The growth of ‖p‖² in the metric with what shorter steps lack, and <d, d / q>.
std::vector<double> in_metric(const double* group, const Element& x) {
  const auto& c = *reinterpret_cast<const YellowFinCoefficients*>(group);
  const double d = c.grad_scale * x.grad + c.coupled_decay * x.before;
  const double square_avg = c.average_decay * x.square_avg + c.average_gain * d * d;
  const double bias = 1.0 - std::pow(c.average_decay, x.steps + 1.0);
  const double q = std::sqrt(square_avg / bias) + 0x1p-16;
  const double growth = (x.after * x.after - x.before * x.before) * q;
  return {growth + c.shortfall * d * d / q, d * d / q};
}

}  // namespace

void check_preconditioned(Random& random) {
  std::uniform_real_distribution<double> uniform;
  for (const RuleId rule :
       {RuleId::kYellowFinDiagonal, RuleId::kYellowFinCompact, RuleId::kYellowFinFloat8}) {
    std::vector<YellowFinCoefficients> groups(kGroups);
    for (YellowFinCoefficients& group : groups) {
      group.active = 1.0;
      group.grad_scale = uniform(random) + 0.5;
      const bool codes = rule != RuleId::kYellowFinDiagonal;  // their decay is decoupled
      group.coupled_decay = codes ? 0.0 : 0.1 * uniform(random);
      group.momentum = uniform(random);
      group.velocity_gain = -uniform(random);
      group.velocity_keep = 1.0;
      group.param_keep = 1.0 - 0.1 * uniform(random);
      group.param_gain = 1.0;
      group.average_decay = 0.9 + 0.1 * uniform(random);
      group.average_gain = 1.0 - group.average_decay;
      group.update_clip = uniform(random);
      group.shortfall = uniform(random);
      group.unit = 0.1 + uniform(random);
      group.unit_change = 0.5 + uniform(random);
    }
    check_rule({rule, true, false, words_of(groups), in_metric}, random);
  }
}

}  // namespace yfk
