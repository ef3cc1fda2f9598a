// QHM: its one pass.
#include "model.h"
#include "update.h"

namespace yfk {

void check_qhm(Random& random) {
  std::uniform_real_distribution<double> uniform;
  auto groups = some_settings<QHMCoefficients>(kGroups, random);
  for (QHMCoefficients& group : groups) {
    group.beta = uniform(random);
    group.nu = uniform(random);
  }
  check_rule({RuleId::kQHM, true, false, words_of(groups)}, random);
}

}  // namespace yfk
