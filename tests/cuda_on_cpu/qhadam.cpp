// QHAdam: its one pass.
#include "model.h"
#include "update.h"

namespace yfk {

void check_qhadam(Random& random) {
  std::uniform_real_distribution<double> uniform;
  auto groups = some_settings<QHAdamCoefficients>(kGroups, random);
  for (QHAdamCoefficients& group : groups) {
    group.beta1 = uniform(random);
    group.beta2 = 0.9 + 0.1 * uniform(random);
    group.nu1 = uniform(random);
    group.nu2 = uniform(random);
    group.eps = 1e-8;
  }
  for (const RuleId rule : {RuleId::kQHAdam, RuleId::kQHAdamBytes})
    check_rule({rule, true, false, words_of(groups)}, random);
}

}  // namespace yfk
