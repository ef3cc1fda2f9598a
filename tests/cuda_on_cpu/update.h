// How the passes of a rule are checked, whatever the rule.
#pragma once

#include <vector>

#include "check.h"
#include "rules.h"

namespace yfk {

struct RuleCase {
  RuleId rule;
  bool advances, directs;              // the passes it offers
  std::vector<double> coefficients;    // of kGroups parameter groups, as Gate begins them
  bool gauges = false;                 // whether advance sums the growth of the parameters
};

// Every pass in all forms that tensors come in: each column to the last bit as the CPU driver
// leaves it, norms to rounding, and nothing else touched.
void check_rule(const RuleCase& rule_case, Random& random);

// Coefficients in the order of the groups.
template <class Coefficients>
std::vector<double> words_of(const std::vector<Coefficients>& groups) {
  const auto* first = reinterpret_cast<const double*>(groups.data());
  return {first, first + groups.size() * sizeof(Coefficients) / sizeof(double)};
}

// What most rules have: gradients halved or so, a step size, decay of either kind.
template <class Coefficients>
std::vector<Coefficients> some_settings(int groups, Random& random) {
  std::uniform_real_distribution<double> uniform;
  std::vector<Coefficients> all(groups);
  for (int i = 0; i < groups; ++i) {
    Settings& settings = all[i];
    settings.active = 1.0;
    settings.grad_scale = (i == 0 ? -1.0 : 1.0) * (uniform(random) + 0.5);
    settings.lr = 0.01 + uniform(random);
    settings.weight_decay = 0.1 * uniform(random);
    settings.decoupled = i % 2;
  }
  return all;
}

}  // namespace yfk
