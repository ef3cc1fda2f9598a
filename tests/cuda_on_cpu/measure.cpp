// Measure: the sums of every slot near the CPU driver's, and the same bits in any schedule and
// alignment.
#include <cmath>
#include <cstring>

#include "cpu/driver.h"
#include "cuda/driver.h"
#include "model.h"
#include "queue.h"

namespace yfk {
namespace {

struct Measurement {
  std::vector<double> partials;
  std::vector<float> sketches;

  // NaN, so that a place that nobody writes shows up
  Measurement(int64_t slots, bool sketch)
      : partials(slots * kSums, NAN), sketches(sketch ? slots * kTile : 0, NAN) {}

  float* sketch_data() { return sketches.empty() ? nullptr : sketches.data(); }
  // What a measurement does not write is NaN on both sides.
  bool operator==(const Measurement& other) const {
    return std::memcmp(partials.data(), other.partials.data(), 8 * partials.size()) == 0 &&
           sketches == other.sketches;
  }
};

struct Case {
  Blueprint blueprint;
  Measure what;
  int64_t slots;

  Measurement empty() const { return Measurement(slots, what == Measure::kSketch); }
};

Measurement on_cuda(const Model& model, const Case& c, cuda_on_cpu::Schedule schedule = {}) {
  Measurement result = c.empty();
  cuda_on_cpu::schedule = schedule;
  cuda::measure(model.table(), c.blueprint.dtype, c.what, c.slots, result.partials.data(),
                result.sketch_data(), kQueue);
  return result;
}

void compare_with_cpu(const Model& model, const Case& c, const Measurement& got) {
  Measurement cpu = c.empty();
  constexpr bool kNonzero = true;  // the GPU always counts them
  cpu::measure(model.table(), c.blueprint.dtype, c.what, c.slots, kNonzero, cpu.partials.data(),
               cpu.sketch_data(), 1);
  constexpr double kTolerance = 2e-6;  // both sum some dozens of floats before they go to doubles
  for (int64_t slot = 0; slot < c.slots; ++slot) {
    const double* x = &got.partials[slot * kSums];
    const double* y = &cpu.partials[slot * kSums];
    // by Cauchy and Schwarz: the dot product itself may cancel
    const double scale[kMeasured] = {y[0], std::sqrt(y[0] * y[2]), y[2], 0.0, 0.0};
    for (int i = 0; i < kMeasured; ++i)
      EXPECT(std::fabs(x[i] - y[i]) <= kTolerance * scale[i],
             "slot " << slot << ", sum " << i << ": " << x[i] << ", CPU " << y[i]);
  }
  constexpr float kBucketTolerance = 2e-5f;  // a bucket is a sum of normal floats, some dozens too
  for (size_t j = 0; j < cpu.sketches.size(); ++j)
    EXPECT(std::fabs(got.sketches[j] - cpu.sketches[j]) <= kBucketTolerance,
           "slot " << j / kTile << ", bucket " << j % kTile << ": " << got.sketches[j] << ", CPU "
                   << cpu.sketches[j]);
}

void check_schedules_and_alignment(const Case& c, Random& random) {
  Model wide(c.blueprint, Alignment::kWide), odd(c.blueprint, Alignment::kOdd);
  Model one_odd(c.blueprint, Alignment::kOneOdd);
  const Measurement forward = on_cuda(wide, c);
  compare_with_cpu(wide, c, forward);
  EXPECT(on_cuda(one_odd, c) == forward, "the sums depend on one column's alignment");
  EXPECT(on_cuda(odd, c) == forward, "the sums depend on alignment");
  for (const auto& schedule : one_of_each(random))
    EXPECT(on_cuda(odd, c, schedule) == forward, "the sums change with " << name_of(schedule));
}

void check_slots(const Case& c, Random& random) {
  Model model(c.blueprint, Alignment::kOdd);
  for (const auto& schedule : schedules(random))
    compare_with_cpu(model, c, on_cuda(model, c, schedule));
}

}  // namespace

void check_measure(Random& random) {
  for (const DType dtype : kDTypes) {
    for (const Measure what : {Measure::kNorm, Measure::kAverage, Measure::kSketch}) {
      const Second second = what == Measure::kAverage ? Second::kAverage : Second::kNone;
      const auto blueprint = [&](int64_t chunk_size, const std::vector<Tensor>& tensors) {
        return Blueprint{dtype, second, chunk_size, tensors, unsigned(random())};
      };
      for (const int64_t chunk_size : {kTile, 16 * kTile})
        check_schedules_and_alignment({blueprint(chunk_size, awkward_tensors(random)), what, 2},
                                      random);
      // alignment decides for each chunk alone: the sums are those of aligned neighbors
      check_schedules_and_alignment({blueprint(kTile, tiny_tensors(random)), what, 3}, random);
      // more chunks than a block reads at a time, and slots without any
      const std::vector<Tensor> tiny(40, Tensor{5, 7, true});
      check_slots({blueprint(kTile, tiny), what, 1}, random);
      const std::vector<Tensor> few = {{1025, 0, true}, {3, 1025, true}};
      check_slots({blueprint(kTile, few), what, 4}, random);
    }
  }
}

}  // namespace yfk
