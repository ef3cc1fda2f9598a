// A list of items shared out to threads.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

namespace yfk {

// Calls body(item) for item = 0 .. num_items - 1, once each, in any order, on at most `threads`
// threads, the caller's among them. Returns when all are done. Results must not depend on the
// order: every item writes its own place. body must not throw.
void parallel_for(int64_t num_items, int threads, const std::function<void(int64_t)>& body);

// Whose threads help: the file name of the process's OpenMP library, or "own threads".
std::string thread_source();

}  // namespace yfk
