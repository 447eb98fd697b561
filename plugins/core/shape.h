// Sizes and strides derived from a shape, and its validity.
#pragma once

#include <cstdint>
#include <string>

#include "core/deform_conv.h"
#include "core/sampling.h"

namespace zsm {

using Shape = zsm_deform_conv2d_shape;

ZSM_HOST_DEVICE int taps(const Shape& s) { return s.kernel_h * s.kernel_w; }
ZSM_HOST_DEVICE int offset_channels(const Shape& s) { return 3 * s.offset_groups * taps(s); }
ZSM_HOST_DEVICE int mask_channel(const Shape& s) { return 2 * s.offset_groups * taps(s); }

ZSM_HOST_DEVICE int output_size(int size, int pad, int dilation, int kernel, int stride) {
  const int room = size + pad - dilation * (kernel - 1) - 1;
  return room < 0 ? 0 : room / stride + 1;
}
ZSM_HOST_DEVICE int output_height(const Shape& s) {
  return output_size(s.height, s.pad_top + s.pad_bottom, s.dilation_h, s.kernel_h, s.stride_h);
}
ZSM_HOST_DEVICE int output_width(const Shape& s) {
  return output_size(s.width, s.pad_left + s.pad_right, s.dilation_w, s.kernel_w, s.stride_w);
}

// Distances in elements from one image, channel, row and pixel to the next; 64 bits, for images of any size.
struct Strides {
  int64_t image, channel, row, pixel;

  ZSM_HOST_DEVICE int64_t at(int64_t n, int64_t c, int64_t y, int64_t x) const {
    return n * image + c * channel + y * row + x * pixel;
  }
};

ZSM_HOST_DEVICE Strides strides(int channels, int height, int width, bool channels_last) {
  const int64_t w = width, area = w * height;
  if (!channels_last) return {area * channels, area, w, 1};
  const int64_t pitch = (channels + 7) / 8 * 8;
  return {area * pitch, 1, w * pitch, pitch};
}

// Returns an error message for an invalid shape, else an empty string.
std::string fault(const Shape& shape);

}  // namespace zsm
