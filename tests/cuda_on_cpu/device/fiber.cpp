#include "device/fiber.h"

#include <sys/mman.h>
#include <ucontext.h>

#include <cstring>
#include <utility>

#include "device/limits.h"
#include "grid.h"
#include "sanitizers.h"

namespace cuda_on_cpu {
namespace {

constexpr size_t kStack = 64 << 10;  // bytes; AddressSanitizer makes large frames
constexpr size_t kFilled = 4 << 10;

// swapcontext() would cost a system call, and under AddressSanitizer wipe out what it knows of the
// stack; the jump back that the compiler knows does neither. The context of <ucontext.h> is only
// the way onto a fresh stack.
__attribute__((noinline, no_sanitize("address"))) void jump(Context* from, Context* to) {
  if (__builtin_setjmp(from->registers)) return;
  if (!to->entry) __builtin_longjmp(to->registers, 1);
  ucontext_t fresh;
  getcontext(&fresh);
  fresh.uc_stack.ss_sp = const_cast<void*>(to->stack);
  fresh.uc_stack.ss_size = to->stack_size;
  fresh.uc_link = nullptr;
  makecontext(&fresh, std::exchange(to->entry, nullptr), 0);
  setcontext(&fresh);
}

}  // namespace

Stacks::Stacks() {
  void* memory = mmap(nullptr, kMaxThreads * kStack, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) trap("no memory for stacks");
  memory_ = static_cast<char*>(memory);
}

Stacks::~Stacks() { munmap(memory_, kMaxThreads * kStack); }

void Stacks::prepare(Context* context, unsigned number, void (*entry)()) {
  char* stack = memory_ + number * kStack;
  // the fiber that had it before never returned from its functions
  ASAN_UNPOISON_MEMORY_REGION(stack, kStack);
  std::memset(stack + kStack - kFilled, kPoison, kFilled);
  context->stack = stack;
  context->stack_size = kStack;
  context->entry = entry;
}

void switch_context(Context* from, Context* to, [[maybe_unused]] bool at_end) {
  __sanitizer_start_switch_fiber(at_end ? nullptr : &from->fake_stack, to->stack, to->stack_size);
  jump(from, to);
  __sanitizer_finish_switch_fiber(from->fake_stack, nullptr, nullptr);
}

void enter_fiber([[maybe_unused]] Context* from) {
  __sanitizer_finish_switch_fiber(nullptr, &from->stack, &from->stack_size);
}

}  // namespace cuda_on_cpu
