// How the passes of a rule are checked, whatever the rule.
#pragma once

#include <vector>

#include "check.h"
#include "rules.h"

namespace yfk {

// An element of a tensor in a step.
struct Element {
  double grad, before, after;  // the parameter in full precision
  double square_avg, steps;    // before the step, where the rule has them
};

struct RuleCase {
  RuleId rule;
  bool updates, applies;             // the passes it offers: one, or two
  std::vector<double> coefficients;  // of kGroups parameter groups, as Gate begins them
  // an element's shares in what update sums for the tuner, from its group's coefficients
  std::vector<double> (*move_sums)(const double* group, const Element& element) = nullptr;
};

// Every pass in all forms that tensors come in: each column to the last bit as the CPU driver
// leaves it, norms and sums of the move to rounding, and nothing else touched.
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
