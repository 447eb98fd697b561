// A tile of output pixels on the CPU: the interface of cpu_tile.cc, which is compiled once per instruction set.
#pragma once

#include <cstdint>

#include "core/shape.h"

namespace zsm {

constexpr int kBlock = 8;        // channels sampled together and stored together in packed x
constexpr int kBorder = 2;       // zero pixels around packed x; positions outside are moved into them
constexpr int kTilePixels = 48;  // samples, sums and one deformable group's weights fit the first-level cache

// One image. All float32; `outputs` is rounded up to kOutputMultiple in weight, bias and sums.
struct TileInput {
  const Shape* shape;
  const float* x;            // [offset_groups][blocks][height + 2*kBorder][width + 2*kBorder][kBlock]
  const float* offset_mask;  // [offset_channels][pixels]
  const float* weight;       // [offset_groups][taps * channels per offset group][outputs]
  const float* bias;         // [outputs]
  int outputs;
};

constexpr int kOutputMultiple = 16;

ZSM_HOST_DEVICE int group_channels(const Shape& s) { return s.channels / s.offset_groups; }
ZSM_HOST_DEVICE int group_blocks(const Shape& s) { return (group_channels(s) + kBlock - 1) / kBlock; }

// Floats from one pixel's samples to the next's. The last block of channels may reach past the end.
ZSM_HOST_DEVICE int column_pitch(const Shape& s) { return taps(s) * group_channels(s) + kBlock; }

// Computes sums[i][outputs] of output pixels first + i, i < count <= kTilePixels.
// `columns` has kTilePixels * column_pitch floats, `sums` kTilePixels * outputs.
using TileFunction = void (*)(const TileInput& input, int64_t first, int count, float* columns, float* sums);

void tile_avx512(const TileInput&, int64_t, int, float*, float*);
void tile_avx2(const TileInput&, int64_t, int, float*, float*);
void tile_portable(const TileInput&, int64_t, int, float*, float*);

}  // namespace zsm
