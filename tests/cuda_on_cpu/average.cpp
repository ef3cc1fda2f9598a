// Averages of parameters: every column as the CPU driver leaves it, to the last bit, random ones too.
#include "average.h"

#include "check.h"
#include "cpu/driver.h"
#include "cuda/driver.h"
#include "model.h"
#include "queue.h"

namespace yfk {
namespace {

using Schedules = std::vector<cuda_on_cpu::Schedule>;

// Of a hundred steps some are among the first, some are due, and most are neither.
constexpr Averaging kAveraging = {1.5, 6.0};

void check_averages(const Blueprint& blueprint, Alignment alignment, const Schedules& schedules) {
  Model untouched(blueprint, alignment);
  for (const double active : {1.0, 0.0}) {
    Model cpu(untouched);
    cpu::average(cpu.table(), blueprint.dtype, blueprint.average, &active, kAveraging, 1);
    EXPECT(active != 0.0 || cpu.same(untouched), "a skipped step is averaged");
    for (const auto& schedule : schedules) {
      cuda_on_cpu::schedule = schedule;
      Model model(untouched);
      cuda::average(model.table(), blueprint.dtype, blueprint.average, &active, kAveraging, kQueue);
      EXPECT(model.same(cpu), "not the CPU's values: " << name_of(schedule));
      EXPECT(model.guards_intact(), "written outside of a column: " << name_of(schedule));
    }
  }
}

}  // namespace

void check_average(Random& random) {
  const auto check = [&](DType dtype, DType average, bool master, int64_t chunk_size,
                         const std::vector<Tensor>& tensors, Alignment alignment,
                         const Schedules& schedules) {
    Blueprint blueprint = {dtype, Second::kNone, chunk_size, tensors, unsigned(random())};
    blueprint.master = master;
    blueprint.counts = blueprint.averages = true;
    blueprint.average = average;
    check_averages(blueprint, alignment, schedules);
  };
  for (const DType average : {DType::kFloat32, DType::kBFloat16}) {
    for (const DType dtype : kDTypes)
      for (const bool master : {true, false}) {
        const auto some = one_of_each(random);
        check(dtype, average, master, kTile, tiny_tensors(random), Alignment::kOneOdd, {some[0]});
        for (const auto alignment : {Alignment::kWide, Alignment::kOneOdd, Alignment::kOdd})
          check(dtype, average, master, 16 * kTile, awkward_tensors(random), alignment, {some[0]});
      }
    // more chunks than each block reads at a time
    check(DType::kFloat32, average, true, kTile, std::vector<Tensor>(300, Tensor{5, 7, true}),
          Alignment::kOdd, schedules(random));
  }
}

}  // namespace yfk
