// Samples a tile of output pixels and multiplies it with the weights, one deformable group at a time.
//
// CMake compiles this file once per instruction set. Everything it calls is inlined, so that no code for a
// newer instruction set can end up in a caller compiled for an older machine.
#include "core/cpu_tile.h"

#include <cstring>

#if defined(ZSM_AVX512)
#define ZSM_TILE tile_avx512
#elif defined(ZSM_AVX2)
#define ZSM_TILE tile_avx2
#else
#define ZSM_TILE tile_portable
#endif

namespace zsm {
namespace {

#if defined(ZSM_AVX512)  // 32 registers: 24 sums, 4 weights
constexpr int kLanes = 16, kRows = 6, kVectors = 4;
#elif defined(ZSM_AVX2)  // 16 registers: 12 sums, 2 weights, 1 sample
constexpr int kLanes = 8, kRows = 6, kVectors = 2;
#else
constexpr int kLanes = 4, kRows = 4, kVectors = 2;
#endif
static_assert(kTilePixels % kRows == 0 && kOutputMultiple % kLanes == 0);

typedef float Vector __attribute__((vector_size(kLanes * sizeof(float)), aligned(sizeof(float)), may_alias));
typedef float Block __attribute__((vector_size(kBlock * sizeof(float)), aligned(sizeof(float)), may_alias));

// Inlined into a vector loop, unlike expf. Relative error below 2e-6.
ZSM_HOST_DEVICE float inlined_sigmoid(float logit) {
  const float exponent = logit * -1.442695041f;
  const float above = exponent < -126.0f ? -126.0f : exponent;
  const float bounded = above > 126.0f ? 126.0f : above;  // NaN stays, and is in f
  const float whole = __builtin_floorf((bounded == bounded ? bounded : 0.0f) + 0.5f), f = bounded - whole;
  const float power =
      1 +
      f * (0.693147181f +
           f * (0.240226507f + f * (0.0555041087f + f * (0.00961812911f + f * (0.00133335581f + f * 1.54035304e-4f)))));
  const int32_t bits = (static_cast<int32_t>(whole) + 127) << 23;
  float scale;
  std::memcpy(&scale, &bits, sizeof scale);
  return 1.0f / (1.0f + power * scale);
}

ZSM_HOST_DEVICE int clamp(int value, int least, int most) {
  return value < least ? least : value > most ? most : value;
}

// For one tap: where each pixel of the tile samples packed x, and the weights of the four neighbours there.
struct Samples {
  int32_t pixel[kTilePixels];
  float weight[4][kTilePixels];
};

struct Origins {
  int32_t y[kTilePixels], x[kTilePixels];
};

ZSM_HOST_DEVICE void find_origins(const Shape& s, int64_t first, int count, Origins& origins) {
  const int width = output_width(s);
  for (int i = 0; i < count; ++i) {
    origins.y[i] = static_cast<int>((first + i) / width) * s.stride_h - s.pad_top;
    origins.x[i] = static_cast<int>((first + i) % width) * s.stride_w - s.pad_left;
  }
}

// The channels of offset_mask lie far apart and are read in short runs, which hardware prefetching misses.
ZSM_HOST_DEVICE void prefetch_offsets(const TileInput& in, int64_t first, int count, int g) {
  const Shape& s = *in.shape;
  const int64_t pixels = int64_t{output_height(s)} * output_width(s);
  const float* offsets = in.offset_mask + int64_t{2} * g * taps(s) * pixels + first;
  const float* logits = in.offset_mask + int64_t{mask_channel(s) + g * taps(s)} * pixels + first;
  for (int i = 0; i < count; i += 16) {
    for (int k = 0; k < 2 * taps(s); ++k) __builtin_prefetch(offsets + k * pixels + i);
    for (int k = 0; k < taps(s); ++k) __builtin_prefetch(logits + k * pixels + i);
  }
}

ZSM_HOST_DEVICE void locate(const TileInput& in, int64_t first, int count, int g, int k, const Origins& origins,
                            Samples& samples) {
  const Shape s = *in.shape;
  const int64_t pixels = int64_t{output_height(s)} * output_width(s);
  const float* dy = in.offset_mask + (2 * (g * taps(s) + k)) * pixels + first;
  const float* dx = dy + pixels;
  const float* logit = in.offset_mask + (mask_channel(s) + g * taps(s) + k) * pixels + first;
  const int tap_y = k / s.kernel_w * s.dilation_h, tap_x = k % s.kernel_w * s.dilation_w;
  const int pitch = s.width + 2 * kBorder;
  for (int i = 0; i < count; ++i) {
    const Corners c = corners(displace(origins.y[i] + tap_y, dy[i]), displace(origins.x[i] + tap_x, dx[i]),
                              inlined_sigmoid(logit[i]));
    const int y = clamp(c.y, -kBorder, s.height), x = clamp(c.x, -kBorder, s.width);
    samples.pixel[i] = (y + kBorder) * pitch + x + kBorder;
    for (int j = 0; j < 4; ++j) samples.weight[j][i] = c.weight[j];
  }
}

// The last block, too, stores kBlock values; the next tap overwrites the excess.
ZSM_HOST_DEVICE void sample(const Shape& s, const float* group_x, int k, int count, const Samples& samples,
                            float* columns) {
  const int64_t row = int64_t{s.width + 2 * kBorder} * kBlock;
  const int64_t plane = row * (s.height + 2 * kBorder);
  const int pitch = column_pitch(s), blocks = group_blocks(s);
  for (int i = 0; i < count; ++i) {
    const float* corner = group_x + int64_t{samples.pixel[i]} * kBlock;
    float* to = columns + i * pitch + k * group_channels(s);
    for (int b = 0; b < blocks; ++b, corner += plane, to += kBlock) {
      const auto* upper = reinterpret_cast<const Block*>(corner);
      const auto* lower = reinterpret_cast<const Block*>(corner + row);
      *reinterpret_cast<Block*>(to) = upper[0] * samples.weight[0][i] + upper[1] * samples.weight[1][i] +
                                      lower[0] * samples.weight[2][i] + lower[1] * samples.weight[3][i];
    }
  }
}

template <int kWide>
ZSM_HOST_DEVICE void multiply_block(const float* columns, int pitch, const float* weight, int depth, int outputs,
                                    float* sums) {
  Vector sum[kRows][kWide];
  for (int r = 0; r < kRows; ++r) {
    for (int v = 0; v < kWide; ++v) sum[r][v] = *reinterpret_cast<Vector*>(sums + r * outputs + v * kLanes);
  }
  for (int j = 0; j < depth; ++j, weight += outputs) {
    Vector w[kWide];
    for (int v = 0; v < kWide; ++v) w[v] = *reinterpret_cast<const Vector*>(weight + v * kLanes);
    for (int r = 0; r < kRows; ++r) {
      for (int v = 0; v < kWide; ++v) sum[r][v] += columns[r * pitch + j] * w[v];
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int v = 0; v < kWide; ++v) *reinterpret_cast<Vector*>(sums + r * outputs + v * kLanes) = sum[r][v];
  }
}

ZSM_HOST_DEVICE void multiply(const float* columns, int pitch, int count, const float* weight, int depth, int outputs,
                              float* sums) {
  for (int i = 0; i < count; i += kRows) {
    const float* rows = columns + i * pitch;
    float* to = sums + i * outputs;
    int o = 0;
    for (; o + kVectors * kLanes <= outputs; o += kVectors * kLanes)
      multiply_block<kVectors>(rows, pitch, weight + o, depth, outputs, to + o);
    for (; o < outputs; o += kLanes) multiply_block<1>(rows, pitch, weight + o, depth, outputs, to + o);
  }
}

}  // namespace

void ZSM_TILE(const TileInput& in, int64_t first, int count, float* columns, float* sums) {
  const Shape s = *in.shape;
  const int depth = taps(s) * group_channels(s);
  const int64_t group_x = int64_t{group_blocks(s)} * (s.height + 2 * kBorder) * (s.width + 2 * kBorder) * kBlock;
  Origins origins;
  find_origins(s, first, count, origins);
  for (int i = 0; i < count; ++i) std::memcpy(sums + i * in.outputs, in.bias, sizeof(float) * in.outputs);
  for (int g = 0; g < s.offset_groups; ++g) {
    for (int k = 0; k < taps(s); ++k) {
      Samples samples;
      locate(in, first, count, g, k, origins, samples);
      sample(s, in.x + g * group_x, k, count, samples, columns);
    }
    if (g + 1 < s.offset_groups) prefetch_offsets(in, first, count, g + 1);
    multiply(columns, column_pitch(s), count, in.weight + int64_t{g} * depth * in.outputs, depth, in.outputs, sums);
  }
}

}  // namespace zsm
