// Shared by the native tests: a check that prints and counts failures, and random problems.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <random>
#include <vector>

#include "core/deform_conv.h"
#include "core/half.h"
#include "core/shape.h"

inline int failures = 0;

#define CHECK(condition)                                                    \
  do {                                                                      \
    if (!(condition)) {                                                     \
      ++failures;                                                           \
      std::printf("%s:%d: not true: %s\n", __FILE__, __LINE__, #condition); \
    }                                                                       \
  } while (false)

inline int report(const char* name) {
  std::printf("%s: %s\n", name, failures ? "FAILED" : "passed");
  return failures ? 1 : 0;
}

struct Size {
  int batch, height, width;
};

// 3x3, stride 1, padding 1, as in the network.
inline zsm::Shape square_shape(Size size, int channels = 64, int outputs = 64, int offset_groups = 8) {
  return {size.batch, channels, size.height, size.width, outputs, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1, offset_groups};
}

// Random linear tensors for a shape, with offsets of `reach` pixels.
template <typename T>
struct Problem {
  zsm::Shape shape;
  std::vector<T> x, offset_mask, weight, bias, out;

  explicit Problem(const zsm::Shape& s, float reach = 5) : shape(s) {
    const int64_t pixels = int64_t{s.batch} * zsm::output_height(s) * zsm::output_width(s);
    fill(x, int64_t{s.batch} * s.channels * s.height * s.width, 1);
    fill(offset_mask, pixels * zsm::offset_channels(s), reach);
    fill(weight, int64_t{s.outputs} * (s.channels / s.groups) * zsm::taps(s), 0.2f);
    fill(bias, s.outputs, 1);
    out.resize(static_cast<size_t>(pixels * s.outputs));
  }

  static constexpr zsm_type type() { return sizeof(T) == 2 ? ZSM_FLOAT16 : ZSM_FLOAT32; }

  zsm_deform_conv2d_tensors tensors() { return {x.data(), offset_mask.data(), weight.data(), bias.data(), out.data()}; }

  std::vector<T> reference() {
    const zsm_deform_conv2d_tensors t = tensors();
    CHECK(zsm_deform_conv2d_reference(&shape, type(), &t) == ZSM_OK);
    return out;
  }

 private:
  void fill(std::vector<T>& values, int64_t count, float scale) {
    std::normal_distribution<float> normal(0, scale);
    values.resize(static_cast<size_t>(count));
    for (T& value : values) value = zsm::from_float<T>(normal(random_));
  }

  std::mt19937 random_{1};
};

// The largest difference, relative to the largest value.
template <typename T>
float difference(const std::vector<T>& a, const std::vector<T>& b) {
  float most = 0, size = 1e-30f;
  for (size_t i = 0; i < a.size(); ++i) {
    const float d = std::abs(zsm::to_float(a[i]) - zsm::to_float(b[i]));
    if (std::isnan(d)) return d;
    most = std::max(most, d);
    size = std::max(size, std::abs(zsm::to_float(b[i])));
  }
  return most / size;
}

// (N,C,area) -> (N,area,C rounded up to 8), or back.
template <typename T>
std::vector<T> to_channels_last(const std::vector<T>& linear, int channels, int64_t area) {
  const int64_t pitch = (channels + 7) / 8 * 8, images = static_cast<int64_t>(linear.size()) / (channels * area);
  std::vector<T> result(static_cast<size_t>(images * area * pitch));
  for (int64_t i = 0; i < static_cast<int64_t>(linear.size()); ++i) {
    const int64_t n = i / (channels * area), c = i / area % channels, p = i % area;
    result[(n * area + p) * pitch + c] = linear[i];
  }
  return result;
}

template <typename T>
std::vector<T> to_linear(const std::vector<T>& channels_last, int channels, int64_t area) {
  const int64_t pitch = (channels + 7) / 8 * 8, images = static_cast<int64_t>(channels_last.size()) / (pitch * area);
  std::vector<T> result(static_cast<size_t>(images * channels * area));
  for (int64_t i = 0; i < static_cast<int64_t>(result.size()); ++i) {
    const int64_t n = i / (channels * area), c = i / area % channels, p = i % area;
    result[i] = channels_last[(n * area + p) * pitch + c];
  }
  return result;
}
