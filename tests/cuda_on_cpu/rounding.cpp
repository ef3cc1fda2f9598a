// Stochastic rounding, codes and float8: the CPU's bits for any float and any random bits, NaN for
// NaN.
#include <cstring>

#include "check.h"
#include "cpu/bytes.h"
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

template <class CudaCode>
void check_codes(Random& random) {
  using Format = cuda::FormatOf<CudaCode>;
  YFK_ISA::Code<Format> all[256], codes[YFK_ISA::kLanes];
  for (int c = 0; c < 256; ++c) all[c] = {uint8_t(c)};
  int wrong = 0;
  for (int c = 0; c < 256; c += YFK_ISA::kLanes) {
    const YFK_ISA::Floats wanted = YFK_ISA::load(all + c, YFK_ISA::AllLanes{});
    float values[YFK_ISA::kLanes];
    std::memcpy(values, &wanted, sizeof values);
    for (int k = 0; k < YFK_ISA::kLanes; ++k)
      wrong += cuda::widen(CudaCode{uint8_t(c + k)}) != values[k];
  }
  EXPECT(wrong == 0, wrong << " codes stand for something else");
  constexpr int kRounds = 1 << 16;
  for (int round = 0; round < kRounds; ++round) {
    uint32_t bits[YFK_ISA::kLanes], dice[YFK_ISA::kLanes];
    for (uint32_t& x : bits) x = uint32_t(random()) >> 1;  // not negative
    for (uint32_t& x : dice) x = uint32_t(random());
    YFK_ISA::Floats x;
    YFK_ISA::UIntVec random_bits[YFK_ISA::kParts];
    std::memcpy(&x, bits, sizeof x);
    std::memcpy(random_bits, dice, sizeof dice);
    YFK_ISA::store_coded(codes, x, random_bits);
    for (int k = 0; k < YFK_ISA::kLanes; ++k) {
      const float got = cuda::rounded(__uint_as_float(bits[k]), dice[k], CudaCode{});
      wrong += uint8_t(cuda::narrow<CudaCode>(got)) != codes[k].bits;
    }
  }
  EXPECT(wrong == 0, wrong << " of " << kRounds * YFK_ISA::kLanes << " numbers coded otherwise");
}

void check_float8(Random& random) {
  YFK_ISA::Float8 all[256], bits[YFK_ISA::kLanes];
  for (int b = 0; b < 256; ++b) all[b] = {uint8_t(b)};
  int wrong = 0;
  for (int b = 0; b < 256; b += YFK_ISA::kLanes) {
    const YFK_ISA::Floats wanted = YFK_ISA::load(all + b, YFK_ISA::AllLanes{});
    float values[YFK_ISA::kLanes];
    std::memcpy(values, &wanted, sizeof values);
    for (int k = 0; k < YFK_ISA::kLanes; ++k) {
      const float got = cuda::widen(cuda::Float8{uint8_t(b + k)});
      wrong += values[k] == values[k] ? got != values[k] : got == got;
    }
  }
  EXPECT(wrong == 0, wrong << " numbers in float8 stand for something else");
  constexpr int kRounds = 1 << 16;
  for (int round = 0; round < kRounds; ++round) {
    uint32_t floats[YFK_ISA::kLanes];
    YFK_ISA::Floats x;
    YFK_ISA::WideVec random_bits;
    for (int k = 0; k < YFK_ISA::kLanes; ++k) {
      floats[k] = (uint32_t(random()) & 0x807fffffu) | uint32_t(random() % 48 + 96) << 23;
      random_bits[k] = uint16_t(random() & 0x7f);
    }
    std::memcpy(&x, floats, sizeof x);
    YFK_ISA::store_float8(bits, x, random_bits);
    for (int k = 0; k < YFK_ISA::kLanes; ++k) {
      const float got =
          cuda::rounded(__uint_as_float(floats[k]), uint32_t(random_bits[k]) << 8, cuda::Float8{});
      wrong += uint8_t(cuda::narrow<cuda::Float8>(got)) != bits[k].bits;
    }
  }
  EXPECT(wrong == 0, wrong << " of " << kRounds * YFK_ISA::kLanes << " rounded otherwise");
}

}  // namespace

void check_rounding(Random& random) {
  check_type<__nv_bfloat16, YFK_ISA::BFloat16>(random);
  check_type<__half, YFK_ISA::Float16>(random);
  check_codes<cuda::RelativeCode>(random);
  check_codes<cuda::AbsoluteCode>(random);
  check_float8(random);
}

}  // namespace yfk
