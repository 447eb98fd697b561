// The fused kernel, step by step: what each thread of a block does between two barriers.
//
// A block computes a tile of 16 pixels times kPixels/16 rows, all 64 output channels. Per stage, kGroups of the 8
// deformable groups, its threads sample columns into shared memory and its warps multiply them with the weights on
// the tensor cores. Activations are channels-last FP16, so one corner of one deformable group is one 16-byte load.
//
// Everything but the barriers and the tensor cores compiles for the host too; the tests run blocks there.
#pragma once

#include "core/half.h"
#include "core/kernels.h"
#include "core/shape.h"

namespace zsm::fused {

constexpr int kChannels = 64, kOutputs = 64, kOffsetGroups = 8, kTaps = 9;
constexpr int kVector = kChannels / kOffsetGroups;          // channels of a deformable group: 16 bytes
constexpr int kGroupDepth = kTaps * kVector;                // samples of a pixel in a deformable group
constexpr int kOffsetChannels = 3 * kTaps * kOffsetGroups;  // already a multiple of 8: no padding when channels-last
constexpr int kMaskChannel = 2 * kTaps * kOffsetGroups;
constexpr int kMatrix = 16;  // rows, columns and depth of a tensor core's matrices
constexpr int kTileWidth = 16;
constexpr int kSkew = 8;  // rows are 16 bytes longer than needed, so that eight of them lie in different banks

inline bool takes(const Shape& s) {
  return s.channels == kChannels && s.outputs == kOutputs && s.offset_groups == kOffsetGroups && s.groups == 1 &&
         s.kernel_h == 3 && s.kernel_w == 3;
}

template <int kPixels_, int kThreads_, int kGroups_, bool kResident_>
struct Config {
  static constexpr int kPixels = kPixels_, kThreads = kThreads_, kGroups = kGroups_;
  static constexpr bool kResident = kResident_;  // all weights stay in shared memory

  static constexpr int kStages = kOffsetGroups / kGroups;
  static constexpr int kDepth = kGroups * kGroupDepth;
  static constexpr int kPaddedDepth = (kDepth + kMatrix - 1) / kMatrix * kMatrix;
  static constexpr int kColumnPitch = kPaddedDepth + kSkew;
  static constexpr int kWeightGroups = kResident ? kOffsetGroups : kGroups;
  static constexpr int kWeightPitch = (kResident ? kStages * kDepth : kPaddedDepth) + kSkew;

  // A warp computes two matrices of pixels by kWarpMatrices of outputs.
  static constexpr int kWarps = kThreads / 32, kWarpPixels = 2 * kMatrix;
  static constexpr int kWarpsAcross = kWarps / (kPixels / kWarpPixels);
  static constexpr int kWarpOutputs = kOutputs / kWarpsAcross;
  static constexpr int kWarpMatrices = kWarpOutputs / kMatrix;
  static constexpr int kSumPitch = kWarpOutputs + 4;  // floats

  static constexpr int kColumnBytes = kPixels * kColumnPitch * int{sizeof(Half)};
  static constexpr int kWeightBytes = kOutputs * kWeightPitch * int{sizeof(Half)};
  static constexpr int kSharedBytes = kColumnBytes + kWeightBytes;

  static_assert(kWarps % (kPixels / kWarpPixels) == 0 && kWarpMatrices * kWarpsAcross * kMatrix == kOutputs);
  static_assert(!kResident || kDepth == kPaddedDepth, "stages of resident weights would not be aligned");
  static_assert(kWarps * kMatrix * kSumPitch * int{sizeof(float)} <= kColumnBytes, "sums reuse the columns' memory");
};

struct alignas(16) Vector {
  uint32_t pairs[4];  // of FP16
};

struct alignas(4) Pair {
  Half first, second;
};

ZSM_HOST_DEVICE Half half_of(const Vector& v, int i) { return {static_cast<uint16_t>(v.pairs[i / 2] >> 16 * (i % 2))}; }

ZSM_HOST_DEVICE Vector vector_of(const float (&values)[kVector]) {
  Vector v;
  ZSM_UNROLL
  for (int i = 0; i < 4; ++i) {
    v.pairs[i] = from_float<Half>(values[2 * i]).bits | uint32_t{from_float<Half>(values[2 * i + 1]).bits} << 16;
  }
  return v;
}

struct Tile {
  int n, y, x;  // its first pixel
};

template <typename C>
ZSM_HOST_DEVICE int64_t tiles(const Shape& s) {
  const int64_t across = (output_width(s) + kTileWidth - 1) / kTileWidth;
  constexpr int kTileHeight = C::kPixels / kTileWidth;
  return across * ((output_height(s) + kTileHeight - 1) / kTileHeight) * s.batch;
}

template <typename C>
ZSM_HOST_DEVICE Tile tile(const Shape& s, int64_t index) {
  constexpr int kTileHeight = C::kPixels / kTileWidth;
  const int across = (output_width(s) + kTileWidth - 1) / kTileWidth;
  const int down = (output_height(s) + kTileHeight - 1) / kTileHeight;
  const int64_t row = index / across;
  return {static_cast<int>(row / down), static_cast<int>(row % down) * kTileHeight,
          static_cast<int>(index % across) * kTileWidth};
}

// A pixel of a tile: where it is in the output, counted in pixels, and whether it is in the image at all.
struct Pixel {
  int y, x;
  int64_t index;
  bool exists;
};

ZSM_HOST_DEVICE Pixel pixel(const Shape& s, const Tile& tile, int p) {
  const int y = tile.y + p / kTileWidth, x = tile.x + p % kTileWidth;
  const int height = output_height(s), width = output_width(s);
  return {y, x, (int64_t{tile.n} * height + y) * width + x, y < height && x < width};
}

// OIHW -> shared [output][group][tap][channel], the order in which samples lie in a column.
template <typename C>
ZSM_HOST_DEVICE void load_weights(const Half* weight, int first_group, int thread, Half* shared) {
  constexpr int kRun = C::kWeightGroups * kTaps;  // vectors of one output
  for (int i = thread; i < kOutputs * kRun; i += C::kThreads) {
    const int o = i / kRun, group = i % kRun / kTaps, part = i % kTaps;
    const Half* from = weight + (o * kOffsetGroups + first_group + group) * kGroupDepth + part * kVector;
    const Vector values = *reinterpret_cast<const Vector*>(from);
    Half* to = shared + o * C::kWeightPitch + group * kGroupDepth;
    ZSM_UNROLL
    for (int j = 0; j < kVector; ++j) {
      const int index = part * kVector + j, channel = index / kTaps, tap = index % kTaps;
      to[tap * kVector + channel] = half_of(values, j);
    }
  }
  if (C::kDepth < C::kPaddedDepth) {
    for (int o = thread; o < kOutputs; o += C::kThreads)
      *reinterpret_cast<Vector*>(shared + o * C::kWeightPitch + C::kDepth) = Vector{};
  }
}

ZSM_HOST_DEVICE void add_corner(const Shape& s, const Half* image, int y, int x, float weight, float (&sum)[kVector]) {
  if (!inside(y, s.height) || !inside(x, s.width)) return;
  const Vector v = *reinterpret_cast<const Vector*>(image + (int64_t{y} * s.width + x) * kChannels);
  ZSM_UNROLL
  for (int i = 0; i < kVector; ++i) sum[i] += weight * to_float(half_of(v, i));
}

// The samples of one tap of one deformable group at one pixel.
ZSM_HOST_DEVICE Vector sample(const Shape& s, const Half* image, const Half* offset_mask, const Pixel& p, int group,
                              int tap) {
  const Half* channels = offset_mask + p.index * kOffsetChannels;
  const Pair offset = *reinterpret_cast<const Pair*>(channels + (group * kTaps + tap) * 2);
  const float mask = sigmoid(to_float(channels[kMaskChannel + group * kTaps + tap]));
  const Position y = displace(p.y * s.stride_h - s.pad_top + tap / 3 * s.dilation_h, to_float(offset.first));
  const Position x = displace(p.x * s.stride_w - s.pad_left + tap % 3 * s.dilation_w, to_float(offset.second));
  const Corners c = corners(y, x, mask);
  const Half* channel = image + group * kVector;
  float sum[kVector] = {};
  ZSM_UNROLL
  for (int i = 0; i < 4; ++i) add_corner(s, channel, c.y + i / 2, c.x + i % 2, c.weight[i], sum);
  return vector_of(sum);
}

// Neighbouring threads take the taps and groups of one pixel: they share cache lines of x and of offset_mask.
template <typename C>
ZSM_HOST_DEVICE void gather(const Shape& s, const Tile& tile, const Half* x, const Half* offset_mask, int first_group,
                            int thread, Half* columns) {
  constexpr int kRun = C::kGroups * kTaps;
  const Half* image = x + int64_t{tile.n} * s.height * s.width * kChannels;
  ZSM_UNROLL_BY(3)
  for (int i = thread; i < C::kPixels * kRun; i += C::kThreads) {
    const int p = i / kRun, group = i % kRun / kTaps, tap = i % kTaps;
    const Pixel at = pixel(s, tile, p);
    const Vector v = at.exists ? sample(s, image, offset_mask, at, first_group + group, tap) : Vector{};
    *reinterpret_cast<Vector*>(columns + p * C::kColumnPitch + group * kGroupDepth + tap * kVector) = v;
  }
  if (C::kDepth < C::kPaddedDepth) {
    for (int p = thread; p < C::kPixels; p += C::kThreads)
      *reinterpret_cast<Vector*>(columns + p * C::kColumnPitch + C::kDepth) = Vector{};
  }
}

// Matrices is what multiplies: the tensor cores, or loops on the host.
template <typename C, typename Matrices>
struct Sums {
  typename Matrices::Sum matrix[2][C::kWarpMatrices];

  ZSM_HOST_DEVICE void clear() {
    ZSM_UNROLL
    for (int i = 0; i < 2 * C::kWarpMatrices; ++i) Matrices::clear(matrix[i % 2][i / 2]);
  }
};

// One warp's share of columns times weights, added to its sums.
template <typename C, typename Matrices>
ZSM_HOST_DEVICE void multiply(const Half* columns, const Half* weights, int warp, Sums<C, Matrices>& sums) {
  columns += warp / C::kWarpsAcross * C::kWarpPixels * C::kColumnPitch;
  weights += warp % C::kWarpsAcross * C::kWarpOutputs * C::kWeightPitch;
  ZSM_UNROLL_BY(1)
  for (int k = 0; k < C::kPaddedDepth; k += kMatrix) {
    typename Matrices::Left left[2];
    typename Matrices::Right right[C::kWarpMatrices];
    ZSM_UNROLL
    for (int i = 0; i < 2; ++i) Matrices::load(left[i], columns + i * kMatrix * C::kColumnPitch + k, C::kColumnPitch);
    ZSM_UNROLL
    for (int j = 0; j < C::kWarpMatrices; ++j)
      Matrices::load(right[j], weights + j * kMatrix * C::kWeightPitch + k, C::kWeightPitch);
    ZSM_UNROLL
    for (int i = 0; i < 2; ++i) {
      ZSM_UNROLL
      for (int j = 0; j < C::kWarpMatrices; ++j) Matrices::multiply_add(sums.matrix[i][j], left[i], right[j]);
    }
  }
}

// Where a warp puts sums of 16 pixels before they are written; the columns are not needed any more.
template <typename C>
ZSM_HOST_DEVICE float* sum_buffer(Half* columns, int warp) {
  return reinterpret_cast<float*>(columns) + warp * kMatrix * C::kSumPitch;
}

template <typename C, typename Matrices>
ZSM_HOST_DEVICE void store_sums(const Sums<C, Matrices>& sums, int half, float* buffer) {
  ZSM_UNROLL
  for (int j = 0; j < C::kWarpMatrices; ++j) Matrices::store(buffer + j * kMatrix, C::kSumPitch, sums.matrix[half][j]);
}

// Adds the bias and writes one half of a warp's pixels.
template <typename C>
ZSM_HOST_DEVICE void write_out(const Shape& s, const Tile& tile, const float* buffer, const Half* bias, int half,
                               int warp, int lane, Half* out) {
  constexpr int kVectors = C::kWarpOutputs / kVector;
  ZSM_UNROLL
  for (int i = lane; i < kMatrix * kVectors; i += 32) {
    const int row = i / kVectors, column = i % kVectors * kVector;
    const int o = warp % C::kWarpsAcross * C::kWarpOutputs + column;
    const Pixel p = pixel(s, tile, warp / C::kWarpsAcross * C::kWarpPixels + half * kMatrix + row);
    if (!p.exists) continue;
    const Vector b = *reinterpret_cast<const Vector*>(bias + o);
    float values[kVector];
    ZSM_UNROLL
    for (int j = 0; j < kVector; ++j) values[j] = buffer[row * C::kSumPitch + column + j] + to_float(half_of(b, j));
    *reinterpret_cast<Vector*>(out + p.index * kOutputs + o) = vector_of(values);
  }
}

using Streamed64 = Config<64, 128, 2, false>;
using Streamed128 = Config<128, 256, 1, false>;
using Resident64 = Config<64, 256, 2, true>;
using Resident128 = Config<128, 256, 2, true>;

}  // namespace zsm::fused
