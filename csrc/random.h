// Random bits from counters: the same on every backend, and nothing to store.
#pragma once

#include <cstdint>

#include "host_device.h"

namespace yfk {

constexpr uint32_t kMix1 = 0x7feb352d, kMix2 = 0x846ca68b;

// Spreads the bits of x over 32. T: uint32_t, or a vector of them.
template <class T>
YFK_FN T mixed(T x) {
  x ^= x >> 16;
  x *= kMix1;
  x ^= x >> 15;
  x *= kMix2;
  x ^= x >> 16;
  return x;
}

// The sketch is a signed sum of the gradient in kTile buckets, bucket = element index mod kTile.
// 32 random signs for the 32 elements of block `index / 32`: bit i set means minus for element i.
// One hash serves 32 elements, so that the sign costs less than the load it rides on.
YFK_FN uint32_t sign_bits(int64_t block) {
  return mixed(uint32_t(block) ^ uint32_t(uint64_t(block) >> 32));
}

// Stochastic rounding: element e of the model is rounded by mixed(uint32_t(e) ^ seed), where the
// seed belongs to the step and to a stretch of 2^32 elements.
YFK_FN uint32_t rounding_seed(int64_t element, double step) {
  return mixed(mixed(uint32_t(step)) + uint32_t(uint64_t(element) >> 32));
}

}  // namespace yfk
