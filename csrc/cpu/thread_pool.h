// A few parked threads that help the caller through a list of items.
#pragma once

#include <cstdint>
#include <functional>

namespace yfk {

// Calls body(item) for item = 0 .. num_items - 1, once each, in any order, on at most `threads`
// threads, the caller's among them. Returns when all are done. Results must not depend on the
// order: every item writes its own place.
void parallel_for(int64_t num_items, int threads, const std::function<void(int64_t)>& body);

}  // namespace yfk
