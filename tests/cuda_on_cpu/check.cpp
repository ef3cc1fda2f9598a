// check SUBJECT SEED: runs the CUDA kernels of one subject on the processor, and compares what they
// leave behind with what the CPU driver leaves.
#include "check.h"

#include <cstdio>
#include <cstdlib>
#include <map>

namespace yfk {
namespace {

int failures = 0;

}  // namespace

void report(const char* file, int line, const std::string& what) {
  constexpr int kPrinted = 20;
  if (++failures <= kPrinted) std::printf("%s:%d: %s\n", file, line, what.c_str());
}

int run(const std::string& subject, unsigned long long seed) {
  const std::map<std::string, void (*)(Random&)> checks = {{"measure", check_measure},
                                                           {"apply", check_apply},
                                                           {"tune", check_tune},
                                                           {"write_words", check_write_words}};
  const auto check = checks.find(subject);
  if (check == checks.end()) {
    std::fprintf(stderr, "SUBJECT=%s is unknown\n", subject.c_str());
    return 2;
  }
  Random random(seed);
  check->second(random);
  std::printf("%s: %d failures\n", subject.c_str(), failures);
  return failures != 0;
}

}  // namespace yfk

int main(int argc, char** argv) {
  if (argc == 3) return yfk::run(argv[1], std::strtoull(argv[2], nullptr, 10));
  std::fprintf(stderr, "usage: %s SUBJECT SEED\n", argv[0]);
  return 2;
}
