// Apply: every column to the last bit as the CPU driver leaves it, and nothing else touched.
#include "cpu/driver.h"
#include "cuda/driver.h"
#include "model.h"

namespace yfk {
namespace {

std::vector<YellowFinCoefficients> some_coefficients(Random& random) {
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
  return groups;
}

void on_cuda(Model& model, const Blueprint& blueprint,
             const std::vector<YellowFinCoefficients>& groups) {
  cuda::yellowfin_apply(model.table(), blueprint.dtype, &groups[0].active, {0, nullptr});
}

void check_blueprint(const Blueprint& blueprint, Alignment alignment,
                     const std::vector<cuda_on_cpu::Schedule>& schedules, Random& random) {
  const std::vector<YellowFinCoefficients> groups = some_coefficients(random);
  Model cpu(blueprint, alignment);
  cpu::yellowfin_apply(cpu.table(), blueprint.dtype, &groups[0].active, 1);
  std::vector<YellowFinCoefficients> inactive = groups;
  for (YellowFinCoefficients& group : inactive) group.active = 0.0;
  for (const auto& schedule : schedules) {
    cuda_on_cpu::schedule = schedule;
    Model model(blueprint, alignment);
    on_cuda(model, blueprint, groups);
    EXPECT(model.same(cpu), "not the CPU's values with " << name_of(schedule));
    on_cuda(model, blueprint, inactive);
    EXPECT(model.same(cpu), "a skipped step changes something with " << name_of(schedule));
    EXPECT(model.guards_intact(), "written outside of a column");
  }
}

}  // namespace

void check_apply(Random& random) {
  for (const DType dtype : kDTypes) {
    for (const bool averages : {true, false}) {
      // more chunks than each block reads at a time
      const std::vector<Tensor> tiny(300, Tensor{5, 7, true});
      check_blueprint({dtype, averages, kTile, tiny, unsigned(random())}, Alignment::kOdd,
                      schedules(random), random);
      for (const int64_t chunk_size : {kTile, 16 * kTile}) {
        const Blueprint blueprint = {dtype, averages, chunk_size, awkward_tensors(random),
                                     unsigned(random())};
        for (const auto alignment : {Alignment::kWide, Alignment::kOneOdd, Alignment::kOdd})
          check_blueprint(blueprint, alignment, one_of_each(random), random);
      }
    }
  }
}

}  // namespace yfk
