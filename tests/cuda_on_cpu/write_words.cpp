// Words written at a stride, in as many launches as they take.
#include <vector>

#include "check.h"
#include "cuda/driver.h"
#include "queue.h"

namespace yfk {

void check_write_words(Random& random) {
  // around what the small launch carries, and the large one; then two launches, and three
  for (const int64_t count : {0, 1, 127, 129, 480, 481, 4000, 4001, 8001}) {
    for (const int64_t stride : {1, 12}) {
      for (const auto& schedule : one_of_each(random)) {
        cuda_on_cpu::schedule = schedule;
        constexpr int64_t kUntouched = -1;
        std::vector<int64_t> words(count), expected(count * stride + 1, kUntouched);
        for (int64_t i = 0; i < count; ++i) {
          words[i] = int64_t(random() >> 1);
          expected[i * stride] = words[i];
        }
        std::vector<int64_t> got(expected.size(), kUntouched);
        cuda::write_words(got.data(), stride, words.data(), count, kQueue);
        EXPECT(got == expected, count << " words at stride " << stride);
      }
    }
  }
}

}  // namespace yfk
