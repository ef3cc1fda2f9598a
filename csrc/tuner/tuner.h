// The YellowFin tuner: sums of one step's gradient in, step size and momentum out. Scalars only.
//
// First what is worked out once (tune), then what each parameter group makes of it (tune_group):
// on a GPU by one thread, and by as many as there are groups. Host and device come to the same bits
// (statistics.h).
// Source: Zhang, Mitliagkas, Ré, arXiv 1706.03471, and the authors' PyTorch release of 2019.
#pragma once

#include "plain.h"
#include "preconditioned.h"

namespace yfk {

// One step, but for what belongs to the groups. inv_scale: 1 / AMP loss scale; longest: the largest lr
// of a group, at least 1.
YFK_FN Tuned tune(const TunerOptions& options, const GradientSums& sums, double inv_scale,
                  bool found_inf, double longest, TunerState* state) {
  if (options.preconditioned)
    return tune_preconditioned(options, sums, inv_scale, found_inf, longest, state);
  return tune_plain(options, sums, inv_scale, found_inf, state);
}

// The coefficients of group `i`, in any order of the groups. The first one's lr is what the tuner
// shows.
YFK_FN void tune_group(const TunerOptions& options, const Tuned& tuned, int64_t i,
                       const GroupHyper* groups, YellowFinCoefficients* coefficients,
                       TunerState* state) {
  YellowFinCoefficients* out = coefficients + i;
  if (!tuned.active) {
    out->active = 0.0;
    return;
  }
  if (options.preconditioned)
    tune_group_preconditioned(tuned, groups[i], out);
  else
    tune_group_plain(options, tuned, groups[i], out);
  if (i == 0) state->lr = out->lr;
}

}  // namespace yfk
