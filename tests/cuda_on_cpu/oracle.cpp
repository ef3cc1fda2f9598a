// Numbers in comments are the steps of the specification; b = beta, z = 1 - b^(k+1).
#include "oracle.h"

#include <algorithm>
#include <cmath>

namespace yfk {
namespace {

constexpr double kE = 1e-6;
constexpr uint64_t kBuckets = 4096;

double square(double x) { return x * x; }

double factor(double target, double norm) { return std::min(1.0, target / (norm + kE)); }

// +1 or -1: bit e mod 32 of a hash of e div 32, in 32-bit arithmetic.
double sign_of(uint64_t e) {
  constexpr uint64_t kModulus = uint64_t(1) << 32;
  const uint64_t word = e / 32;
  uint64_t x = (word % kModulus) ^ (word / kModulus);
  x ^= x >> 16;
  x = x * 0x7feb352d % kModulus;
  x ^= x >> 15;
  x = x * 0x846ca68b % kModulus;
  x ^= x >> 16;
  return x >> (e % 32) & 1 ? -1.0 : 1.0;
}

// The root in [0, 1] of (1-x)³ = p x, by bisection down to neighboring numbers.
double cubic_root(double p) {
  double low = 0.0, high = 1.0;
  for (double x = 0.5; low < x && x < high; x = 0.5 * (low + high))
    (std::pow(1.0 - x, 3.0) > p * x ? low : high) = x;
  return high;
}

}  // namespace

void Oracle::measure(const std::vector<OracleTensor>& tensors, double loss_scale) {
  double sum = 0.0, nonzero = 0.0, count = 0.0;
  sketch_.assign(kBuckets, 0.0);
  for (const OracleTensor& tensor : tensors) {
    if (!tensor.has_grad) continue;
    for (size_t i = 0; i < tensor.grad.size(); ++i) {
      const double g = tensor.grad[i] / loss_scale;
      const uint64_t e = uint64_t(tensor.origin) + i;
      sum += g * g;
      nonzero += g != 0.0;
      count += 1.0;
      sketch_[e % kBuckets] += sign_of(e) * g;
    }
  }
  last_.norm = std::sqrt(sum);
  nonzero_share_ = nonzero / count;
}

// ‖ḡ‖² after this step.
double Oracle::average_sq(const std::vector<OracleTensor>& tensors, double loss_scale) {
  const double b = options_.beta, gain = (1.0 - b) * statistics_clip_;
  double sum = 0.0;
  if (options_.sketch) {
    for (uint64_t j = 0; j < kBuckets; ++j) {
      sketch_avg_[j] = b * sketch_avg_[j] + gain * sketch_[j];
      sum += square(sketch_avg_[j]);
    }
    return sum;
  }
  for (const OracleTensor& tensor : tensors)
    for (size_t i = 0; tensor.has_grad && i < tensor.grad.size(); ++i)
      sum += square(b * tensor.average[i] + gain * tensor.grad[i] / loss_scale);
  return sum;
}

const Decision& Oracle::step(std::vector<OracleTensor>* tensors, double loss_scale) {
  auto& [norm, h, h_min, h_max, variance, distance, variance_scale, momentum, clip, lr] = last_;
  ++k_;
  measure(*tensors, loss_scale);
  const double b = options_.beta, z = 1.0 - std::pow(b, k_ + 1);

  // 1-2.
  clip = factor(options_.max_norm, norm);
  if (options_.adaptive_clip && k_ >= 2) clip *= factor(10.0 * std::sqrt(h_max) + kE, clip * norm);
  statistics_clip_ = clip;

  // 3.
  h = square(clip * norm);
  const bool exploding = k_ >= 1 && h >= h_max;
  const double target = std::sqrt(h_max) + kE;
  square_avg_ = b * square_avg_ + (1.0 - b) * h;

  // 4.
  recent_.push_back(h);
  if (int64_t(recent_.size()) > options_.window) recent_.erase(recent_.begin());
  double low = *std::min_element(recent_.begin(), recent_.end());
  double high = *std::max_element(recent_.begin(), recent_.end());
  if (options_.log_smooth) low = std::log(low + kE), high = std::log(high + kE);
  low_avg_ = b * low_avg_ + (1.0 - b) * low;
  high_avg_ = b * high_avg_ + (1.0 - b) * high;
  h_min = options_.log_smooth ? std::exp(low_avg_ / z) : low_avg_ / z;
  h_max = options_.log_smooth ? std::exp(high_avg_ / z) : high_avg_ / z;

  // 5.
  const double average = average_sq(*tensors, loss_scale);
  variance = std::max(square_avg_ / z - average / square(z), kE);
  variance_scale = square_avg_ / z + average / square(z);

  // 6.
  norm_avg_ = b * norm_avg_ + (1.0 - b) * std::sqrt(h);
  distance_avg_ = b * distance_avg_ + (1.0 - b) * norm_avg_ / (square_avg_ + kE);
  distance = distance_avg_ / z;
  if (options_.sparsity_debias) {
    share_avg_ = b * share_avg_ + (1.0 - b) * nonzero_share_;
    const double q = share_avg_ / z;
    h_min *= q, h_max *= q, variance *= q, variance_scale *= q;
    distance /= std::sqrt(q) + kE;
  }

  // 7-8.
  const double tuned = tuned_lr();
  for (size_t i = 0; i < groups_.size(); ++i) {
    lr[i] = tuned * groups_[i].lr;
    if (options_.adaptive_clip && lr[i] * std::sqrt(h) >= 100.0) lr[i] = 100.0 / std::sqrt(h + kE);
  }

  // 9.
  if (options_.adaptive_clip && exploding) clip *= factor(target, std::sqrt(h));
  for (OracleTensor& tensor : *tensors)
    if (tensor.has_grad) apply(&tensor, loss_scale);
  return last_;
}

// Sets the momentum too.
double Oracle::tuned_lr() {
  last_.momentum = options_.initial_momentum;
  if (k_ == 0) return options_.initial_lr;
  const double h = last_.h_min + kE;
  const double p = square(last_.distance + kE) * square(h) / (2.0 * (last_.variance + kE));
  const double root = std::sqrt(std::max((last_.h_max + kE) / h, 1.0 + kE));
  const double x = std::max(cubic_root(p), (root - 1.0) / (root + 1.0));
  last_.momentum = x * x;
  const double slow_start = std::min(1.0, double(k_ + 1) / (10.0 * double(options_.window)));
  return square(1.0 - x) / h * slow_start;
}

// 10, and the average of step 5.
void Oracle::apply(OracleTensor* tensor, double loss_scale) const {
  const GroupHyper& group = groups_[tensor->group];
  const double b = options_.beta, rate = last_.lr[tensor->group], momentum = last_.momentum;
  for (size_t i = 0; i < tensor->grad.size(); ++i) {
    const double g = tensor->grad[i] / loss_scale;
    double &p = tensor->param[i], &v = tensor->velocity[i];
    double d = group.sign * last_.clip * g;
    if (group.decoupled == 0.0) d += group.weight_decay * p;
    if (group.decoupled != 0.0) p -= rate * group.weight_decay * p;
    if (options_.polyak) {
      v = momentum * v - rate * d;
      p += v;
    } else {
      v = momentum * v + d;
      p -= rate * v;
      if (momentum == 0.0) v = 0.0;  // the reference has no buffer yet
    }
    if (!tensor->average.empty())
      tensor->average[i] = b * tensor->average[i] + (1.0 - b) * statistics_clip_ * g;
  }
}

}  // namespace yfk
