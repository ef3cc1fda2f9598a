// Stochastic rounding: the CPU's bits for any float and any random bits, NaN for NaN.
#include <cstring>

#include "check.h"
#include "cpu/lanes.h"
#include "cuda/parameter.cuh"

namespace yfk {
namespace {

template <class Half, class CpuHalf>
void check_type(Random& random) {
  constexpr int kRounds = 1 << 18;
  int wrong = 0;
  for (int round = 0; round < kRounds; ++round) {
    YFK_ISA::FloatVec x;
    YFK_ISA::UIntVec bits, dice;
    for (int k = 0; k < YFK_ISA::kWidth; ++k) {
      bits[k] = uint32_t(random());
      if (random() % 2) bits[k] = (bits[k] & 0x807fffffu) | uint32_t(random() % 48 + 96) << 23;
      if (random() % 8 == 0) bits[k] &= 0xffffe000u;  // float16 has it already, or nearly
      dice[k] = uint32_t(random());
    }
    std::memcpy(&x, &bits, sizeof x);
    const YFK_ISA::HalfVec wanted = YFK_ISA::narrow(x, CpuHalf{}, dice);
    for (int k = 0; k < YFK_ISA::kWidth; ++k) {
      const Half got = cuda::narrow<Half>(cuda::rounded(x[k], dice[k], Half{}));
      const bool nan = x[k] != x[k];
      wrong += nan ? cuda::widen(got) == cuda::widen(got) : got.bits != wanted[k];
    }
  }
  EXPECT(wrong == 0, wrong << " of " << kRounds * YFK_ISA::kWidth << " numbers rounded otherwise");
}

}  // namespace

void check_rounding(Random& random) {
  check_type<__nv_bfloat16, YFK_ISA::BFloat16>(random);
  check_type<__half, YFK_ISA::Float16>(random);
}

}  // namespace yfk
