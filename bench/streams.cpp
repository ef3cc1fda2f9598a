// What this machine's memory gives to loops with nothing in them: the floor under every pass of a step.
//
//   g++ -O3 -mavx2 -pthread bench/streams.cpp -o streams && ./streams
//
// Columns of 50M floats; some are read, some of those written back, two threads, a cold cache before
// every repeat. Prints median time and GB/s, counted and read alone. Results: bench/NOTES.md.
#include <immintrin.h>
#include <sys/mman.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <thread>
#include <vector>

constexpr long kLength = 50'000'000, kStride = 4096, kFlushed = 1L << 24;
constexpr int kRepeats = 9;
volatile float sink;

float* column(bool large_pages) {
  const size_t bytes = kLength * sizeof(float);
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  madvise(memory, bytes, large_pages ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
  float* floats = static_cast<float*>(memory);
  std::fill_n(floats, kLength, 1e-3f);
  return floats;
}

// Reads kRead columns and writes the first kWritten of them, kPlaces places in turn.
template <int kRead, int kWritten, int kPlaces>
void pass(float* const* columns, long begin, long end) {
  const __m256 factor = _mm256_set1_ps(0.999f);
  __m256 total = _mm256_setzero_ps();
  for (long block = begin; block + kPlaces * kStride <= end; block += kPlaces * kStride)
    for (long i = block; i < block + kStride; i += 8)
      for (int place = 0; place < kPlaces; ++place)
        for (int c = 0; c < kRead; ++c) {
          float* at = columns[c] + i + place * kStride;
          const __m256 x = _mm256_loadu_ps(at);
          total = _mm256_add_ps(total, x);
          if (c < kWritten) _mm256_storeu_ps(at, _mm256_mul_ps(factor, x));
        }
  sink = total[0];
}

template <int kRead, int kWritten, int kPlaces>
void time_pass(const char* name, std::vector<float*> columns) {
  static const std::vector<float> flushed(kFlushed, 1.0f);
  std::vector<double> seconds;
  for (int repeat = 0; repeat < kRepeats; ++repeat) {
    float sum = 0.0f;
    for (long i = 0; i < kFlushed; i += 16) sum += flushed[i];
    sink = sum;
    const auto start = std::chrono::steady_clock::now();
    std::thread half([&] { pass<kRead, kWritten, kPlaces>(columns.data(), kLength / 2, kLength); });
    pass<kRead, kWritten, kPlaces>(columns.data(), 0, kLength / 2);
    half.join();
    seconds.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  std::sort(seconds.begin(), seconds.end());
  const double median = seconds[kRepeats / 2], read = 4e-9 * kLength * kRead;
  const double counted = read + 4e-9 * kLength * kWritten;
  std::printf("%-34s places %d  %6.1f ms  counted %5.1f GB/s  read %5.1f GB/s\n", name, kPlaces,
              1e3 * median, counted / median, read / median);
}

int main() {
  // parameters and gradients come on small pages, the optimizer's state on large ones
  float *g = column(false), *p = column(false), *v = column(true), *average = column(true);
  float *m = column(false), *s = column(false);
  time_pass<1, 0, 1>("read g (sketch measure)", {g});
  time_pass<1, 0, 4>("read g (sketch measure)", {g});
  time_pass<2, 0, 1>("read g, average (exact measure)", {g, average});
  time_pass<2, 0, 4>("read g, average (exact measure)", {g, average});
  time_pass<3, 2, 1>("p v, read g (sketch apply)", {p, v, g});
  time_pass<3, 2, 2>("p v, read g (sketch apply)", {p, v, g});
  time_pass<4, 3, 1>("p v average, read g (exact apply)", {p, v, average, g});
  time_pass<4, 3, 2>("p v average, read g (exact apply)", {p, v, average, g});
  time_pass<4, 3, 1>("p m s, read g (AdamW)", {p, m, s, g});
}
