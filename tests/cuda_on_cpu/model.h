// A model of random tensors in a tensor table.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <vector>

#include "check.h"
#include "rules.h"
#include "table.h"

namespace yfk {

// One column of a tensor, in a heap block that ends where the column ends: AddressSanitizer sees a
// read one byte beyond. Without it a guard follows. The guards on both sides are filled with bytes
// that are NaN in every type: a read outside spoils the result, a write outside is seen.
class Array {
 public:
  Array() = default;
  Array(int64_t numel, int64_t width, int64_t offset);  // offset: elements after a 64-byte line
  Array(const Array& other);
  Array(Array&&) = default;
  Array& operator=(Array&&) = default;

  unsigned char* data() { return block_.get() + begin_; }
  bool same(Array& other);
  bool guards_intact();

 private:
  struct Free {
    void operator()(unsigned char* block) const { std::free(block); }
  };

  void allocate();

  int64_t begin_ = 0, size_ = 0, capacity_ = 0;
  std::unique_ptr<unsigned char, Free> block_;
};

struct Tensor {
  int64_t numel;
  int64_t origin;
  bool has_grad;
};

// What the second state column holds of the gradients.
enum class Second { kNone, kAverage, kSquare };

struct Blueprint {
  DType dtype;
  Second second;
  int64_t chunk_size;
  std::vector<Tensor> tensors;
  unsigned seed;
  bool master = true;     // of half-precision parameters
  bool counts = false;    // the steps of each tensor
  int states = 0;         // float32 state columns, where there are more than the second
  bool averages = false;  // of the parameters
  DType average = DType::kFloat32;
  Stored stored = Stored::kFloats;
};

// Which columns of a tensor do not lie on 16 bytes: none, one of them, or any.
enum class Alignment { kWide, kOneOdd, kOdd };

constexpr DType kDTypes[] = {DType::kFloat32, DType::kBFloat16, DType::kFloat16};
constexpr int kGroups = 3;

// Tensors of lengths around everything that kernels round to, two of them without a gradient;
// origins as whole tensors, shards and models of 2^41 elements have them.
std::vector<Tensor> awkward_tensors(Random& random);

// Many tensors of up to three or four warps' shares, some without a gradient: more than each block
// opens at a time.
std::vector<Tensor> tiny_tensors(Random& random);

class Model {
 public:
  // Contents follow from the blueprint alone: models of any alignment hold the same values.
  Model(const Blueprint& blueprint, Alignment alignment);
  // Of the same values in the same alignment, which takes a fraction of the time.
  Model(const Model& other);
  Model& operator=(const Model&) = delete;

  Table table() const;
  int64_t tensors() const { return int64_t(rows_.size()); }
  int64_t chunks() const { return int64_t(chunks_.size()); }
  const TensorRow& row(int64_t tensor) const { return rows_[tensor]; }
  // A column of a tensor, in float64; empty when there is none.
  std::vector<double> read(int64_t tensor, int column);
  // Overwrites the columns of that kind with normal random numbers times `size`, and some zeros.
  void draw(int column, double size, Random& random);
  bool same(Model& other);
  bool guards_intact();

 private:
  Array& array(int64_t tensor, int column);

  Blueprint blueprint_;
  std::vector<Array> arrays_;
  std::vector<TensorRow> rows_;
  std::vector<Chunk> chunks_;
};

}  // namespace yfk
