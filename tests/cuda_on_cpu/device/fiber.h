// A flow of control with a stack of its own, and the switch between two of them.
#pragma once

#include <cstddef>
#include <vector>

namespace cuda_on_cpu {

// Where a stack has its first frame, once it was used.
struct Pad {
  void* registers[5];
  bool built = false;
};

struct Context {
  void* registers[5];           // what __builtin_setjmp keeps
  Pad* pad = nullptr;           // of its stack
  void (*entry)() = nullptr;    // where it begins; null once it has
  const void* stack = nullptr;  // AddressSanitizer has to be told whose it is
  size_t stack_size = 0;
  void* fake_stack = nullptr;
};

// Room for as many stacks as a block has threads; only the pages that are used cost memory.
class Stacks {
 public:
  Stacks();
  ~Stacks();
  Stacks(const Stacks&) = delete;
  Stacks& operator=(const Stacks&) = delete;

  // Has `context` begin with entry() on the stack of that number, filled as far as kernels use it
  // with a pattern that is NaN as a float: a variable that nobody set shows up.
  void prepare(Context* context, unsigned number, void (*entry)());

 private:
  char* memory_;
  std::vector<Pad> pads_;
};

// Leaves `from` for `to`; returns when somebody switches back, so never if `from` is at its end.
void switch_context(Context* from, Context* to, bool at_end = false);

// The first thing that a fiber does. `from`: where it was switched to from.
void enter_fiber(Context* from);

}  // namespace cuda_on_cpu
