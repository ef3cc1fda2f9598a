// Per-element update rules, one small struct each, shared by the CPU and the CUDA driver.
//
// A rule is written for a value type T that is `float` on the GPU (and in tails) and a short SIMD
// vector of floats on the CPU: plain arithmetic only, no branches on data.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define YFK_FN __host__ __device__ __forceinline__
#else
#define YFK_FN inline __attribute__((always_inline))
#endif

namespace yfk {

// ---------------------------------------------------------------------------------------------
// YellowFin (arXiv 1706.03471)

// What the tuner hands to the apply pass, per parameter group. Doubles, because the same buffer
// also serves float64 parameters; a kernel rounds it to float once per chunk.
struct YellowFinCoefficients {
  double active;         // 0 when the step is skipped: then nothing may be written
  double grad_scale;     // unscaling, clips and the sign of `maximize` in one factor
  double coupled_decay;  // weight decay added to the gradient
  double momentum;
  double velocity_gain;  // 1, or -lr in the Polyak form
  double velocity_keep;  // 0 while the reference has no momentum buffer yet
  double param_keep;     // 1 - lr * weight_decay when the decay is decoupled
  double param_gain;     // -lr, or 1 in the Polyak form
  double average_decay;  // beta
  double average_gain;   // (1 - beta) * unscaling * clips of the statistics
};

// Both momentum forms in one expression:
//   buffer:  v <- mu v + d,       p <- p - lr v      (torch.optim.SGD)
//   polyak:  v <- mu v - lr d,    p <- p + v         (the paper)
// with d = c g + wd p, and  gbar <- b gbar + (1-b) c' g.
struct YellowFinApply {
  float grad_scale, coupled_decay, momentum, velocity_gain, velocity_keep, param_keep, param_gain;
  float average_decay, average_gain;

  YFK_FN explicit YellowFinApply(const YellowFinCoefficients& c)
      : grad_scale(float(c.grad_scale)), coupled_decay(float(c.coupled_decay)),
        momentum(float(c.momentum)), velocity_gain(float(c.velocity_gain)),
        velocity_keep(float(c.velocity_keep)), param_keep(float(c.param_keep)),
        param_gain(float(c.param_gain)), average_decay(float(c.average_decay)),
        average_gain(float(c.average_gain)) {}

  template <class T>
  YFK_FN void update(const T& g, T& p, T& v) const {
    const T d = grad_scale * g + coupled_decay * p;
    const T velocity = momentum * v + velocity_gain * d;
    p = param_keep * p + param_gain * velocity;
    v = velocity_keep * velocity;
  }

  template <class T>
  YFK_FN void average(const T& g, T& gbar) const {
    gbar = average_decay * gbar + average_gain * g;
  }
};

// ---------------------------------------------------------------------------------------------
// The sketch: a signed sum of the gradient in kTile buckets, bucket = element index mod kTile.

// 32 random signs for the 32 elements of block `index / 32`: bit i set means minus for element i.
// One hash serves 32 elements, so that the sign costs less than the load it rides on.
// T: uint32_t, or a vector of them; the two halves of the block's index.
template <class T>
YFK_FN T sign_bits(T low, T high) {
  T x = low ^ high;
  x ^= x >> 16;
  x *= 0x7feb352du;
  x ^= x >> 15;
  x *= 0x846ca68bu;
  x ^= x >> 16;
  return x;
}

YFK_FN uint32_t sign_bits(int64_t block) {
  return sign_bits(uint32_t(block), uint32_t(uint64_t(block) >> 32));
}

}  // namespace yfk
