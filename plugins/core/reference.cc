// The deformable convolution straight from its definition. Every faster version is tested against it.
#include <vector>

#include "core/kernels.h"

namespace zsm {
namespace {

template <typename T>
double sample(const T* plane, const Shape& s, const Corners& corners) {
  double sum = 0;
  for (int i = 0; i < 4; ++i) {
    const int y = corners.y + i / 2, x = corners.x + i % 2;
    if (inside(y, s.height) && inside(x, s.width))
      sum += double{corners.weight[i]} * to_float(plane[int64_t{y} * s.width + x]);
  }
  return sum;
}

// The modulated samples of all channels and taps for output pixel (y, x).
template <typename T>
void sample_column(const Shape& s, const T* image, const T* offset_mask, int y, int x, double* column) {
  const int K = taps(s);
  const Strides om = strides(offset_channels(s), output_height(s), output_width(s), false);
  for (int c = 0; c < s.channels; ++c) {
    const int g = c / (s.channels / s.offset_groups);
    for (int k = 0; k < K; ++k) {
      const auto value = [&](int channel) { return to_float(offset_mask[om.at(0, channel, y, x)]); };
      const int origin_y = y * s.stride_h - s.pad_top + k / s.kernel_w * s.dilation_h;
      const int origin_x = x * s.stride_w - s.pad_left + k % s.kernel_w * s.dilation_w;
      const Position py = displace(origin_y, value(g * 2 * K + 2 * k));
      const Position px = displace(origin_x, value(g * 2 * K + 2 * k + 1));
      const float mask = sigmoid(value(mask_channel(s) + g * K + k));
      column[c * K + k] = sample(image + int64_t{c} * s.height * s.width, s, corners(py, px, mask));
    }
  }
}

}  // namespace

template <typename T>
void reference(const Shape& s, const Tensors<T>& t) {
  const int height = output_height(s), width = output_width(s), outputs = s.outputs / s.groups;
  const int64_t depth = int64_t{s.channels / s.groups} * taps(s);
  const Strides in = strides(s.channels, s.height, s.width, false);
  const Strides om = strides(offset_channels(s), height, width, false);
  const Strides out = strides(s.outputs, height, width, false);
  std::vector<double> column(static_cast<size_t>(depth * s.groups));

  for (int n = 0; n < s.batch; ++n) {
    for (int y = 0; y < height; ++y) {
      for (int x = 0; x < width; ++x) {
        sample_column(s, t.x + n * in.image, t.offset_mask + n * om.image, y, x, column.data());
        for (int o = 0; o < s.outputs; ++o) {
          const double* samples = column.data() + o / outputs * depth;
          double sum = to_float(t.bias[o]);
          for (int64_t i = 0; i < depth; ++i) sum += samples[i] * to_float(t.weight[o * depth + i]);
          t.out[out.at(n, o, y, x)] = from_float<T>(static_cast<float>(sum));
        }
      }
    }
  }
}

template void reference(const Shape&, const Tensors<float>&);
template void reference(const Shape&, const Tensors<Half>&);

}  // namespace zsm
