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
// From one to the next: a power of two would have the tops of all compete for the same cache lines.
constexpr size_t kApart = kStack + (1 << 10) + 64;
constexpr size_t kFilled = 2 << 10;

constexpr size_t kPad = 256;  // at the top of a stack: the frame of launch_pad()

Context* beginning;  // one host thread runs at a time

// The first function on a stack, and the last: each fiber that begins there jumps back into it.
__attribute__((noinline, no_sanitize("address"))) void launch_pad() {
  __builtin_setjmp(beginning->pad->registers);
  beginning->pad->built = true;
  std::exchange(beginning->entry, nullptr)();
}

// swapcontext() would cost a system call, and under AddressSanitizer wipe out what it knows of the
// stack; the jump back that the compiler knows does neither. The context of <ucontext.h> is only
// the way onto a fresh stack, the first time.
__attribute__((noinline, no_sanitize("address"))) void jump(Context* from, Context* to) {
  if (__builtin_setjmp(from->registers)) return;
  if (!to->entry) __builtin_longjmp(to->registers, 1);
  beginning = to;
  if (to->pad->built) __builtin_longjmp(to->pad->registers, 1);
  ucontext_t fresh;
  getcontext(&fresh);
  fresh.uc_stack.ss_sp = const_cast<void*>(to->stack);
  fresh.uc_stack.ss_size = to->stack_size;
  fresh.uc_link = nullptr;
  makecontext(&fresh, launch_pad, 0);
  setcontext(&fresh);
}

}  // namespace

Stacks::Stacks() : pads_(kMaxThreads) {
  void* memory = mmap(nullptr, kMaxThreads * kApart, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) trap("no memory for stacks");
  memory_ = static_cast<char*>(memory);
}

Stacks::~Stacks() { munmap(memory_, kMaxThreads * kApart); }

void Stacks::prepare(Context* context, unsigned number, void (*entry)()) {
  char* stack = memory_ + number * kApart;
  // the fiber that had it before never returned from its functions
  ASAN_UNPOISON_MEMORY_REGION(stack, kStack);
  std::memset(stack + kStack - kPad - kFilled, kPoison, kFilled);
  context->stack = stack;
  context->stack_size = kStack;
  context->pad = &pads_[number];
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
