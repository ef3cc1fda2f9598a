// Averages of parameters over chunks of a table (../average.h), sixteen elements at a time.
//
// Compiled once per instruction set (YFK_ISA names the namespace); driver.cpp picks one at run
// time. Memory bandwidth is the limit: each column is streamed once, in order.
#include "../average.h"

#include "kernels.h"
#include "piece.h"

#define YFK_INLINE_BODY __attribute__((always_inline))

namespace yfk {
namespace YFK_ISA {
namespace {

FloatColumn average_of(const Piece& piece, double, float) { return {piece, kAverage}; }
RoundedColumn<BFloat16> average_of(const Piece& piece, double step, BFloat16) {
  return {piece, kAverage, average_seed(piece.row.origin + piece.first, step)};
}

// P, A: the types of the parameters and of their averages.
template <class P, class A>
void average_chunks(const Table& table, int64_t begin, int64_t end, const Averaging& averaging) {
  for (int64_t chunk = begin; chunk < end; ++chunk) {
    const Piece piece = piece_of(table, chunk);
    const double step = piece.steps();
    if (!piece.row.column[kGrad] || !averaging.is_due(step)) continue;
    const Average rule(averaging, step);
    const auto average = average_of(piece, step, A{});
    with_parameter<P>(piece, step, [&](const auto& param) {
      for_each_block<kLanes>(piece.n, [&](int64_t i, auto lanes) YFK_INLINE_BODY {
        average.write(i, rule.moved(average.read(i, lanes), param.read(i, lanes)), lanes);
      });
    });
  }
}

template <class P>
AverageKernel kernel_for(DType average) {
  return average == DType::kBFloat16 ? average_chunks<P, BFloat16> : average_chunks<P, float>;
}

}  // namespace

AverageKernel average_kernel(DType dtype, DType average) {
  switch (dtype) {
    case DType::kFloat32: break;
    case DType::kBFloat16: return kernel_for<BFloat16>(average);
    case DType::kFloat16: return kernel_for<Float16>(average);
  }
  return kernel_for<float>(average);
}

}  // namespace YFK_ISA
}  // namespace yfk
