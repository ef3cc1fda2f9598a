// LAMB: its two passes. Each group corrects the bias in another way, and one does not adapt.
#include <cmath>

#include "model.h"
#include "update.h"

namespace yfk {

void check_lamb(Random& random) {
  std::uniform_real_distribution<double> uniform;
  auto groups = some_settings<LAMBCoefficients>(kGroups, random);
  for (int i = 0; i < kGroups; ++i) {
    LAMBCoefficients& group = groups[i];
    group.beta1 = uniform(random);
    group.beta2 = 0.9 + 0.1 * uniform(random);
    group.beta3 = i == 0 ? 1.0 : 1.0 - group.beta1;
    group.eps = 1e-6;
    group.correction = double(i);
    group.adapts = i != 1;
    group.norm_min = 0.0;
    group.norm_max = i == 2 ? 10.0 : INFINITY;
    group.ratio_min = i == 2 ? 0.01 : 0.0;
    group.ratio_max = i == 2 ? 10.0 : INFINITY;
  }
  for (const RuleId rule : {RuleId::kLAMB, RuleId::kLAMBBytes})
    check_rule({rule, false, true, words_of(groups)}, random);
}

}  // namespace yfk
