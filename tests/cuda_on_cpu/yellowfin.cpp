// YellowFin: the passes of both variances, and that of the robust mode with one step size.
#include "model.h"
#include "update.h"

namespace yfk {
namespace {

std::vector<double> growth(const double*, const Element& x) {
  return {x.after * x.after - x.before * x.before};
}

std::vector<double> coefficients(Random& random) {
  std::uniform_real_distribution<double> uniform;
  std::vector<YellowFinCoefficients> groups(kGroups);
  for (YellowFinCoefficients& group : groups) {
    group.active = 1.0;
    group.grad_scale = uniform(random) + 0.5;
    group.coupled_decay = 0.1 * uniform(random);
    group.momentum = uniform(random);
    group.velocity_gain = random() % 2 ? 1.0 : -0.01;
    group.velocity_keep = double(random() % 2);
    group.param_keep = 1.0 - 0.1 * uniform(random);
    group.param_gain = -uniform(random);
    group.average_decay = 0.999;
    group.average_gain = 0.001 * uniform(random);
  }
  return words_of(groups);
}

}  // namespace

void check_yellowfin(Random& random) {
  for (const RuleId rule : {RuleId::kYellowFin, RuleId::kYellowFinSketch})
    check_rule({rule, true, true, coefficients(random), nullptr}, random);
}

void check_robust(Random& random) {
  check_rule({RuleId::kYellowFinRobust, true, false, coefficients(random), growth}, random);
}

}  // namespace yfk
