// Tangents: the columns as the CPU driver leaves them, to the last bit; sums of projections to
// rounding, and the same bits in any schedule and alignment.
#include "tangents.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "cpu/driver.h"
#include "cuda/driver.h"
#include "model.h"
#include "queue.h"
#include "update.h"

namespace yfk {
namespace {

using Schedules = std::vector<cuda_on_cpu::Schedule>;

constexpr double kTolerance = 2e-6;  // both drivers sum floats of some hundred elements

// What all families have: one group is not damped, and one keeps its own derivative.
template <class Family>
std::vector<typename Family::Coefficients> some_coefficients(Random& random) {
  using Coefficients = typename Family::Coefficients;
  std::uniform_real_distribution<double> uniform(0.1, 0.9);
  std::vector<Coefficients> all(kGroups);
  for (int i = 0; i < kGroups; ++i) {
    auto* words = reinterpret_cast<double*>(&all[i]);
    std::generate_n(words, sizeof(Coefficients) / sizeof(double), [&] { return uniform(random); });
    Tangents& tangents = all[i];
    if (i == 0) tangents.damping = 0.0;
    if (i == 1) tangents.sign = -1.0;
    (i == 2 ? tangents.coupled_decay : tangents.decoupled_decay) = 0.0;
    tangents.keeps_own = i == 1;
  }
  return all;
}

template <class Family>
Blueprint blueprint_of(int64_t chunk_size, const std::vector<Tensor>& tensors, Random& random) {
  Blueprint blueprint = {DType::kFloat32, Second::kNone, chunk_size, tensors, unsigned(random())};
  blueprint.states = 1 + Family::kSlots + Family::kTangents;
  return blueprint;
}

template <class Family>
void check_passes(FamilyId id, const Blueprint& blueprint, Alignment alignment,
                  const Schedules& schedules, Random& random) {
  const std::vector<double> words = words_of(some_coefficients<Family>(random));
  const Model untouched(blueprint, alignment);
  const auto check = [&](const char* pass, auto on_cpu, auto on_cuda) {
    Model cpu(untouched);
    on_cpu(cpu.table(), id, words.data(), 1);
    for (const auto& schedule : schedules) {
      cuda_on_cpu::schedule = schedule;
      Model model(untouched);
      on_cuda(model.table(), id, words.data(), kQueue);
      const std::string place = std::string(pass) + ", " + name_of(schedule);
      EXPECT(model.same(cpu), "not the CPU's values: " << place);
      EXPECT(model.guards_intact(), "written outside of a column: " << place);
    }
  };
  check("advance", cpu::advance_tangents, cuda::advance_tangents);
  check("own", cpu::own_derivatives, cuda::own_derivatives);
}

// One projection of a model, and what it leaves. NaN, so that a place that nobody writes shows up.
struct Sums {
  std::vector<double> chunk_sums, sums;
  std::vector<unsigned> tickets;

  explicit Sums(const Model& model)
      : chunk_sums(kProjected * model.chunks(), NAN), sums(kProjected * model.tensors(), NAN),
        tickets(model.tensors(), 0) {}

  bool same_bits(const Sums& other) const {
    return std::memcmp(sums.data(), other.sums.data(), 8 * sums.size()) == 0;
  }
};

double square(const std::vector<double>& column) {
  double sum = 0.0;
  for (const double x : column) sum += x * x;
  return sum;
}

// To rounding, relative to the product of norms.
void compare_with_cpu(Model& model, const Projection& projection, const Sums& cpu,
                      const Sums& got) {
  for (int64_t t = 0; t < model.tensors(); ++t) {
    const double* wanted = &cpu.sums[kProjected * t];
    const double zw_sq =
        projection.tangent == kNowhere ? 0.0 : square(model.read(t, projection.tangent));
    const double scale[kProjected] = {std::sqrt(wanted[2] * wanted[3]),
                                      std::sqrt(wanted[2] * zw_sq), wanted[2], wanted[3], zw_sq};
    for (int k = 0; k < kProjected; ++k) {
      const double x = got.sums[kProjected * t + k];
      const bool none = std::isnan(x) && std::isnan(wanted[k]);  // a tensor without elements
      EXPECT(none || std::fabs(x - wanted[k]) <= kTolerance * scale[k],
             "sum " << k << " of tensor " << t << ": " << x << ", CPU " << wanted[k]);
    }
  }
}

void check_projection(const Projection& projection, const Blueprint& blueprint,
                      const Schedules& schedules, Random& random) {
  std::uniform_real_distribution<double> uniform(0.1, 0.9);
  std::vector<ProjectionCoefficients> groups(kGroups);
  for (int i = 0; i < kGroups; ++i)
    groups[i] = {-uniform(random), i == 0 ? 0.0 : uniform(random), uniform(random), uniform(random),
                 1e-8};
  const std::vector<double> words = words_of(groups);

  Model untouched(blueprint, Alignment::kOdd);
  Sums cpu(untouched);
  cpu::project(untouched.table(), projection, words.data(), cpu.chunk_sums.data(), cpu.sums.data(),
               1);
  std::vector<Sums> all;
  for (const Alignment alignment : {Alignment::kWide, Alignment::kOneOdd, Alignment::kOdd}) {
    const Model aligned(blueprint, alignment);
    for (const auto& schedule : schedules) {
      cuda_on_cpu::schedule = schedule;
      Model model(aligned);
      Sums& sums = all.emplace_back(model);
      cuda::project(model.table(), projection, words.data(), sums.chunk_sums.data(),
                    sums.sums.data(), sums.tickets.data(), kQueue);
      EXPECT(model.same(untouched), "a projection writes: " << name_of(schedule));
      EXPECT(sums.same_bits(all[0]), "sums change with " << name_of(schedule));
      EXPECT(sums.tickets == std::vector<unsigned>(sums.tickets.size()),
             "a ticket is not zero again: " << name_of(schedule));
    }
  }
  compare_with_cpu(untouched, projection, cpu, all[0]);
}

template <class Family>
void check_family(FamilyId id, Random& random) {
  const auto check = [&](int64_t chunk_size, const std::vector<Tensor>& tensors,
                         Alignment alignment, const Schedules& schedules) {
    check_passes<Family>(id, blueprint_of<Family>(chunk_size, tensors, random), alignment,
                         schedules, random);
  };
  // more chunks than each block reads at a time
  check(kTile, std::vector<Tensor>(300, Tensor{5, 7, true}), Alignment::kOdd, schedules(random));
  check(kTile, tiny_tensors(random), Alignment::kOneOdd, {one_of_each(random)[0]});
  for (const auto alignment : {Alignment::kWide, Alignment::kOneOdd, Alignment::kOdd})
    check(16 * kTile, awkward_tensors(random), alignment, {one_of_each(random)[0]});
}

}  // namespace

void check_tangents(Random& random) {
#define YFK_CHECK(constant, name, ...) check_family<__VA_ARGS__>(FamilyId::constant, random);
  YFK_FAMILIES(YFK_CHECK)
#undef YFK_CHECK

  const auto check = [&](const Projection& projection, int64_t chunk_size,
                         const std::vector<Tensor>& tensors, const Schedules& schedules) {
    check_projection(projection, blueprint_of<AdamTangents>(chunk_size, tensors, random), schedules,
                     random);
  };
  const int tangent = kTangent<AdamTangents>;
  for (const Projection& projection : {Projection{ProjectionId::kStored, kProbe, tangent},
                                       Projection{ProjectionId::kStored, kNowhere, tangent},
                                       Projection{ProjectionId::kPreconditioned, kSlot, kNowhere},
                                       Projection{ProjectionId::kPreconditioned, kSlot, tangent}})
    check(projection, kTile, awkward_tensors(random), one_of_each(random));
  const Projection one = {ProjectionId::kStored, kProbe, tangent};
  check(one, kTile, std::vector<Tensor>(300, Tensor{5, 7, true}), schedules(random));
  check(one, kTile, tiny_tensors(random), {one_of_each(random)[0]});
  check(one, 16 * kTile, awkward_tensors(random), {one_of_each(random)[0]});
}

}  // namespace yfk
