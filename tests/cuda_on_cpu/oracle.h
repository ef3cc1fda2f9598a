// YellowFin in plain float64 loops, from the specification: the slow, obvious optimizer. It shares
// the names of options with the code under test, and no arithmetic.
#pragma once

#include <vector>

#include "tuner/tuner.h"

namespace yfk {

struct OracleTensor {
  bool has_grad;
  int64_t group, origin;
  std::vector<double> grad, param, velocity, average;
};

// What one step saw and decided.
struct Decision {
  double norm = 0.0, h = 0.0, h_min = 0.0, h_max = 0.0, variance = 0.0, distance = 0.0;
  double variance_scale = 0.0;  // the size of the terms whose difference the variance is
  double momentum = 0.0, clip = 1.0;
  std::vector<double> lr;  // of each group
};

class Oracle {
 public:
  Oracle(const TunerOptions& options, const std::vector<GroupHyper>& groups)
      : options_(options), groups_(groups) {
    last_.lr.resize(groups.size());
  }

  // One step of all tensors. Their gradients are still multiplied by the loss scale.
  const Decision& step(std::vector<OracleTensor>* tensors, double loss_scale);

 private:
  void measure(const std::vector<OracleTensor>& tensors, double loss_scale);
  double average_sq(const std::vector<OracleTensor>& tensors, double loss_scale);
  double tuned_lr();
  void apply(OracleTensor* tensor, double loss_scale) const;

  TunerOptions options_;
  std::vector<GroupHyper> groups_;
  Decision last_;
  int k_ = -1;
  double statistics_clip_ = 1.0, nonzero_share_ = 0.0;
  double square_avg_ = 0.0, low_avg_ = 0.0, high_avg_ = 0.0, norm_avg_ = 0.0, distance_avg_ = 0.0;
  double share_avg_ = 0.0;
  std::vector<double> recent_;  // h of the steps in the window
  std::vector<double> sketch_, sketch_avg_ = std::vector<double>(4096);
};

}  // namespace yfk
