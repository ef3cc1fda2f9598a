// What this machine's memory gives to loops with nothing in them, beside the columns of fused AdamW.
//
//   g++ -O3 -mavx2 -pthread bench/speed/streams.cpp -o streams && ./streams
//
// Columns of 50M floats; a pass reads some and writes some of those back, on two threads. In each
// round every line is timed once, from a cold cache; its ratio to AdamW's is taken within the round.
// Prints medians. A step of YellowFin or of LAMB without its clip is two of these passes. Results: bench/NOTES.md.
#include <immintrin.h>
#include <sys/mman.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <functional>
#include <string>
#include <thread>
#include <vector>

constexpr long kLength = 50'000'000, kStride = 4096, kFlushed = 1L << 26;
constexpr int kRounds = 25;
volatile float sink;

float* column() {
  const size_t bytes = kLength * sizeof(float);
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  madvise(memory, bytes, MADV_NOHUGEPAGE);
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

// The same on two threads, each with its half.
template <int kRead, int kWritten, int kPlaces>
void pass(const std::vector<float*>& columns) {
  std::thread half([&] { pass<kRead, kWritten, kPlaces>(columns.data(), kLength / 2, kLength); });
  pass<kRead, kWritten, kPlaces>(columns.data(), 0, kLength / 2);
  half.join();
}

struct Line {
  std::string name;
  int columns_read, columns_written;
  std::function<void()> run;
  std::vector<double> seconds = {}, ratios = {};
};

double timed(const std::function<void()>& run) {
  static const std::vector<float> flushed(kFlushed, 1.0f);
  float sum = 0.0f;
  for (long i = 0; i < kFlushed; i += 16) sum += flushed[i];
  sink = sum;
  const auto start = std::chrono::steady_clock::now();
  run();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

int main() {
  float *g = column(), *p = column(), *v = column(), *average = column(), *m = column(),
        *s = column();
  const std::vector<float*> published_read = {g, average}, published_apply = {p, v, average, g};
  const std::vector<float*> sketch_read = {g}, sketch_apply = {p, v, g}, adamw = {p, m, s, g};
  const std::vector<float*> lamb_update_state = {m, s, p, g}, lamb_apply = {p, m, s};
  std::vector<Line> lines = {
      {"p m s, read g: AdamW", 4, 3, [&] { pass<4, 3, 1>(adamw); }},
      {"read g: sketch measure", 1, 0, [&] { pass<1, 0, 1>(sketch_read); }},
      {"the same, 4 places in turn", 1, 0, [&] { pass<1, 0, 4>(sketch_read); }},
      {"p v, read g: sketch apply", 3, 2, [&] { pass<3, 2, 1>(sketch_apply); }},
      {"the same, 2 places in turn", 3, 2, [&] { pass<3, 2, 2>(sketch_apply); }},
      {"sketch, both passes", 4, 2,
       [&] { pass<1, 0, 4>(sketch_read), pass<3, 2, 1>(sketch_apply); }},
      {"read g average: published measure", 2, 0, [&] { pass<2, 0, 1>(published_read); }},
      {"the same, 2 places in turn", 2, 0, [&] { pass<2, 0, 2>(published_read); }},
      {"the same, 4 places in turn", 2, 0, [&] { pass<2, 0, 4>(published_read); }},
      {"p v average, read g: published apply", 4, 3, [&] { pass<4, 3, 1>(published_apply); }},
      {"the same, 2 places in turn", 4, 3, [&] { pass<4, 3, 2>(published_apply); }},
      {"published, both passes", 6, 3,
       [&] { pass<2, 0, 2>(published_read), pass<4, 3, 1>(published_apply); }},
      {"m s, read p g: LAMB update_state", 4, 2, [&] { pass<4, 2, 1>(lamb_update_state); }},
      {"p, read m s: LAMB apply", 3, 1, [&] { pass<3, 1, 1>(lamb_apply); }},
      {"LAMB, both passes", 7, 3,
       [&] { pass<4, 2, 1>(lamb_update_state), pass<3, 1, 1>(lamb_apply); }},
      {"LAMB, with the clip's read", 8, 3,
       [&] {
         pass<1, 0, 4>(sketch_read), pass<4, 2, 1>(lamb_update_state), pass<3, 1, 1>(lamb_apply);
       }},
  };
  for (int round = 0; round < kRounds; ++round)
    for (Line& line : lines) {
      line.seconds.push_back(timed(line.run));
      line.ratios.push_back(line.seconds.back() / lines[0].seconds.back());
    }
  std::printf("%-36s %8s %9s %9s %8s\n", "columns", "ms", "GB/s", "read", "x AdamW");
  for (const Line& line : lines) {
    const double seconds = median(line.seconds), gigabytes = 4e-9 * kLength;
    std::printf("%-36s %8.1f %9.1f %9.1f %8.3f\n", line.name.c_str(), 1e3 * seconds,
                gigabytes * (line.columns_read + line.columns_written) / seconds,
                gigabytes * line.columns_read / seconds, median(line.ratios));
  }
}
