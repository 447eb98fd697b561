// The plain kernel: any shape, either layout. A block computes 32 pixels times 64 outputs of one conv group.
#pragma once

#include "core/kernels.h"

namespace zsm::plain {

constexpr int kPixels = 32, kRows = 8, kThreads = kPixels * kRows;
constexpr int kChannels = kRows;  // per step: each row of threads samples one
constexpr int kOutputsPerThread = 8;
constexpr int kOutputs = kRows * kOutputsPerThread;
constexpr int kWeightPitch = kOutputs + 4;  // spreads the rows over the banks

struct Layout {
  Strides x, offset_mask, out;
};

inline Layout layout(const Shape& s, bool channels_last) {
  const int height = output_height(s), width = output_width(s);
  return {strides(s.channels, s.height, s.width, channels_last),
          strides(offset_channels(s), height, width, channels_last), strides(s.outputs, height, width, channels_last)};
}

ZSM_HOST_DEVICE int output_blocks(const Shape& s) { return (s.outputs / s.groups + kOutputs - 1) / kOutputs; }

// Blocks of work: pixel tiles x conv groups x blocks of a group's outputs.
ZSM_HOST_DEVICE int64_t work_items(const Shape& s) {
  const int64_t pixels = int64_t{s.batch} * output_height(s) * output_width(s);
  return (pixels + kPixels - 1) / kPixels * s.groups * output_blocks(s);
}

template <typename T>
__device__ float sample(const Shape& s, const Layout& at, const Tensors<T>& t, int64_t n, int y, int x, int c, int k) {
  const int K = taps(s), g = c / (s.channels / s.offset_groups);
  const T* channels = t.offset_mask + at.offset_mask.at(n, 0, y, x);
  const auto value = [&](int channel) { return to_float(channels[channel * at.offset_mask.channel]); };
  const int origin_y = y * s.stride_h - s.pad_top + k / s.kernel_w * s.dilation_h;
  const int origin_x = x * s.stride_w - s.pad_left + k % s.kernel_w * s.dilation_w;
  const Corners corner =
      corners(displace(origin_y, value(2 * (g * K + k))), displace(origin_x, value(2 * (g * K + k) + 1)),
              sigmoid(value(mask_channel(s) + g * K + k)));
  const T* plane = t.x + at.x.at(n, c, 0, 0);
  float sum = 0;
  ZSM_UNROLL
  for (int i = 0; i < 4; ++i) {
    const int v = corner.y + i / 2, u = corner.x + i % 2;
    if (inside(v, s.height) && inside(u, s.width)) sum += corner.weight[i] * to_float(plane[at.x.at(0, 0, v, u)]);
  }
  return sum;
}

template <typename T>
__global__ void __launch_bounds__(kThreads) kernel(Shape s, Layout at, Tensors<T> t) {
  __shared__ float columns[kChannels][kPixels];
  __shared__ __align__(16) float weights[kChannels][kWeightPitch];
  const int thread = static_cast<int>(threadIdx.x), lane = thread % kPixels, row = thread / kPixels;
  const int K = taps(s), height = output_height(s), width = output_width(s);
  const int channels = s.channels / s.groups, outputs = s.outputs / s.groups, blocks = output_blocks(s);
  const int64_t pixels = int64_t{s.batch} * height * width;

  for (int64_t work = blockIdx.x; work < work_items(s); work += gridDim.x) {
    const int64_t pixel = work / (s.groups * blocks) * kPixels + lane;
    const int group = static_cast<int>(work / blocks % s.groups), first = static_cast<int>(work % blocks) * kOutputs;
    const bool exists = pixel < pixels;
    const int64_t n = pixel / width / height;
    const int y = static_cast<int>(pixel / width % height), x = static_cast<int>(pixel % width);
    const T* weight = t.weight + int64_t{group} * outputs * channels * K;
    float sum[kOutputsPerThread] = {};

    for (int c = 0; c < channels; c += kChannels) {
      for (int k = 0; k < K; ++k) {
        const bool sampled = exists && c + row < channels;
        const float value = sampled ? sample(s, at, t, n, y, x, group * channels + c + row, k) : 0.0f;
        __syncthreads();  // everyone is done with the step before
        columns[row][lane] = value;
        for (int i = thread; i < kChannels * kOutputs; i += kThreads) {
          const int channel = i % kChannels, o = i / kChannels;
          const bool real = c + channel < channels && first + o < outputs;
          weights[channel][o] = real ? to_float(weight[(int64_t{first + o} * channels + c + channel) * K + k]) : 0.0f;
        }
        __syncthreads();
        ZSM_UNROLL
        for (int i = 0; i < kChannels; ++i) {
          const float v = columns[i][lane];
          ZSM_UNROLL
          for (int j = 0; j < kOutputsPerThread; ++j) sum[j] += v * weights[i][row * kOutputsPerThread + j];
        }
      }
    }

    for (int j = 0; j < kOutputsPerThread; ++j) {
      const int o = first + row * kOutputsPerThread + j, output = group * outputs + o;
      if (exists && o < outputs) t.out[at.out.at(n, output, y, x)] = from_float<T>(sum[j] + to_float(t.bias[output]));
    }
  }
}

}  // namespace zsm::plain
