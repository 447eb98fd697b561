// The fast CPU version: repacks x and the weights, then works on tiles of output pixels in parallel.
#include <algorithm>
#include <limits>
#include <memory>
#include <new>
#include <vector>

#include "core/cpu_tile.h"
#include "core/kernels.h"

namespace zsm {
namespace {

constexpr std::align_val_t kAlignment{64};

struct Release {
  void operator()(float* data) const { ::operator delete(data, kAlignment); }
};
using Buffer = std::unique_ptr<float[], Release>;

Buffer allocate(int64_t count) {
  auto* data = static_cast<float*>(::operator new(static_cast<size_t>(count) * sizeof(float), kAlignment));
  return Buffer(data);
}

TileFunction best_tile() {
#if defined(ZSM_HAVE_X86_TILES)
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq"))
    return tile_avx512;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return tile_avx2;
#endif
  return tile_portable;
}

int64_t plane_size(const Shape& s) { return int64_t{s.height + 2 * kBorder} * (s.width + 2 * kBorder) * kBlock; }

// One block of channels, kBlock values per pixel, with a border of zeros; missing channels are zero.
void pack_plane(const Shape& s, const float* x, int g, int b, float* plane) {
  std::fill_n(plane, plane_size(s), 0.0f);
  const int first = b * kBlock, channels = std::min(kBlock, group_channels(s) - first);
  const int64_t area = int64_t{s.height} * s.width;
  const float* from = x + (int64_t{g} * group_channels(s) + first) * area;
  for (int y = 0; y < s.height; ++y) {
    float* to = plane + (int64_t{y + kBorder} * (s.width + 2 * kBorder) + kBorder) * kBlock;
    const float* row = from + int64_t{y} * s.width;
    if (channels == kBlock) {
      for (int i = 0; i < s.width; ++i) {
        for (int c = 0; c < kBlock; ++c) to[i * kBlock + c] = row[c * area + i];
      }
    } else {
      for (int i = 0; i < s.width; ++i) {
        for (int c = 0; c < channels; ++c) to[i * kBlock + c] = row[c * area + i];
      }
    }
  }
}

// OIHW -> [offset group][tap][channel][output], the order of sampling.
Buffer pack_weight(const Shape& s, const float* weight, int outputs) {
  const int K = taps(s), channels = group_channels(s);
  Buffer packed = allocate(int64_t{s.channels} * K * outputs);
  std::fill_n(packed.get(), int64_t{s.channels} * K * outputs, 0.0f);
  for (int o = 0; o < s.outputs; ++o) {
    const float* from = weight + int64_t{o} * s.channels * K;
    for (int g = 0; g < s.offset_groups; ++g) {
      float* to = packed.get() + int64_t{g} * K * channels * outputs + o;
      for (int c = 0; c < channels; ++c) {
        for (int k = 0; k < K; ++k) to[int64_t{k * channels + c} * outputs] = from[(g * channels + c) * K + k];
      }
    }
  }
  return packed;
}

void store(const float* sums, int pitch, int count, int outputs, int64_t pixels, float* out) {
  for (int o = 0; o < outputs; ++o) {
    for (int i = 0; i < count; ++i) out[o * pixels + i] = sums[i * pitch + o];
  }
}

struct Scratch {
  Buffer columns, sums;
};

void convolve(const Shape& s, const Tensors<float>& t, const Parallel& parallel) {
  const int outputs = (s.outputs + kOutputMultiple - 1) / kOutputMultiple * kOutputMultiple;
  const int64_t pixels = int64_t{output_height(s)} * output_width(s), plane = plane_size(s);
  const int64_t tiles = (pixels + kTilePixels - 1) / kTilePixels, tasks = std::min<int64_t>(tiles, 64);
  const int blocks = group_blocks(s);
  const TileFunction tile = best_tile();

  const Buffer weight = pack_weight(s, t.weight, outputs), bias = allocate(outputs);
  std::fill_n(std::copy_n(t.bias, s.outputs, bias.get()), outputs - s.outputs, 0.0f);
  const Buffer x = allocate(plane * s.offset_groups * blocks);
  std::vector<Scratch> scratches(static_cast<size_t>(tasks));
  for (Scratch& scratch : scratches) {
    scratch = {allocate(int64_t{kTilePixels} * column_pitch(s)), allocate(int64_t{kTilePixels} * outputs)};
    std::fill_n(scratch.columns.get(), kTilePixels * column_pitch(s), 0.0f);  // rows without a pixel
    std::fill_n(scratch.sums.get(), kTilePixels * outputs, 0.0f);
  }

  for (int64_t n = 0; n < s.batch; ++n) {
    const float* image = t.x + n * s.channels * s.height * s.width;
    float* out = t.out + n * s.outputs * pixels;
    const TileInput input{&s,           x.get(),    t.offset_mask + n * offset_channels(s) * pixels,
                          weight.get(), bias.get(), outputs};
    parallel(static_cast<size_t>(s.offset_groups * blocks), [&](size_t i) {
      const int index = static_cast<int>(i);
      pack_plane(s, image, index / blocks, index % blocks, x.get() + index * plane);
    });
    parallel(static_cast<size_t>(tasks), [&](size_t i) {
      const int64_t task = static_cast<int64_t>(i);
      const Scratch& scratch = scratches[i];
      for (int64_t j = task * tiles / tasks; j < (task + 1) * tiles / tasks; ++j) {
        const int64_t first = j * kTilePixels;
        const int count = static_cast<int>(std::min<int64_t>(kTilePixels, pixels - first));
        tile(input, first, count, scratch.columns.get(), scratch.sums.get());
        store(scratch.sums.get(), outputs, count, s.outputs, pixels, out + first);
      }
    });
  }
}

}  // namespace

template <>
void cpu(const Shape& s, const Tensors<float>& t, const Parallel& parallel) {
  const int64_t packed = int64_t{s.height + 2 * kBorder} * (s.width + 2 * kBorder);
  if (s.groups > 1 || packed > std::numeric_limits<int32_t>::max()) return reference(s, t);
  convolve(s, t, parallel);
}

// Computes on float32 copies: FP16 arithmetic saves nothing on a CPU.
template <>
void cpu(const Shape& s, const Tensors<Half>& t, const Parallel& parallel) {
  const int64_t pixels = int64_t{output_height(s)} * output_width(s);
  const auto widen = [](const Half* from, int64_t count) {
    Buffer floats = allocate(count);
    std::transform(from, from + count, floats.get(), [](Half value) { return to_float(value); });
    return floats;
  };
  const Buffer x = widen(t.x, int64_t{s.batch} * s.channels * s.height * s.width);
  const Buffer offset_mask = widen(t.offset_mask, int64_t{s.batch} * offset_channels(s) * pixels);
  const Buffer weight = widen(t.weight, int64_t{s.outputs} * (s.channels / s.groups) * taps(s));
  const Buffer bias = widen(t.bias, s.outputs);
  const int64_t count = int64_t{s.batch} * s.outputs * pixels;
  const Buffer out = allocate(count);
  const zsm_deform_conv2d_tensors floats{x.get(), offset_mask.get(), weight.get(), bias.get(), out.get()};
  cpu(s, Tensors<float>(floats), parallel);
  std::transform(out.get(), out.get() + count, t.out, [](float value) { return from_float<Half>(value); });
}

}  // namespace zsm
