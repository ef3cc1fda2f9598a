// How the chunks of a table are shared out to threads.
#pragma once

#include <algorithm>

#include "../table.h"

namespace yfk {
namespace cpu {

// A table's chunks in runs, a few for each thread: even shares, and no counter touched for every tiny
// tensor. A border inside a tensor that is no longer than a run moves to where the tensor begins.
class Runs {
 public:
  Runs(const Table& table, int threads)
      : table_(table), count_(std::min<int64_t>(table.num_chunks, int64_t(threads) * 16)) {}

  int64_t count() const { return count_; }
  int64_t begin(int64_t run) const {
    const int64_t chunk = run * table_.num_chunks / count_;
    if (run == count_) return chunk;
    const int64_t first = first_of_tensor(chunk);
    return end_of_tensor(first) - first <= table_.num_chunks / count_ ? first : chunk;
  }
  int64_t end(int64_t run) const { return begin(run + 1); }

  // The chunks of the tensor that `chunk` is a part of.
  int64_t first_of_tensor(int64_t chunk) const {
    return chunk - table_.chunks[chunk].first / table_.chunk_size;
  }
  int64_t end_of_tensor(int64_t first) const {
    const int64_t numel = table_.rows[table_.chunks[first].row].numel;
    return first + (numel + table_.chunk_size - 1) / table_.chunk_size;
  }

  // body(first, end) for each tensor of a run, or that part of it which belongs to the run.
  template <class Body>
  void for_each_tensor(int64_t run, Body body) const {
    const int64_t last = end(run);
    for (int64_t chunk = begin(run), next; chunk < last; chunk = next) {
      next = std::min(last, end_of_tensor(first_of_tensor(chunk)));
      body(chunk, next);
    }
  }
  bool whole(int64_t begin, int64_t end) const {
    return begin == first_of_tensor(begin) && end == end_of_tensor(begin);
  }

 private:
  const Table& table_;
  int64_t count_;
};

}  // namespace cpu
}  // namespace yfk
