#include "model.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <new>

#include "sanitizers.h"
#include "small_float.h"

namespace yfk {
namespace {

constexpr int64_t kLine = 64;
constexpr int64_t kGuardAfter = kAddressSanitizer ? 0 : kLine;
constexpr int kSecond = kState + 1;  // the second state
constexpr int kThird = kSecond + 1;
constexpr int kUsedColumns = kColumns;

bool is_used(const Blueprint& blueprint, int column) {
  if (column > kState && column < kState + blueprint.states) return true;
  if (column == kSecond) return blueprint.second != Second::kNone;
  if (column >= kThird) return false;
  if (column == kMaster) return blueprint.master && blueprint.dtype != DType::kFloat32;
  if (column == kStep) return blueprint.counts;
  if (column == kAverage) return blueprint.averages;
  return true;
}

bool is_coded(const Blueprint& blueprint, int column) {
  return column == kSecond && is_coded(blueprint.stored);
}

bool is_float8(const Blueprint& blueprint, int column) {
  return column == kState && is_in_float8(blueprint.stored);
}

DType dtype_of(const Blueprint& blueprint, int column) {
  if (column == kAverage) return blueprint.average;
  return column > kParam ? DType::kFloat32 : blueprint.dtype;
}

bool is_float32(const Blueprint& blueprint, int column) {
  return dtype_of(blueprint, column) == DType::kFloat32;
}

int64_t width_of(const Blueprint& blueprint, int column) {
  if (is_coded(blueprint, column) || is_float8(blueprint, column)) return 1;
  return is_float32(blueprint, column) ? 4 : 2;
}

const cuda_on_cpu::SmallFloat& small_float(DType dtype) {
  return dtype == DType::kFloat16 ? cuda_on_cpu::kHalf : cuda_on_cpu::kBFloat16;
}

// Four codes to each power of two, from 2^-37 on; or two, from 2^-80 on.
struct Codes {
  int to_an_octave, least;

  double value(int code) const {
    return std::ldexp(1.0 + double(code % to_an_octave) / to_an_octave,
                      code / to_an_octave - least);
  }
  // The last of them that is not above x, or the first.
  uint8_t below(double x) const {
    int exponent;
    const double fraction = std::frexp(std::max(x, value(0)), &exponent);  // from 1/2 to 1
    const int place = int(2.0 * to_an_octave * (fraction - 0.5));
    return uint8_t(std::min(to_an_octave * (exponent - 1 + least) + place, 255));
  }
};

Codes codes_of(const Blueprint& blueprint) {
  return blueprint.stored == Stored::kMoments ? Codes{2, 80} : Codes{4, 37};
}

// Float8 is a float16 below 2 without a bit of its exponent.
uint8_t float8_below(float x) {
  const uint16_t half = cuda_on_cpu::kHalf.narrow(std::min(std::max(x, -1.75f), 1.75f));
  return uint8_t((half >> 8 & 0x80) | (half >> 7 & 0x7f));
}
float value_of_float8(uint8_t bits) {
  return cuda_on_cpu::kHalf.widen(uint16_t((bits & 0x80) << 8 | (bits & 0x7f) << 7));
}

void write(Array& array, const Blueprint& blueprint, int column, int64_t i, float x) {
  if (is_coded(blueprint, column)) {
    array.data()[i] = codes_of(blueprint).below(x);
    return;
  }
  if (is_float8(blueprint, column)) {
    array.data()[i] = float8_below(x);
    return;
  }
  if (is_float32(blueprint, column)) {
    std::memcpy(array.data() + 4 * i, &x, 4);
    return;
  }
  const uint16_t bits = small_float(dtype_of(blueprint, column)).narrow(x);
  std::memcpy(array.data() + 2 * i, &bits, 2);
}

float read_one(Array& array, const Blueprint& blueprint, int column, int64_t i) {
  if (is_coded(blueprint, column)) return float(codes_of(blueprint).value(array.data()[i]));
  if (is_float8(blueprint, column)) return value_of_float8(array.data()[i]);
  if (is_float32(blueprint, column)) {
    float x;
    std::memcpy(&x, array.data() + 4 * i, 4);
    return x;
  }
  uint16_t bits;
  std::memcpy(&bits, array.data() + 2 * i, 2);
  return small_float(dtype_of(blueprint, column)).widen(bits);
}

// `arrays` are the columns of one tensor.
void fill(Array* arrays, const Blueprint& blueprint, int64_t numel, Random& random) {
  std::normal_distribution<float> normal;
  std::uniform_real_distribution<float> uniform;
  if (blueprint.counts) write(arrays[kStep], blueprint, kStep, 0, float(random() % 100));
  for (int64_t i = 0; i < numel; ++i) {
    float values[kUsedColumns] = {};
    for (int c = 0; c < kThird; ++c) values[c] = normal(random);
    if (uniform(random) < 0.1f) values[kGrad] = 0.0f;
    if (uniform(random) < 0.1f) values[kParam] *= 1e-5f;  // subnormal as a float16
    values[kSecond] = values[kGrad] + 0.3f * values[kSecond];
    if (blueprint.second == Second::kSquare) values[kSecond] *= values[kSecond];
    values[kMaster] = values[kParam];
    for (int c = kThird; c < kState + blueprint.states; ++c) values[c] = normal(random);
    if (blueprint.states) values[kThird] *= values[kThird];  // an average of squares, for Adam
    // somebody has written to a half-precision parameter since its master was rounded
    if (uniform(random) < 0.2f) values[kMaster] *= 1.5f;
    for (int c = 0; c < kUsedColumns; ++c)
      if (c != kStep && is_used(blueprint, c)) write(arrays[c], blueprint, c, i, values[c]);
  }
}

// Elements by which each column lies off a 64-byte line.
std::array<int64_t, kUsedColumns> offsets_of(const Blueprint& blueprint, Alignment alignment,
                                             Random& random) {
  std::array<int64_t, kUsedColumns> offsets = {};
  const int columns = std::max(kThird, kState + blueprint.states);
  if (alignment == Alignment::kOneOdd) offsets[random() % columns] = 1 + random() % 3;
  if (alignment == Alignment::kOdd)
    for (int64_t& offset : offsets) offset = random() % 9;
  return offsets;
}

}  // namespace

Array::Array(int64_t numel, int64_t width, int64_t offset)
    : begin_(kLine + offset * width), size_(numel * width),
      capacity_(begin_ + size_ + kGuardAfter) {
  allocate();
  std::memset(block_.get(), 0xff, size_t(capacity_));
}

Array::Array(const Array& other)
    : begin_(other.begin_), size_(other.size_), capacity_(other.capacity_) {
  if (!other.block_) return;
  allocate();
  std::memcpy(block_.get(), other.block_.get(), size_t(capacity_));
}

void Array::allocate() {
  void* block = nullptr;
  if (posix_memalign(&block, kLine, size_t(capacity_)) != 0) throw std::bad_alloc();
  block_.reset(static_cast<unsigned char*>(block));
}

bool Array::same(Array& other) {
  return size_ == other.size_ && std::equal(data(), data() + size_, other.data());
}

bool Array::guards_intact() {
  const auto intact = [](unsigned char byte) { return byte == 0xff; };
  return std::all_of(block_.get(), data(), intact) &&
         std::all_of(data() + size_, block_.get() + capacity_, intact);
}

std::vector<Tensor> awkward_tensors(Random& random) {
  std::vector<Tensor> tensors;
  int64_t next = 0;
  for (const int64_t numel : {0, 1, 3, 1023, 1025, 65537, 33, 4096, 4097, 5000}) {
    const int64_t origins[] = {next, int64_t(random() % 100000),
                               (int64_t(1) << 41) + int64_t(random() % 9999)};
    tensors.push_back({numel, origins[random() % 3], numel != 33 && numel != 5000});
    next += numel;
  }
  std::shuffle(tensors.begin(), tensors.end(), random);
  return tensors;
}

std::vector<Tensor> tiny_tensors(Random& random) {
  std::vector<Tensor> tensors;
  int64_t next = 0;
  for (const int64_t numel : {1, 31, 64, 127, 129, 255, 256, 257, 511, 513, 700, 1000})
    for (int i = 0; i < 20; ++i) {
      tensors.push_back({numel, next, random() % 8 != 0});
      next += (numel + 31) / 32 * 32;
    }
  std::shuffle(tensors.begin(), tensors.end(), random);
  return tensors;
}

Model::Model(const Blueprint& blueprint, Alignment alignment)
    : blueprint_(blueprint), arrays_(blueprint.tensors.size() * kUsedColumns) {
  Random contents(blueprint.seed), places(blueprint.seed + 1);
  for (const Tensor& tensor : blueprint.tensors) {
    const int64_t index = int64_t(rows_.size());
    Array* arrays = &arrays_[index * kUsedColumns];
    TensorRow row = {tensor.numel, index % kGroups, tensor.origin, {}};
    const auto offsets = offsets_of(blueprint, alignment, places);
    for (int c = 0; c < kUsedColumns; ++c) {
      if (!is_used(blueprint, c)) continue;
      const int64_t numel = c == kStep ? 1 : tensor.numel;
      arrays[c] = Array(numel, width_of(blueprint, c), offsets[c]);
      row.column[c] = int64_t(reinterpret_cast<intptr_t>(arrays[c].data()));
    }
    if (!tensor.has_grad) row.column[kGrad] = 0;
    fill(arrays, blueprint, tensor.numel, contents);
    rows_.push_back(row);
    for (int64_t first = 0; first < tensor.numel; first += blueprint.chunk_size)
      chunks_.push_back({index, first});
  }
  rows_.shrink_to_fit();  // here too the heap block ends where the array ends
  chunks_.shrink_to_fit();
}

Model::Model(const Model& other)
    : blueprint_(other.blueprint_), arrays_(other.arrays_), rows_(other.rows_),
      chunks_(other.chunks_) {
  for (size_t i = 0; i < arrays_.size(); ++i) {
    int64_t& address = rows_[i / kUsedColumns].column[i % kUsedColumns];
    if (address != 0) address = int64_t(reinterpret_cast<intptr_t>(arrays_[i].data()));
  }
}

Table Model::table() const {
  return {rows_.data(), chunks_.data(), int64_t(chunks_.size()), blueprint_.chunk_size};
}

Array& Model::array(int64_t tensor, int column) { return arrays_[tensor * kUsedColumns + column]; }

std::vector<double> Model::read(int64_t tensor, int column) {
  const int64_t numel = column == kStep ? 1 : rows_[tensor].numel;
  std::vector<double> values(is_used(blueprint_, column) ? numel : 0);
  for (size_t i = 0; i < values.size(); ++i)
    values[i] = read_one(array(tensor, column), blueprint_, column, int64_t(i));
  return values;
}

void Model::draw(int column, double size, Random& random) {
  std::normal_distribution<double> normal;
  std::bernoulli_distribution zero(0.1);
  for (size_t tensor = 0; tensor < rows_.size(); ++tensor)
    for (int64_t i = 0; is_used(blueprint_, column) && i < rows_[tensor].numel; ++i)
      write(array(tensor, column), blueprint_, column, i,
            zero(random) ? 0.0f : float(size * normal(random)));
}

bool Model::same(Model& other) {
  return std::equal(arrays_.begin(), arrays_.end(), other.arrays_.begin(), other.arrays_.end(),
                    [](Array& a, Array& b) { return a.same(b); });
}

bool Model::guards_intact() {
  return std::all_of(arrays_.begin(), arrays_.end(), [](Array& a) { return a.guards_intact(); });
}

}  // namespace yfk
