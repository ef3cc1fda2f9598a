// Measure: the sums of every slot near the CPU driver's, and the same bits in any schedule and
// alignment.
#include <cmath>

#include "cpu/driver.h"
#include "cuda/driver.h"
#include "model.h"

namespace yfk {
namespace {

struct Measurement {
  std::vector<double> partials;
  std::vector<float> sketches;

  // NaN, so that a place that nobody writes shows up
  Measurement(int64_t slots, bool sketch)
      : partials(slots * kSums, NAN), sketches(sketch ? slots * kTile : 0, NAN) {}

  float* sketch_data() { return sketches.empty() ? nullptr : sketches.data(); }
  bool operator==(const Measurement& other) const {
    return partials == other.partials && sketches == other.sketches;
  }
};

Measurement on_cuda(const Model& model, const Blueprint& blueprint, int64_t slots,
                    cuda_on_cpu::Schedule schedule = {}) {
  Measurement result(slots, !blueprint.averages);
  cuda_on_cpu::schedule = schedule;
  cuda::yellowfin_measure(model.table(), blueprint.dtype, slots, result.partials.data(),
                          result.sketch_data(), {0, nullptr});
  return result;
}

void compare_with_cpu(const Model& model, const Blueprint& blueprint, const Measurement& got) {
  const int64_t slots = int64_t(got.partials.size()) / kSums;
  Measurement cpu(slots, !blueprint.averages);
  constexpr bool kNonzero = true;  // the GPU always counts them
  cpu::yellowfin_measure(model.table(), blueprint.dtype, slots, kNonzero, cpu.partials.data(),
                         cpu.sketch_data(), 1);
  constexpr double kTolerance = 2e-6;  // both sum some dozens of floats before they go to doubles
  for (int64_t slot = 0; slot < slots; ++slot) {
    const double* x = &got.partials[slot * kSums];
    const double* y = &cpu.partials[slot * kSums];
    // by Cauchy and Schwarz: the dot product itself may cancel
    const double scale[kSums] = {y[0], std::sqrt(y[0] * y[2]), y[2], 0.0, 0.0};
    for (int i = 0; i < kSums; ++i)
      EXPECT(std::fabs(x[i] - y[i]) <= kTolerance * scale[i],
             "slot " << slot << ", sum " << i << ": " << x[i] << ", CPU " << y[i]);
  }
  constexpr float kBucketTolerance = 2e-5f;  // a bucket is a sum of normal floats, some dozens too
  for (size_t j = 0; j < cpu.sketches.size(); ++j)
    EXPECT(std::fabs(got.sketches[j] - cpu.sketches[j]) <= kBucketTolerance,
           "slot " << j / kTile << ", bucket " << j % kTile << ": " << got.sketches[j] << ", CPU "
                   << cpu.sketches[j]);
}

void check_schedules_and_alignment(const Blueprint& blueprint, int64_t slots, Random& random) {
  Model wide(blueprint, Alignment::kWide), odd(blueprint, Alignment::kOdd);
  const Measurement forward = on_cuda(wide, blueprint, slots);
  compare_with_cpu(wide, blueprint, forward);
  EXPECT(on_cuda(odd, blueprint, slots) == forward, "the sums depend on alignment");
  for (const auto& schedule : one_of_each(random))
    EXPECT(on_cuda(odd, blueprint, slots, schedule) == forward,
           "the sums change with " << name_of(schedule));
}

void check_slots(const Blueprint& blueprint, int64_t slots, Random& random) {
  Model model(blueprint, Alignment::kOdd);
  for (const auto& schedule : schedules(random))
    compare_with_cpu(model, blueprint, on_cuda(model, blueprint, slots, schedule));
}

}  // namespace

void check_measure(Random& random) {
  for (const DType dtype : kDTypes) {
    for (const bool averages : {true, false}) {
      for (const int64_t chunk_size : {kTile, 16 * kTile})
        check_schedules_and_alignment(
            {dtype, averages, chunk_size, awkward_tensors(random), unsigned(random())}, 2, random);
      // more chunks than a block reads at a time, and slots without any
      const std::vector<Tensor> tiny(40, Tensor{5, 7, true});
      check_slots({dtype, averages, kTile, tiny, unsigned(random())}, 1, random);
      const std::vector<Tensor> few = {{1025, 0, true}, {3, 1025, true}};
      check_slots({dtype, averages, kTile, few, unsigned(random())}, 4, random);
    }
  }
}

}  // namespace yfk
