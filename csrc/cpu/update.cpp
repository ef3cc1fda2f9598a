// The writing passes over chunks of a table: a rule of rules/, sixteen elements at a time.
//
// Compiled once per instruction set (YFK_ISA names the namespace); driver.cpp picks one at run
// time. Memory bandwidth is the limit: each column is streamed once, in order.
#include <algorithm>

#include "kernels.h"
#include "piece.h"

#define YFK_INLINE_BODY __attribute__((always_inline))

namespace yfk {
namespace YFK_ISA {
namespace {

// The state columns of a piece, read and written together. step: this one of its tensor, from 1.
template <class Rule>
struct States {
  static constexpr Stored kStored = Rule::kStored;
  static constexpr bool kCoded = is_coded(kStored), kInFloat8 = is_in_float8(kStored);
  static constexpr int kFirst = kInFloat8, kEnd = Rule::kStates - int(kCoded);
  using Format = std::conditional_t<kStored == Stored::kMoments, AbsoluteCodes, RelativeCodes>;
  float* column[Rule::kStates];  // those from kFirst to kEnd
  ByteColumn<Float8> first;      // if the rule wants them so
  ByteColumn<Code<Format>> last;

  YFK_FN States(const Piece& piece, double step)
      : first(piece, kState, step), last(piece, kState + Rule::kStates - 1, step) {
    for (int k = kFirst; k < kEnd; ++k) column[k] = piece.column<float>(kState + k);
  }
  template <class Lanes>
  YFK_FN void read(int64_t i, Floats* state, Lanes lanes) const {
    if constexpr (kInFloat8) state[0] = first.read(i, lanes);
    for (int k = kFirst; k < kEnd; ++k) state[k] = load(column[k] + i, lanes);
    if constexpr (kCoded) state[kEnd] = last.read(i, lanes);
    if constexpr (kStored == Stored::kMoments) state[0] = units_of(state[kEnd]) * state[0];
  }
  template <class Lanes>
  YFK_FN void write(int64_t i, const Floats* state, Lanes lanes) const {
    for (int k = kFirst; k < kEnd; ++k) store(column[k] + i, state[k], lanes);
    if constexpr (kStored == Stored::kMoments) {
      first.write(i, inverse_units_of(last.write(i, state[kEnd], lanes)) * state[0], lanes);
    } else {
      if constexpr (kInFloat8) first.write(i, state[0], lanes);
      if constexpr (kCoded) last.write(i, state[kEnd], lanes);
    }
  }
};

// One block of elements; `sums` has room for the rule's sums of the move.
template <class Rule, class Parameter, class G, class Lanes>
YFK_FN void update(const States<Rule>& states, const Rule& rule, const Parameter& param, const G* g,
                   int64_t i, Lanes lanes, Floats* sums) {
  const Floats grad = load(g + i, lanes), p = param.read(i, lanes);
  Floats state[Rule::kStates];
  states.read(i, state, lanes);
  const Floats u = rule.direction(grad, p, state);
  const Floats moved = rule.moved(p, u);  // 0 in lanes that are not there
  // before anything is written: after a store the compiler would work out all of it again
  if constexpr (Rule::kMoveSums > 0) rule.move_sums(grad, p, moved, state, sums);
  param.write(i, moved, lanes);
  states.write(i, state, lanes);
}

template <class Rule, class Parameter, class G>
YFK_FN void update(const Piece& piece, double step, const Rule& rule, const Parameter& param,
                   const G* g, double* move_sums) {
  const States<Rule> states(piece, step);
  if constexpr (Rule::kMoveSums == 0) {
    for_each_block<kLanes>(piece.n, [&](int64_t i, auto lanes) YFK_INLINE_BODY {
      update(states, rule, param, g, i, lanes, nullptr);
    });
  } else {
    Sums sums[Rule::kMoveSums];
    for (Sums& sum : sums) sum = no_sums();
    for_each_run<1>(0, piece.n, [&](int64_t i, int64_t count, auto) YFK_INLINE_BODY {
      Floats run[Rule::kMoveSums];
      for (Floats& sum : run) sum = zeros();
      for_each_block<kLanes>(count, [&](int64_t j, auto lanes) YFK_INLINE_BODY {
        update(states, rule, param, g, i + j, lanes, run);
      });
      for (int k = 0; k < Rule::kMoveSums; ++k) add(&sums[k], run[k]);
    });
    for (int k = 0; k < Rule::kMoveSums; ++k) move_sums[k] = total(sums[k]);
  }
}

template <class Rule, class Parameter, class G>
YFK_FN void update_state(const Piece& piece, double step, const Rule& rule, const Parameter& param,
                         const G* g, double* norms) {
  const States<Rule> states(piece, step);
  Sums p_sq = no_sums(), u_sq = no_sums();
  for_each_run<1>(0, piece.n, [&](int64_t i, int64_t count, auto) YFK_INLINE_BODY {
    Floats run_p_sq = zeros(), run_u_sq = zeros();
    for_each_block<kLanes>(count, [&](int64_t j, auto lanes) YFK_INLINE_BODY {
      const Floats grad = load(g + i + j, lanes), p = param.read(i + j, lanes);
      Floats state[Rule::kStates];
      states.read(i + j, state, lanes);
      const Floats u = rule.direction(grad, p, state);  // 0 in lanes that are not there
      states.write(i + j, state, lanes);
      run_p_sq = run_p_sq + p * p;
      run_u_sq = run_u_sq + u * u;
    });
    add(&p_sq, run_p_sq);
    add(&u_sq, run_u_sq);
  });
  norms[0] = total(p_sq);
  norms[1] = total(u_sq);
}

template <class Rule, class Parameter>
YFK_FN void apply(const Piece& piece, const Rule& rule, const Parameter& param) {
  const States<Rule> states(piece, 0.0);  // only read
  for_each_block<kLanes>(piece.n, [&](int64_t i, auto lanes) YFK_INLINE_BODY {
    const Floats p = param.read(i, lanes);
    Floats state[Rule::kStates];
    states.read(i, state, lanes);
    param.write(i, rule.moved(p, rule.recalled(p, state)), lanes);
  });
}

template <class P, class Rule>
void update_chunks(const Table& table, int64_t begin, int64_t end, const double* groups,
                   double* chunk_move_sums) {
  for (int64_t chunk = end - 1; chunk >= begin; --chunk) {
    const Piece piece = piece_of(table, chunk);
    const auto* g = piece.column<const P>(kGrad);
    double* move_sums = chunk_move_sums + Rule::kMoveSums * chunk;
    std::fill_n(move_sums, Rule::kMoveSums, 0.0);
    if (!piece.row.column[kGrad]) continue;
    const double step = piece.steps() + 1.0;
    const Rule rule(coefficients<Rule>(piece, groups), step, 1.0);
    with_parameter<P>(piece, step,
                      [&](const auto& param) { update(piece, step, rule, param, g, move_sums); });
  }
}

template <class P, class Rule>
void update_state_chunks(const Table& table, int64_t begin, int64_t end, const double* groups,
                         double* chunk_norms) {
  for (int64_t chunk = end - 1; chunk >= begin; --chunk) {
    const Piece piece = piece_of(table, chunk);
    const auto* g = piece.column<const P>(kGrad);
    if (!piece.row.column[kGrad]) continue;
    const double step = piece.steps() + 1.0;
    const Rule rule(coefficients<Rule>(piece, groups), step, 1.0);
    with_parameter<P>(piece, step, [&](const auto& param) {
      update_state(piece, step, rule, param, g, chunk_norms + 2 * chunk);
    });
  }
}

template <class P, class Rule>
void apply_chunks(const Table& table, int64_t begin, int64_t end, const double* groups,
                  const double* row_norms) {
  for (int64_t chunk = begin; chunk < end; ++chunk) {
    const Piece piece = piece_of(table, chunk);
    if (!piece.row.column[kGrad]) continue;
    const double step = piece.steps();  // counted by now
    const auto& group = coefficients<Rule>(piece, groups);
    const double* norms = row_norms + 2 * table.chunks[chunk].row;
    const Rule rule(group, step, Rule::trust_ratio(group, norms[0], norms[1]));
    with_parameter<P>(piece, step, [&](const auto& param) { apply(piece, rule, param); });
  }
}

template <class P, class Rule>
constexpr Passes kOnePass = {update_chunks<P, Rule>, nullptr, nullptr, Rule::kMoveSums};
template <class P, class Rule>
constexpr Passes kTwoPasses = {nullptr, update_state_chunks<P, Rule>, apply_chunks<P, Rule>};
template <class P, class Rule>
constexpr Passes kEither = {update_chunks<P, Rule>, update_state_chunks<P, Rule>,
                            apply_chunks<P, Rule>};

template <class P>
Passes kernels_for(RuleId rule) {
  switch (rule) {
#define YFK_CASE(constant, name, passes, ...) \
  case RuleId::constant:                      \
    return k##passes<P, __VA_ARGS__>;
    YFK_RULES(YFK_CASE)
#undef YFK_CASE
  }
  return {};
}

}  // namespace

Passes passes_of(DType dtype, RuleId rule) {
  switch (dtype) {
    case DType::kFloat32: break;
    case DType::kBFloat16: return kernels_for<BFloat16>(rule);
    case DType::kFloat16: return kernels_for<Float16>(rule);
  }
  return kernels_for<float>(rule);
}

}  // namespace YFK_ISA
}  // namespace yfk
