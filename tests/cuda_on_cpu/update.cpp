#include "update.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <deque>

#include "cpu/driver.h"
#include "cuda/driver.h"
#include "model.h"
#include "queue.h"

namespace yfk {
namespace {

using Schedules = std::vector<cuda_on_cpu::Schedule>;

// A model, and what the passes leave beside it. NaN, so that a place that nobody writes shows up.
struct Side {
  Model model;
  std::vector<double> chunk_sums, norms, move_sums;
  std::vector<unsigned> tickets;  // of the tensors, then of the table

  explicit Side(const Model& untouched)
      : model(untouched), chunk_sums(2 * model.chunks(), NAN), norms(2 * model.tensors(), NAN),
        move_sums(2, NAN), tickets(model.tensors() + 1, 0) {}

  bool tickets_back() const {
    return std::all_of(tickets.begin(), tickets.end(), [](unsigned t) { return t == 0; });
  }
};

bool same_bits(const std::vector<double>& a, const std::vector<double>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), 8 * a.size()) == 0;
}

// Both drivers sum floats of some hundred elements before they go on in double.
constexpr double kTolerance = 2e-6;

bool near(const std::vector<double>& a, const std::vector<double>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](double x, double y) {
    return std::isnan(x) ? std::isnan(y) : std::fabs(x - y) <= kTolerance * y;
  });
}

// Sums over elements, and those of the shares' sizes, to which rounding is relative.
struct Summed {
  std::vector<double> sums, sizes;

  void add(const std::vector<double>& shares) {
    sums.resize(shares.size()), sizes.resize(shares.size());
    for (size_t i = 0; i < shares.size(); ++i) {
      sums[i] += shares[i];
      sizes[i] += std::fabs(shares[i]);
    }
  }
};

// As many move_sums as were summed.
bool near(const std::vector<double>& a, const std::vector<double>& b, const Summed& scale) {
  for (size_t i = 0; i < scale.sizes.size(); ++i)
    if (!(std::fabs(a[i] - b[i]) <= kTolerance * scale.sizes[i])) return false;
  return true;
}

class Checker {
 public:
  Checker(const RuleCase& rule_case, const Blueprint& blueprint, Alignment alignment)
      : case_(rule_case), blueprint_(blueprint), untouched_(blueprint, alignment),
        words_(rule_case.coefficients.size() / kGroups), inactive_(rule_case.coefficients) {
    for (size_t i = 0; i < inactive_.size(); i += words_) inactive_[i] = 0.0;
  }

  void check(const Schedules& schedules) const {
    if (case_.updates) check_update(schedules);
    if (case_.applies) check_update_state_then_apply(schedules);
  }

 private:
  const double* coefficients() const { return case_.coefficients.data(); }

  void on_cuda_update(Side& side, const double* coefficients) const {
    // a table without a step column needs no tickets
    unsigned* tickets = blueprint_.counts ? side.tickets.data() : nullptr;
    cuda::update(side.model.table(), blueprint_.dtype, case_.rule, coefficients,
                 side.chunk_sums.data(), side.move_sums.data(), tickets, &side.tickets.back(),
                 kQueue);
  }
  void on_cuda_update_state(Side& side, const double* coefficients) const {
    cuda::update_state(side.model.table(), blueprint_.dtype, case_.rule, coefficients,
                       side.chunk_sums.data(), side.norms.data(), side.tickets.data(), kQueue);
  }
  void on_cuda_apply(Side& side, const double* coefficients, const Side& directed) const {
    cuda::apply(side.model.table(), blueprint_.dtype, case_.rule, coefficients,
                directed.norms.data(), kQueue);
  }

  void expect_same(Side& got, Side& wanted, const char* pass) const {
    const std::string place = std::string(pass) + ", " + name_of(cuda_on_cpu::schedule);
    EXPECT(got.model.same(wanted.model), "not the CPU's values: " << place);
    EXPECT(got.model.guards_intact(), "written outside of a column: " << place);
    EXPECT(got.tickets_back(), "a ticket is not zero again: " << place);
  }

  void check_update(const Schedules& schedules) const {
    Side cpu(untouched_), before(untouched_);
    cpu::update(cpu.model.table(), blueprint_.dtype, case_.rule, coefficients(),
                cpu.chunk_sums.data(), cpu.move_sums.data(), 1);
    const Summed wanted = summed(before, cpu);
    // a half parameter may be newer than its master, or rounded after it was summed
    if (blueprint_.dtype == DType::kFloat32)
      EXPECT(near(cpu.move_sums, wanted.sums, wanted), "the CPU's move_sums");
    std::vector<double> first;
    for (const auto& schedule : schedules) {
      cuda_on_cpu::schedule = schedule;
      Side side(untouched_);
      on_cuda_update(side, coefficients());
      expect_same(side, cpu, "update");
      EXPECT(near(side.move_sums, cpu.move_sums, wanted),
             "move_sums off the CPU's: " << name_of(schedule));
      if (first.empty()) first = side.move_sums;
      EXPECT(same_bits(side.move_sums, first), "move_sums change with " << name_of(schedule));
      if (&schedule != &schedules.back()) continue;
      on_cuda_update(side, inactive_.data());
      expect_same(side, cpu, "skipped update");
      EXPECT(same_bits(side.move_sums, first), "move_sums of a skipped step");
    }
  }

  // Of a tensor in full precision, the master counting where there is one.
  std::vector<double> param(Side& side, int64_t tensor) const {
    const std::vector<double> master = side.model.read(tensor, kMaster);
    return master.empty() ? side.model.read(tensor, kParam) : master;
  }

  // What the move from one side to the other leaves for the tuner.
  Summed summed(Side& old, Side& moved) const {
    Summed all;
    for (int64_t t = 0; case_.move_sums && t < old.model.tensors(); ++t) {
      if (!blueprint_.tensors[t].has_grad) continue;
      const double* group = coefficients() + words_ * old.model.row(t).group;
      const auto grad = old.model.read(t, kGrad), before = param(old, t), after = param(moved, t);
      const auto second = old.model.read(t, kState + 1), steps = old.model.read(t, kStep);
      for (size_t i = 0; i < grad.size(); ++i)
        all.add(
            case_.move_sums(group, {grad[i], before[i], after[i], second.empty() ? 0.0 : second[i],
                                    steps.empty() ? 0.0 : steps[0]}));
    }
    return all;
  }

  void check_update_state_then_apply(const Schedules& schedules) const {
    Side cpu(untouched_);
    cpu::update_state(cpu.model.table(), blueprint_.dtype, case_.rule, coefficients(),
                      cpu.chunk_sums.data(), cpu.norms.data(), 1);
    std::deque<Side> directed;  // a model stays where it is
    for (const auto& schedule : schedules) {
      cuda_on_cpu::schedule = schedule;
      directed.emplace_back(untouched_);
      Side& side = directed.back();
      on_cuda_update_state(side, coefficients());
      expect_same(side, cpu, "update_state");
      EXPECT(near(side.norms, cpu.norms), "norms off the CPU's with " << name_of(schedule));
      EXPECT(same_bits(side.norms, directed[0].norms), "norms change with " << name_of(schedule));
    }
    Side& last = directed.back();
    const std::vector<double> before = last.norms;
    on_cuda_update_state(last, inactive_.data());
    on_cuda_apply(last, inactive_.data(), cpu);
    expect_same(last, cpu, "skipped update_state and apply");
    EXPECT(same_bits(last.norms, before), "norms of a skipped step");
    // from the same norms on both sides
    cpu::apply(cpu.model.table(), blueprint_.dtype, case_.rule, coefficients(), cpu.norms.data(),
               1);
    for (size_t i = 0; i < schedules.size(); ++i) {
      cuda_on_cpu::schedule = schedules[i];
      on_cuda_apply(directed[i], coefficients(), cpu);
      expect_same(directed[i], cpu, "apply");
    }
  }

  const RuleCase& case_;
  Blueprint blueprint_;
  Model untouched_;
  size_t words_;
  std::vector<double> inactive_;
};

Stored stored_of(RuleId rule) {
  switch (rule) {
#define YFK_CASE(constant, name, passes, ...) \
  case RuleId::constant:                      \
    return __VA_ARGS__::kStored;
    YFK_RULES(YFK_CASE)
#undef YFK_CASE
  }
  std::abort();
}

Second second_of(RuleId rule) {
  switch (rule) {
    case RuleId::kYellowFinSketch:
    case RuleId::kYellowFinRobust:
    case RuleId::kQHM: return Second::kNone;
    case RuleId::kYellowFin: return Second::kAverage;
    case RuleId::kQHAdam:
    case RuleId::kLAMB:
    case RuleId::kYellowFinDiagonal:
    case RuleId::kYellowFinCompact:
    case RuleId::kYellowFinFloat8:
    case RuleId::kQHAdamBytes:
    case RuleId::kLAMBBytes: return Second::kSquare;
  }
  std::abort();
}

}  // namespace

void check_rule(const RuleCase& rule_case, Random& random) {
  const Second second = second_of(rule_case.rule);
  const bool squares = second == Second::kSquare;
  for (const DType dtype : kDTypes) {
    for (const bool master : {true, false}) {
      if (dtype == DType::kFloat32 && !master) continue;
      const auto check = [&](int64_t chunk_size, const std::vector<Tensor>& tensors,
                             Alignment alignment, const Schedules& schedules) {
        const bool counts = squares || !master;
        Blueprint blueprint = {dtype,  second, chunk_size, tensors, unsigned(random()),
                               master, counts};
        blueprint.stored = stored_of(rule_case.rule);
        Checker(rule_case, blueprint, alignment).check(schedules);
      };
      // blocks and tickets know nothing of types: every schedule is for float32
      const bool every = dtype == DType::kFloat32;
      const auto some = [&] { return every ? schedules(random) : one_of_each(random); };
      // more chunks than each block reads at a time
      check(kTile, std::vector<Tensor>(300, Tensor{5, 7, true}), Alignment::kOdd, some());
      check(kTile, tiny_tensors(random), Alignment::kOneOdd, {one_of_each(random)[0]});
      check(kTile, awkward_tensors(random), Alignment::kOneOdd, some());
      for (const auto alignment : {Alignment::kWide, Alignment::kOneOdd, Alignment::kOdd})
        check(16 * kTile, awkward_tensors(random), alignment, {one_of_each(random)[0]});
    }
  }
}

}  // namespace yfk
