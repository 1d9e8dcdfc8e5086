// Kernels for CPUs, called through XLA's foreign function interface where XLA's own programs are slow: convolution with
// max-pool, bias and ReLU, and the LSTM recurrence, each with its gradient; Adam on a large matrix whose gradient has a
// low rank. Every handler checks the shapes and attributes that it is given before it touches memory.
//
// All products go through one tile: kRows rows by kPanel columns that stay in registers. A convolution over time is such
// a product without a copy, since frames f … f + width − 1 of a row-major array are one row of width · channels values,
// and the next row begins one frame later. Sums are taken in an order that does not depend on the number of threads.
//
// Letters as in the package: B batch, F frames, M channels in, C filters, P pooled rows, T steps, H units.

#include <algorithm>
#include <atomic>
#include <cmath>
#include <condition_variable>
#include <cstdint>
#include <cstring>
#include <functional>
#include <initializer_list>
#include <limits>
#include <memory>
#include <mutex>
#include <vector>

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

#include "xla/ffi/api/ffi.h"

namespace {

namespace ffi = xla::ffi;
using Floats = ffi::Buffer<ffi::F32>;
using Bytes = ffi::Buffer<ffi::U8>;
using FloatsOut = ffi::ResultBuffer<ffi::F32>;
using BytesOut = ffi::ResultBuffer<ffi::U8>;

#if defined(__AVX512F__)
constexpr int64_t kLanes = 16, kRows = 12;  // 24 of 32 registers hold sums
#else
constexpr int64_t kLanes = 8, kRows = 6;  // 12 of 16
#endif
constexpr int64_t kPanel = 2 * kLanes;  // columns of a tile
constexpr int64_t kPool = 3;
constexpr uint8_t kDead = 3;  // ReLU has cut the maximum off; 0, 1, 2 tell which of the three it was

#define REQUIRE(condition, text) \
  if (!(condition)) return ffi::Error::InvalidArgument(text)

// Whether the dimensions of a buffer are these.
template <typename Buffer>
bool Has(const Buffer& buffer, std::initializer_list<int64_t> shape) {
  const auto dims = buffer.dimensions();
  return std::equal(dims.begin(), dims.end(), shape.begin(), shape.end());
}

typedef float Vec __attribute__((vector_size(4 * kLanes)));
typedef int32_t Int __attribute__((vector_size(4 * kLanes)));
typedef uint8_t Byte __attribute__((vector_size(kLanes)));

// Loads and stores of n ≤ kLanes values; what lies behind them is neither read nor written.
inline Vec Load(const float* from, int64_t n = kLanes) {
  Vec v{};
#if defined(__AVX512F__)
  if (n < kLanes) return (Vec)_mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), from);
#else
  if (n < kLanes) {
    for (int64_t i = 0; i < n; ++i) v[i] = from[i];
    return v;
  }
#endif
  std::memcpy(&v, from, sizeof(v));
  return v;
}

inline void Store(float* to, Vec v, int64_t n = kLanes) {
#if defined(__AVX512F__)
  if (n < kLanes) return _mm512_mask_storeu_ps(to, (__mmask16)((1u << n) - 1), (__m512)v);
#endif
  std::memcpy(to, &v, n < kLanes ? 4 * std::max<int64_t>(n, 0) : sizeof(v));
}

inline int64_t Clip(int64_t n) { return std::clamp<int64_t>(n, 0, kLanes); }

// A matrix as panels of kPanel columns, [panels, depth, kPanel], filled up with zeros.
class Panels {
 public:
  template <typename At>  // At(k, column) gives the value
  Panels(int64_t depth, int64_t columns, At at)
      : columns(columns), depth_(depth), values_((columns + kPanel - 1) / kPanel * depth * kPanel) {
    for (int64_t first = 0; first < columns; first += kPanel) {
      for (int64_t k = 0; k < depth; ++k) {
        float* to = &values_[first * depth + k * kPanel];
        for (int64_t c = 0; c < std::min(kPanel, columns - first); ++c) to[c] = at(k, first + c);
      }
    }
  }
  const float* panel(int64_t column) const { return &values_[column * depth_]; }
  const int64_t columns;

 private:
  int64_t depth_;
  std::vector<float> values_;
};

// Where the rows of a left factor lie: value k of row r is at[r · row + k · step].
struct Left {
  const float* at;
  int64_t row, step;
};

// out[r, :n] = start[r, :n] + Σ_k left[r, k] · right[k, :n]; without `start` it begins at 0.
template <int R>
void Tile(Left left, const float* right, int64_t depth, const float* start, int64_t start_row, float* out,
          int64_t out_row, int64_t n) {
  const int64_t n0 = Clip(n), n1 = Clip(n - kLanes);
  Vec sum[R][2];
  for (int r = 0; r < R; ++r) {
    sum[r][0] = start ? Load(start + r * start_row, n0) : Vec{};
    sum[r][1] = start ? Load(start + r * start_row + kLanes, n1) : Vec{};
  }
  constexpr int kBases = (R + 2) / 3;  // so that all rows are addressed from few registers
  const float* base[kBases];
  for (int b = 0; b < kBases; ++b) base[b] = left.at + 3 * b * left.row;
  for (int64_t k = 0; k < depth; ++k) {
    const Vec right0 = Load(right), right1 = Load(right + kLanes);
    right += kPanel;
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const float value = base[r / 3][(r % 3) * left.row];
      sum[r][0] += value * right0;
      sum[r][1] += value * right1;
    }
    for (int b = 0; b < kBases; ++b) base[b] += left.step;
  }
  for (int r = 0; r < R; ++r) {
    Store(out + r * out_row, sum[r][0], n0);
    if (n1) Store(out + r * out_row + kLanes, sum[r][1], n1);
  }
}

template <int R = kRows>
void Remaining(int64_t rows, Left left, const float* right, int64_t depth, const float* start, int64_t start_row,
               float* out, int64_t out_row, int64_t n) {
  if constexpr (R > 0) {
    if (rows == R) return Tile<R>(left, right, depth, start, start_row, out, out_row, n);
    Remaining<R - 1>(rows, left, right, depth, start, start_row, out, out_row, n);
  }
}

// `Tile` for any number of rows.
void Multiply(int64_t rows, Left left, const float* right, int64_t depth, const float* start, int64_t start_row,
              float* out, int64_t out_row, int64_t n) {
  for (int64_t r = 0; r < rows; r += kRows) {
    const float* first = start ? start + r * start_row : nullptr;
    Remaining(std::min(kRows, rows - r), {left.at + r * left.row, left.row, left.step}, right, depth, first, start_row,
              out + r * out_row, out_row, n);
  }
}

// Calls body(0) … body(parts − 1), side by side where XLA lends threads. Nobody waits for a thread that has not begun:
// whoever is free takes the next part, the caller too.
void Parallel(ffi::ThreadPool& pool, int64_t parts, const std::function<void(int64_t)>& body) {
  struct State {
    std::atomic<int64_t> next{0};
    int64_t done = 0;
    std::mutex mutex;
    std::condition_variable finished;
  };
  auto state = std::make_shared<State>();
  auto work = [state, parts, &body] {  // `body` is gone once all parts are done, and is then not touched
    for (int64_t part; (part = state->next.fetch_add(1)) < parts;) {
      body(part);
      std::lock_guard<std::mutex> lock(state->mutex);
      if (++state->done == parts) state->finished.notify_all();
    }
  };
  const int64_t helpers = std::min(pool.num_threads(), parts) - 1;
  for (int64_t n = 0; n < helpers; ++n) pool.Schedule(std::function<void()>(work));
  work();
  std::unique_lock<std::mutex> lock(state->mutex);
  state->finished.wait(lock, [&] { return state->done == parts; });
}

float* Scratch(int64_t size) {
  thread_local std::vector<float> values;
  if (static_cast<int64_t>(values.size()) < size) values.resize(size);
  return values.data();
}

struct Convolution {
  int64_t batch, frames, channels, width, filters, stride;
  int64_t rows() const { return frames - width + 1; }
  int64_t pooled() const { return (rows() - kPool) / stride + 1; }  // rows() >= kPool, see ReadSizes
};

// Sets `s` from x [B, F, M], kernel [width, M, C], y [B, P, C] and the stride; an error unless they fit together.
template <typename X, typename Kernel, typename Y>
ffi::Error ReadSizes(const X& x, const Kernel& kernel, const Y& y, int64_t stride, Convolution* s) {
  const auto in = x.dimensions(), k = kernel.dimensions();
  REQUIRE(in.size() == 3 && k.size() == 3, "convolution: x has to be [B, F, M] and the kernel [width, M, C]");
  *s = {in[0], in[1], in[2], k[0], k[2], stride};
  REQUIRE(s->batch >= 1 && s->channels >= 1 && s->width >= 1 && s->filters >= 1,
          "convolution: batch, channels, width and filters have to be at least 1");
  REQUIRE(stride >= 1, "convolution: the stride has to be at least 1");
  REQUIRE(s->rows() >= kPool, "convolution: x has fewer frames than the width of the kernel + 2");
  REQUIRE(s->frames <= std::numeric_limits<int32_t>::max() / s->channels, "convolution: x has too many frames");
  REQUIRE(k[1] == s->channels, "convolution: the kernel is for another number of channels than x has");
  REQUIRE(Has(y, {s->batch, s->pooled(), s->filters}), "convolution: pooled arrays have to be [B, P, C]");
  return ffi::Error::Success();
}

// y = relu(max-pool(conv(x, kernel)) + bias) [B, P, C]; which [B, P, C] tells whose the maximum is.
ffi::Error ConvolveForward(ffi::ThreadPool pool, Floats x, Floats kernel, Floats bias, int64_t stride, FloatsOut y,
                           BytesOut which) {
  Convolution s;
  if (ffi::Error error = ReadSizes(x, kernel, *y, stride, &s); error.failure()) return error;
  REQUIRE(Has(bias, {s.filters}), "convolution: the bias has to be [C]");
  REQUIRE(Has(*which, {s.batch, s.pooled(), s.filters}), "convolution: places of the maxima have to be [B, P, C]");
  const int64_t depth = s.width * s.channels, rows = s.rows(), pooled = s.pooled();
  const float* weights = kernel.typed_data();
  const Panels right(depth, s.filters, [&](int64_t d, int64_t c) { return weights[d * s.filters + c]; });
  Parallel(pool, s.batch, [&](int64_t b) {
    float* sums = Scratch(rows * kPanel);
    for (int64_t first = 0; first < s.filters; first += kPanel) {
      const float* frames = x.typed_data() + b * s.frames * s.channels;
      Multiply(rows, {frames, s.channels, 1}, right.panel(first), depth, nullptr, 0, sums, kPanel, kPanel);
      for (int64_t half = 0; half < kPanel && first + half < s.filters; half += kLanes) {
        const int64_t c = first + half, n = Clip(s.filters - c);
        const Vec add = Load(bias.typed_data() + c, n);
        for (int64_t p = 0; p < pooled; ++p) {
          const float* row = sums + p * s.stride * kPanel + half;
          Vec best = Load(row);
          Int place{};
          for (int offset = 1; offset < kPool; ++offset) {
            const Vec other = Load(row + offset * kPanel);
            const Int better = (other > best) | (other != other);  // NaN stays
            best = better ? other : best;
            place = better ? offset - Int{} : place;
          }
          best += add;
          const Int dead = best <= 0.0f;
          const int64_t to = (b * pooled + p) * s.filters + c;
          Store(y->typed_data() + to, dead ? Vec{} : best, n);
          const Byte small = __builtin_convertvector(dead ? kDead - Int{} : place, Byte);
          std::memcpy(which->typed_data() + to, &small, n);
        }
      }
    }
  });
  return ffi::Error::Success();
}

// Spreads the gradients of one utterance's pooled rows over the rows of the convolution: sums [margin + rows + margin,
// kPanel].
void Unpool(const Convolution& s, const uint8_t* which, const float* grads, int64_t first, int64_t margin,
            float* sums) {
  std::memset(sums, 0, 4 * (s.rows() + 2 * margin) * kPanel);
  for (int64_t half = 0; half < kPanel && first + half < s.filters; half += kLanes) {
    const int64_t n = Clip(s.filters - first - half);
    for (int64_t p = 0; p < s.pooled(); ++p) {
      const int64_t from = p * s.filters + first + half;
      Byte small{};
      std::memcpy(&small, which + from, n);
      const Int place = __builtin_convertvector(small, Int);
      const Vec value = Load(grads + from, n);
      for (int offset = 0; offset < kPool; ++offset) {
        float* row = sums + (margin + p * s.stride + offset) * kPanel + half;
        Store(row, Load(row) + (place == offset ? value : Vec{}));
      }
    }
  }
}

// Eight values, whatever the machine: frames of a multiple of them are then read without crossing lines of the cache.
constexpr int64_t kSome = 8;
typedef float Some __attribute__((vector_size(4 * kSome)));
#if defined(__AVX512F__)
constexpr int64_t kSums = 25;  // of 32 registers
#else
constexpr int64_t kSums = 12;
#endif

// The sum of values[:count]; kSome values behind them are overwritten.
float Sum(float* values, int64_t count) {
  Some sum{};
  std::memset(values + count, 0, sizeof(sum));
  for (int64_t n = 0; n < count; n += kSome) {
    Some v;
    std::memcpy(&v, values + n, sizeof(v));
    sum += v;
  }
  return ((sum[0] + sum[4]) + (sum[2] + sum[6])) + ((sum[1] + sum[5]) + (sum[3] + sum[7]));
}

// to[:size] += Σ_n values[n] · x[starts[n] : starts[n] + size], kSome ≤ size ≤ kSome · N. The last sums may repeat some
// of those before them, which are then left out.
template <int N = kSums>
void AddRows(const float* x, const int32_t* starts, const float* values, int64_t count, float* to, int64_t size) {
  if constexpr (N > 1) {
    if (size <= kSome * (N - 1)) return AddRows<N - 1>(x, starts, values, count, to, size);
  }
  const int64_t last = size - kSome;
  Some sum[N] = {};
  for (int64_t n = 0; n < count; ++n) {
    const float* from = x + starts[n];
#pragma GCC unroll 32
    for (int i = 0; i < N; ++i) {
      Some v;
      std::memcpy(&v, from + (i < N - 1 ? i * kSome : last), sizeof(v));
      sum[i] += values[n] * v;
    }
  }
  for (int i = 0; i < N - 1; ++i) {
    for (int64_t lane = 0; lane < kSome; ++lane) to[i * kSome + lane] += sum[i][lane];
  }
  for (int64_t at = (N - 1) * kSome; at < size; ++at) to[at] += sum[N - 1][at - last];
}

// Gradients of kernel [width, M, C] and bias [C]. Of the rows under a pool only that of its maximum has a gradient: what
// is added up are windows of frames, filter by filter, half as many products as there are rows.
ffi::Error ConvolveKernelGradient(ffi::ThreadPool pool, Floats x, Bytes which, Floats grads, int64_t stride,
                                  FloatsOut kernel, FloatsOut bias) {
  constexpr int64_t kParts = 8;  // always, so that the order of the sum does not depend on the threads
  constexpr int64_t kBlock = 48;  // pooled rows whose frames stay in the first cache for all filters
  Convolution s;
  if (ffi::Error error = ReadSizes(x, *kernel, grads, stride, &s); error.failure()) return error;
  REQUIRE(Has(which, {s.batch, s.pooled(), s.filters}), "convolution: places of the maxima have to be [B, P, C]");
  REQUIRE(Has(*bias, {s.filters}), "convolution: the bias has to be [C]");
  const int64_t depth = s.width * s.channels, parts = std::min(kParts, s.batch);
  const int64_t size_of_part = (depth + 1) * s.filters, passes = (depth + kSome * kSums - 1) / (kSome * kSums);
  std::vector<float> sums(parts * size_of_part);  // the kernel of every filter, then the bias
  Parallel(pool, parts, [&](int64_t part) {
    int32_t starts[kBlock];
    float values[kBlock + kSome];
    for (int64_t b = part * s.batch / parts; b < (part + 1) * s.batch / parts; ++b) {
      const float* frames = x.typed_data() + b * s.frames * s.channels;
      for (int64_t first = 0; first < s.pooled(); first += kBlock) {
        for (int64_t c = 0; c < s.filters; ++c) {
          float* to = &sums[part * size_of_part + c * depth];
          int64_t count = 0;
          for (int64_t p = first; p < std::min(first + kBlock, s.pooled()); ++p) {
            const int64_t at = (b * s.pooled() + p) * s.filters + c;
            const int64_t offset = which.typed_data()[at];
            starts[count] = static_cast<int32_t>((p * s.stride + offset) * s.channels);
            values[count] = grads.typed_data()[at];
            count += offset < kDead;
          }
          sums[part * size_of_part + depth * s.filters + c] += Sum(values, count);
          for (int64_t pass = 0; pass < passes; ++pass) {
            const int64_t from = pass * depth / passes, size = (pass + 1) * depth / passes - from;
            if (size >= kSome) {
              AddRows(frames + from, starts, values, count, to + from, size);
            } else {
              for (int64_t n = 0; n < count; ++n) {
                for (int64_t d = from; d < from + size; ++d) to[d] += values[n] * frames[starts[n] + d];
              }
            }
          }
        }
      }
    }
  });
  for (int64_t part = 1; part < parts; ++part) {
    for (int64_t n = 0; n < size_of_part; ++n) sums[n] += sums[part * size_of_part + n];
  }
  for (int64_t c = 0; c < s.filters; ++c) {
    for (int64_t d = 0; d < depth; ++d) kernel->typed_data()[d * s.filters + c] = sums[c * depth + d];
    bias->typed_data()[c] = sums[depth * s.filters + c];
  }
  return ffi::Error::Success();
}

// Gradient of the inputs [B, F, M].
ffi::Error ConvolveInputsGradient(ffi::ThreadPool pool, Floats kernel, Bytes which, Floats grads, int64_t stride,
                                  FloatsOut x) {
  Convolution s;
  if (ffi::Error error = ReadSizes(*x, kernel, grads, stride, &s); error.failure()) return error;
  REQUIRE(Has(which, {s.batch, s.pooled(), s.filters}), "convolution: places of the maxima have to be [B, P, C]");
  const int64_t depth = s.width * kPanel, margin = s.width - 1;
  const float* weights = kernel.typed_data();
  std::vector<Panels> right;  // for every panel of filters: [offset, filter] by channel, offsets turned round
  for (int64_t first = 0; first < s.filters; first += kPanel) {
    right.emplace_back(depth, s.channels, [&](int64_t d, int64_t m) {
      const int64_t c = first + d % kPanel;
      return c < s.filters ? weights[((margin - d / kPanel) * s.channels + m) * s.filters + c] : 0.0f;
    });
  }
  Parallel(pool, s.batch, [&](int64_t b) {
    float* spread = Scratch((s.rows() + 2 * margin) * kPanel);
    const int64_t from = b * s.pooled() * s.filters;
    float* to = x->typed_data() + b * s.frames * s.channels;
    for (int64_t first = 0; first < s.filters; first += kPanel) {
      Unpool(s, which.typed_data() + from, grads.typed_data() + from, first, margin, spread);
      for (int64_t m = 0; m < s.channels; m += kPanel) {
        const float* weight = right[first / kPanel].panel(m);
        Multiply(s.frames, {spread, kPanel, 1}, weight, depth, first ? to + m : nullptr, s.channels, to + m, s.channels,
                 std::min(kPanel, s.channels - m));
      }
    }
  });
  return ffi::Error::Success();
}

// e^x to about 1e-7, relative; NaN stays.
inline Vec Exp(Vec x) {
  x = x < -87.0f ? -87.0f + Vec{} : x;
  x = x > 88.0f ? 88.0f + Vec{} : x;
  const Vec shifted = x * 1.44269504f + 12582912.0f;  // 1.5 · 2^23: the sum is rounded to a whole number
  const Vec whole = shifted - 12582912.0f;
  const Vec r = (x - whole * 0.693359375f) + whole * 2.12194440e-4f;
  Vec p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  Int bits;
  std::memcpy(&bits, &shifted, sizeof(bits));
  bits = (bits + 127) << 23;
  Vec scale;
  std::memcpy(&scale, &bits, sizeof(scale));
  return p * scale;
}

inline Vec Sigmoid(Vec x) { return 1.0f / (1.0f + Exp(-x)); }

inline Vec Tanh(Vec x) {
  // Near 0 the quotient would lose digits: there the odd polynomial is taken.
  const Vec e = Exp(2.0f * x), far = (e - 1.0f) / (e + 1.0f), s = x * x;
  Vec p = s * -5.70498872745e-3f + 2.06390887954e-2f;
  p = p * s + -5.37397155531e-2f;
  p = p * s + 1.33314422036e-1f;
  p = p * s + -3.33332819422e-1f;
  const Vec near = p * s * x + x;
  return s < 0.390625f ? near : far;
}

struct Rows {
  int64_t first, count;
};

// Rows of the batch, divided among the threads; a row's values do not depend on how.
Rows Divided(int64_t part, int64_t parts, int64_t rows) {
  const int64_t first = part * rows / parts;
  return {first, (part + 1) * rows / parts - first};
}

int64_t CountParts(ffi::ThreadPool& pool, int64_t rows) {
  return std::max<int64_t>(1, std::min(pool.num_threads(), rows / 4));
}

// An error unless T, B, H >= 1, gates are [T, B, 4 H], the recurrent kernel [H, 4 H] and states [T, B, H].
template <typename Gates, typename State>
ffi::Error CheckLstm(const Gates& gates, const Floats& kernel, std::initializer_list<const State*> states) {
  const auto dims = gates.dimensions(), k = kernel.dimensions();
  REQUIRE(dims.size() == 3 && k.size() == 2, "lstm: gates have to be [T, B, 4 H] and the recurrent kernel [H, 4 H]");
  REQUIRE(dims[0] >= 1 && dims[1] >= 1 && k[0] >= 1, "lstm: steps, batch and units have to be at least 1");
  REQUIRE(k[1] == 4 * k[0] && dims[2] == k[1], "lstm: gates and recurrent kernel have to be 4 H wide");
  for (const State* state : states) {
    REQUIRE(Has(*state, {dims[0], dims[1], k[0]}), "lstm: states have to be [T, B, H]");
  }
  return ffi::Error::Success();
}

// hidden, cell [T, B, H] and gates [T, B, 4 H] of projected inputs [T, B, 4 H]; gates i, f, g, o.
ffi::Error LstmForward(ffi::ThreadPool pool, Floats projected, Floats kernel, FloatsOut hidden, FloatsOut cell,
                       FloatsOut gates) {
  if (ffi::Error error = CheckLstm<Floats, Floats>(projected, kernel, {&*hidden, &*cell}); error.failure()) return error;
  const auto dims = projected.dimensions();
  REQUIRE(Has(*gates, {dims[0], dims[1], dims[2]}), "lstm: gates have to be [T, B, 4 H]");
  const int64_t steps = dims[0], batch = dims[1], width = dims[2], units = width / 4;
  const float* weights = kernel.typed_data();
  const Panels right(units, width, [&](int64_t k, int64_t c) { return weights[k * width + c]; });
  const int64_t parts = CountParts(pool, batch);
  Parallel(pool, parts, [&](int64_t part) {
    const Rows rows = Divided(part, parts, batch);
    for (int64_t t = 0; t < steps; ++t) {
      const int64_t row = t * batch + rows.first;
      const float* from = projected.typed_data() + row * width;
      float* z = gates->typed_data() + row * width;
      if (t == 0) {
        std::memcpy(z, from, 4 * rows.count * width);
      } else {
        const Left left{hidden->typed_data() + (row - batch) * units, units, 1};
        for (int64_t c = 0; c < width; c += kPanel) {
          Multiply(rows.count, left, right.panel(c), units, from + c, width, z + c, width, std::min(kPanel, width - c));
        }
      }
      for (int64_t r = 0; r < rows.count; ++r, z += width) {
        for (int64_t u = 0; u < units; u += kLanes) {
          const int64_t n = Clip(units - u), at = (row + r) * units + u;
          const Vec i = Sigmoid(Load(z + u, n)), f = Sigmoid(Load(z + units + u, n));
          const Vec g = Tanh(Load(z + 2 * units + u, n)), o = Sigmoid(Load(z + 3 * units + u, n));
          const Vec last = t ? Load(cell->typed_data() + (at - batch * units), n) : Vec{};
          const Vec c = f * last + i * g;
          Store(cell->typed_data() + at, c, n);
          Store(hidden->typed_data() + at, o * Tanh(c), n);
          Store(z + u, i, n);
          Store(z + units + u, f, n);
          Store(z + 2 * units + u, g, n);
          Store(z + 3 * units + u, o, n);
        }
      }
    }
  });
  return ffi::Error::Success();
}

// Gradient of the projected inputs [T, B, 4 H] from that of the hidden states.
ffi::Error LstmBackward(ffi::ThreadPool pool, Floats cell, Floats gates, Floats kernel, Floats grads,
                        FloatsOut projected) {
  if (ffi::Error error = CheckLstm<Floats, Floats>(gates, kernel, {&cell, &grads}); error.failure()) return error;
  const auto dims = gates.dimensions();
  REQUIRE(Has(*projected, {dims[0], dims[1], dims[2]}), "lstm: projected inputs have to be [T, B, 4 H]");
  const int64_t steps = dims[0], batch = dims[1], width = dims[2], units = width / 4;
  const float* weights = kernel.typed_data();
  const Panels right(width, units, [&](int64_t k, int64_t c) { return weights[c * width + k]; });
  const int64_t parts = CountParts(pool, batch);
  Parallel(pool, parts, [&](int64_t part) {
    const Rows rows = Divided(part, parts, batch);
    float* grad_hidden = Scratch(2 * rows.count * units);
    float* grad_cell = grad_hidden + rows.count * units;
    std::memset(grad_hidden, 0, 8 * rows.count * units);
    for (int64_t t = steps - 1; t >= 0; --t) {
      const int64_t row = t * batch + rows.first;
      float* dz = projected->typed_data() + row * width;
      for (int64_t r = 0; r < rows.count; ++r) {
        const float* z = gates.typed_data() + (row + r) * width;
        float* d = dz + r * width;
        for (int64_t u = 0; u < units; u += kLanes) {
          const int64_t n = Clip(units - u), at = (row + r) * units + u, own = r * units + u;
          const Vec i = Load(z + u, n), f = Load(z + units + u, n);
          const Vec g = Load(z + 2 * units + u, n), o = Load(z + 3 * units + u, n);
          const Vec last = t ? Load(cell.typed_data() + (at - batch * units), n) : Vec{};
          const Vec tanh = Tanh(Load(cell.typed_data() + at, n));
          const Vec dh = Load(grad_hidden + own, n) + Load(grads.typed_data() + at, n);
          const Vec dc = Load(grad_cell + own, n) + dh * o * (1.0f - tanh * tanh);
          Store(d + u, dc * g * i * (1.0f - i), n);
          Store(d + units + u, dc * last * f * (1.0f - f), n);
          Store(d + 2 * units + u, dc * i * (1.0f - g * g), n);
          Store(d + 3 * units + u, dh * tanh * o * (1.0f - o), n);
          Store(grad_cell + own, dc * f, n);
        }
      }
      for (int64_t c = 0; t > 0 && c < units; c += kPanel) {
        Multiply(rows.count, {dz, width, 1}, right.panel(c), width, nullptr, 0, grad_hidden + c, units,
                 std::min(kPanel, units - c));
      }
    }
  });
  return ffi::Error::Success();
}

inline Vec Sqrt(Vec x) {
#if defined(__AVX512F__)
  return (Vec)_mm512_sqrt_ps((__m512)x);
#else
  for (int64_t i = 0; i < kLanes; ++i) x[i] = std::sqrt(x[i]);
  return x;
#endif
}

// Whether the dimensions of a buffer are those of `before`, but for the last ones, which are `last`.
template <typename Buffer>
bool HasAfter(const ffi::Span<const int64_t>& before, const Buffer& buffer, std::initializer_list<int64_t> last) {
  const auto dims = buffer.dimensions();
  const size_t leading = before.size() - 2;
  return dims.size() == leading + last.size() && std::equal(before.begin(), before.begin() + leading, dims.begin()) &&
         std::equal(last.begin(), last.end(), dims.begin() + leading);
}

// Adam on matrices [..., I, O] whose gradients are inputsᵀ · grads, of [..., B, I] and [..., B, O]. A gradient exists
// a few rows at a time, and parameters and moments are read and written once, where they lie.
// state [..., 4]: 0 leaves everything as it is; factor of the gradient; factors of both moments in the step.
ffi::Error AdamOfProduct(ffi::ThreadPool pool, Floats inputs, Floats grads, Floats state, Floats old_values,
                         Floats old_moments1, Floats old_moments2, float rate, float weight_decay, float decay1,
                         float rest1, float decay2, float rest2, float epsilon, FloatsOut values, FloatsOut moments1,
                         FloatsOut moments2) {
  constexpr int64_t kBlocks = 8;  // of rows, that a thread takes at a time
  const auto in = inputs.dimensions();
  REQUIRE(in.size() >= 2 && grads.dimensions().size() == in.size(), "adam: factors have to be [..., B, I], [..., B, O]");
  const int64_t batch = in[in.size() - 2], rows = in.back(), columns = grads.dimensions().back();
  REQUIRE(batch >= 1 && rows >= 1 && columns >= 1, "adam: B, I and O have to be at least 1");
  REQUIRE(HasAfter(in, grads, {batch, columns}), "adam: factors have to be [..., B, I] and [..., B, O]");
  REQUIRE(HasAfter(in, state, {4}), "adam: the state has to be [..., 4]");
  const Floats* old[] = {&old_values, &old_moments1, &old_moments2};
  const Floats* updated[] = {&*values, &*moments1, &*moments2};
  for (int n = 0; n < 3; ++n) {
    REQUIRE(HasAfter(in, *updated[n], {rows, columns}), "adam: parameters and moments have to be [..., I, O]");
    REQUIRE(old[n]->untyped_data() == updated[n]->untyped_data(), "adam: results have to lie where the operands lie");
  }
  const int64_t trials = static_cast<int64_t>(inputs.element_count()) / (batch * rows);
  const int64_t width = (columns + kPanel - 1) / kPanel * kPanel, block = kBlocks * kRows;
  for (int64_t trial = 0; trial < trials; ++trial) {
    const float* s = state.typed_data() + 4 * trial;
    const float scale = s[1], correct1 = s[2], correct2 = s[3];
    if (s[0] == 0) continue;
    const float* grad = grads.typed_data() + trial * batch * columns;
    const Panels right(batch, columns, [&](int64_t b, int64_t c) { return grad[b * columns + c]; });
    Parallel(pool, (rows + block - 1) / block, [&](int64_t part) {
      float* gradient = Scratch(kRows * width);
      for (int64_t first = part * block; first < std::min(rows, (part + 1) * block); first += kRows) {
        const int64_t count = std::min(kRows, rows - first);
        const Left left{inputs.typed_data() + trial * batch * rows + first, 1, rows};
        for (int64_t c = 0; c < columns; c += kPanel) {
          Multiply(count, left, right.panel(c), batch, nullptr, 0, gradient + c, width, kPanel);
        }
        for (int64_t r = 0; r < count; ++r) {
          for (int64_t c = 0; c < columns; c += kLanes) {
            const int64_t n = Clip(columns - c), at = (trial * rows + first + r) * columns + c;
            float *p = values->typed_data() + at, *m1 = moments1->typed_data() + at, *m2 = moments2->typed_data() + at;
            const Vec g = scale * Load(gradient + r * width + c, n), value = Load(p, n);
            const Vec mean = decay1 * Load(m1, n) + rest1 * g;
            const Vec square = decay2 * Load(m2, n) + rest2 * (g * g);
            const Vec step = correct1 * mean / (Sqrt(correct2 * square) + epsilon);
            Store(m1, mean, n);
            Store(m2, square, n);
            Store(p, value - rate * (step + weight_decay * value), n);
          }
        }
      }
    });
  }
  return ffi::Error::Success();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(convolve_forward, ConvolveForward,
                              ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<Floats>().Arg<Floats>().Arg<Floats>()
                                  .Attr<int64_t>("stride").Ret<Floats>().Ret<Bytes>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(convolve_kernel_gradient, ConvolveKernelGradient,
                              ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<Floats>().Arg<Bytes>().Arg<Floats>()
                                  .Attr<int64_t>("stride").Ret<Floats>().Ret<Floats>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(convolve_inputs_gradient, ConvolveInputsGradient,
                              ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<Floats>().Arg<Bytes>().Arg<Floats>()
                                  .Attr<int64_t>("stride").Ret<Floats>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(lstm_forward, LstmForward,
                              ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<Floats>().Arg<Floats>()
                                  .Ret<Floats>().Ret<Floats>().Ret<Floats>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(lstm_backward, LstmBackward,
                              ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<Floats>().Arg<Floats>().Arg<Floats>()
                                  .Arg<Floats>().Ret<Floats>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(adam_of_product, AdamOfProduct,
                              ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<Floats>().Arg<Floats>().Arg<Floats>()
                                  .Arg<Floats>().Arg<Floats>().Arg<Floats>().Attr<float>("rate")
                                  .Attr<float>("weight_decay").Attr<float>("decay1").Attr<float>("rest1")
                                  .Attr<float>("decay2").Attr<float>("rest2").Attr<float>("epsilon")
                                  .Ret<Floats>().Ret<Floats>().Ret<Floats>());
