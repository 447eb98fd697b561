// The fused kernel in steps: the work of each lane of a warp between two barriers.
//
// A warp computes all outputs of 16 neighbouring pixels by itself. Tensor cores add up products in any order, so the
// weights are packed in the order of sampling: a lane samples 8 channels of a pixel into the registers that
// the tensor cores read, and no column goes through memory. Positions and sums are float32; interpolation is FP16,
// which adds at most 1e-4 to an error of 4e-4, relative to the largest output.
//
// Sampling is bound by instructions and cache lines, so a first kernel copies x into slices of 8 channels,
// [image][slice][row][column][channel], with zeros around each image. A corner is then one 16-byte load, neighbouring
// pixels share cache lines, and a position outside the image needs no branch: it moves to where all corners are zero.
//
// All but barriers, asynchronous copies and tensor cores also compiles for the host, where tests run whole blocks.
#pragma once

#include "core/half.h"
#include "core/kernels.h"
#include "core/shape.h"

namespace zsm::fused {

constexpr int kSide = 3, kTaps = kSide * kSide;
constexpr int kSlice = 8;               // channels: 16 bytes
constexpr int kQuad = 4;                // slices sampled at once, one by each of four lanes
constexpr int kPixels = 16;             // per warp: rows of a tensor core's matrix
constexpr int kColumns = 8;             // of a tensor core's matrix
constexpr int kLargest = 1 << 15;       // side: an FP16 offset reaches beyond it from anywhere
constexpr int kBefore = 1, kAfter = 2;  // zeros around an image

struct alignas(16) Vector {
  uint32_t pairs[4];  // of FP16
};

struct alignas(4) Pair {
  Half first, second;
};

template <int kChannels_, int kOffsetGroups_>
struct Config {
  static constexpr int kChannels = kChannels_, kOutputs = kChannels_, kOffsetGroups = kOffsetGroups_;
  static constexpr int kSlices = kChannels / kSlice, kQuads = kSlices / kQuad;
  static constexpr int kGroups = kOffsetGroups / kQuads;  // deformable groups of a quad
  static constexpr int kMatrices = kOutputs / kColumns;
  static constexpr int kLaneOutputs = 2 * kMatrices;  // each lane ends up with these outputs of two pixels

  // A quad's offsets and logits of one pixel; with this pitch 8 pixels share no bank.
  static constexpr int kOffsets = 2 * kTaps * kGroups, kLogits = kTaps * kGroups;
  static constexpr int kRawPitch = kGroups == 4 ? 120 : 60;
  static constexpr int kRawBytes = kPixels * kRawPitch * int{sizeof(Half)};  // of a warp

  static constexpr int kQuadVectors = kTaps * kMatrices * 32;  // of weights
  static constexpr int kQuadBytes = kQuadVectors * int{sizeof(Vector)};

  static_assert(kQuads * kQuad * kSlice == kChannels && kGroups * kQuads == kOffsetGroups);
  static_assert(kGroups == 4 || kGroups == 2);
};

constexpr int kMostWarps = 24;  // per block: as many as fit a multiprocessor's registers

// All weights, or those of a quad, and each warp's offsets.
template <typename C>
constexpr int shared_bytes(int warps, bool resident) {
  return (resident ? C::kQuads : 1) * C::kQuadBytes + warps * C::kRawBytes;
}

template <typename C>
bool takes(const Shape& s) {
  constexpr int64_t kMost = 1 << 30;  // vectors of x, and pixels, so that indices fit 32 bits
  const int64_t pixels = int64_t{s.batch} * (s.height + kBefore + kAfter) * (s.width + kBefore + kAfter);
  const int height = output_height(s), width = output_width(s);
  return s.channels == C::kChannels && s.outputs == C::kOutputs && s.offset_groups == C::kOffsetGroups &&
         s.groups == 1 && s.kernel_h == kSide && s.kernel_w == kSide && s.height <= kLargest && s.width <= kLargest &&
         height <= kLargest && width <= kLargest && pixels * C::kSlices <= kMost &&
         int64_t{s.batch} * height * width <= kMost;
}

// Values derived from a shape, computed once on the host.
struct Plan {
  Shape shape;
  bool channels_last;
  int height, width;  // of the output
  int tiles_across, tiles;
  int prepared_width, prepared_area;
  Strides x, offset_mask, out;
};

inline Plan plan(const Shape& s, bool channels_last) {
  const int height = output_height(s), width = output_width(s), across = (width + kPixels - 1) / kPixels;
  const int prepared_width = s.width + kBefore + kAfter;
  return {s,
          channels_last,
          height,
          width,
          across,
          across * height * s.batch,
          prepared_width,
          prepared_width * (s.height + kBefore + kAfter),
          strides(s.channels, s.height, s.width, channels_last),
          strides(offset_channels(s), height, width, channels_last),
          strides(s.outputs, height, width, channels_last)};
}

// --- Preparing x and the weights, in the caller's workspace ---

struct Prepared {
  Vector* weights;  // [quad][tap][matrix][lane], as a tensor core reads them
  Vector* x;

  Prepared(const Shape& s, void* workspace)
      : weights(static_cast<Vector*>(workspace)), x(weights + weight_vectors(s)) {}

  static int64_t weight_vectors(const Shape& s) { return int64_t{s.channels / kSlice} * s.outputs * kTaps; }
  static int64_t x_vectors(const Plan& plan) {
    return int64_t{plan.shape.batch} * (plan.shape.channels / kSlice) * plan.prepared_area;
  }
  static int64_t bytes(const Shape& s) {
    return (weight_vectors(s) + x_vectors(plan(s, false))) * int64_t{sizeof(Vector)};
  }
};

// Eight channels of one pixel of x, or zeros. Neighbouring lanes read neighbouring addresses in either layout.
ZSM_HOST_DEVICE void prepare_x(const Plan& plan, const Half* x, unsigned i, Vector* to) {
  const Shape& s = plan.shape;
  const unsigned slices = s.channels / kSlice, width = plan.prepared_width, height = plan.prepared_area / width;
  const unsigned row = i / (slices * width), rest = i % (slices * width);
  const unsigned slice = plan.channels_last ? rest % slices : rest / width;
  const unsigned column = plan.channels_last ? rest / slices : rest % width;
  const int n = static_cast<int>(row / height), y = static_cast<int>(row % height);
  const int v = y - kBefore, u = static_cast<int>(column) - kBefore;
  Vector value{};
  if (inside(v, s.height) && inside(u, s.width)) {
    const Half* from = x + plan.x.at(n, slice * kSlice, v, u);
    if (plan.channels_last) {
      value = *reinterpret_cast<const Vector*>(from);
    } else {
      ZSM_UNROLL
      for (int c = 0; c < kSlice; ++c) value.pairs[c / 2] |= uint32_t{from[c * plan.x.channel].bits} << c % 2 * 16;
    }
  }
  to[(n * slices + slice) * plan.prepared_area + y * width + column] = value;
}

// Lane 4n+k holds slice k of the quad for column n of a matrix. Outputs are assigned to columns so that each lane ends
// up with neighbouring outputs.
template <typename C>
ZSM_HOST_DEVICE void prepare_weights(const Half* weight, int i, Vector* to) {
  const int lane = i % 32, matrix = i / 32 % C::kMatrices, tap = i / 32 / C::kMatrices % kTaps;
  const int column = lane / 4, channel = (i / C::kQuadVectors * kQuad + lane % 4) * kSlice;
  const int output = column / 2 * C::kLaneOutputs + matrix * 2 + column % 2;
  Vector value{};
  ZSM_UNROLL
  for (int c = 0; c < kSlice; ++c) {
    const Half each = weight[(output * C::kChannels + channel + c) * kTaps + tap];
    value.pairs[c / 2] |= uint32_t{each.bits} << c % 2 * 16;
  }
  to[i] = value;
}

// --- The pixels of a warp ---

// Lane 4p+k takes the pixels p and p+8, and slice k of each quad.
struct Tile {
  int n, y, x;  // its first pixel

  ZSM_HOST_DEVICE Tile(const Plan& plan, int index) {
    const int row = index / plan.tiles_across;
    n = row / plan.height, y = row % plan.height, x = index % plan.tiles_across * kPixels;
  }
};

// Copies are asynchronous on the GPU and deferred on the host. Pixels outside the image are left as they are: their
// results are never stored.
template <typename C, typename Copies>
ZSM_HOST_DEVICE void copy_offset_mask(const Plan& plan, const Tile& tile, const Half* offset_mask, int quad, int lane,
                                      Half* shared) {
  const int offsets = quad * C::kOffsets, logits = 2 * kTaps * C::kOffsetGroups + quad * C::kLogits;
  const Half* row = offset_mask + plan.offset_mask.at(tile.n, 0, tile.y, tile.x);
  const int pixels = plan.width - tile.x < kPixels ? plan.width - tile.x : kPixels;
  if (plan.channels_last) {
    constexpr int kOffsetPart = C::kOffsets / kTaps, kLogitPart = C::kLogits / kTaps;
    ZSM_UNROLL_BY(1)
    for (int i = lane; i < pixels * kTaps; i += 32) {
      const int p = i / kTaps, part = i % kTaps;
      const Half* from = row + p * plan.offset_mask.pixel;
      Half* to = shared + p * C::kRawPitch;
      Copies::template copy<kOffsetPart * 2>(to + part * kOffsetPart, from + offsets + part * kOffsetPart);
      Copies::template copy<kLogitPart * 2>(to + C::kOffsets + part * kLogitPart, from + logits + part * kLogitPart);
    }
  } else if (lane % kPixels < pixels) {
    const int p = lane % kPixels;
    ZSM_UNROLL_BY(9)
    for (int i = lane / kPixels; i < C::kOffsets + C::kLogits; i += 32 / kPixels) {
      const int channel = i + (i < C::kOffsets ? offsets : logits - C::kOffsets);
      shared[p * C::kRawPitch + i] = row[channel * plan.offset_mask.channel + p];
    }
  }
}

// --- Sampling ---

// Infinite and NaN offsets become ones that point outside any image.
ZSM_HOST_DEVICE Pair bounded(Pair offset) {
  constexpr float kMost = 2 * kLargest - 32;
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  __half2 value = *reinterpret_cast<const __half2*>(&offset);
  value = __hmin2(__hmax2(value, __float2half2_rn(-kMost)), __float2half2_rn(kMost));
  return *reinterpret_cast<const Pair*>(&value);
#else
  const auto one = [](Half half) { return from_float<Half>(fminf(fmaxf(to_float(half), -kMost), kMost)); };
  return {one(offset.first), one(offset.second)};
#endif
}

// displace() for FP16 offsets. Avoids conversions, which run at a quarter of the arithmetic rate: adding 1.5 * 2^23,
// rounded down, leaves the integer part in the lowest bits.
ZSM_HOST_DEVICE Position displace_near(int origin, float offset) {
#if defined(__CUDA_ARCH__)
  constexpr float kShift = 12582912.0f;
  const float shifted = __fadd_rd(offset, kShift);
  return {origin - 0x4b400000 + __float_as_int(shifted), offset - (shifted - kShift)};
#else
  return displace(origin, offset);
#endif
}

// sigmoid() in four instructions, to within a few units in the last place of a float.
ZSM_HOST_DEVICE float fast_sigmoid(float logit) {
#if defined(__CUDA_ARCH__)
  float power, result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(logit * -1.4426950408889634f));
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(1.0f + power));
  return result;
#else
  return sigmoid(logit);
#endif
}

ZSM_HOST_DEVICE uint32_t twice(float value) {
#if defined(__CUDA_ARCH__)
  const __half2 both = __float2half2_rn(value);
  return *reinterpret_cast<const uint32_t*>(&both);
#else
  return from_float<Half>(value).bits * 0x10001u;
#endif
}

// a * b + c of two FP16 each, rounded once.
ZSM_HOST_DEVICE uint32_t multiply_add(uint32_t a, uint32_t b, uint32_t c) {
#if defined(__CUDA_ARCH__)
  const auto half2 = [](const uint32_t& bits) { return *reinterpret_cast<const __half2*>(&bits); };
  const __half2 sum = __hfma2(half2(a), half2(b), half2(c));
  return *reinterpret_cast<const uint32_t*>(&sum);
#else
  const auto one = [&](int shift) {
    const auto value = [&](uint32_t bits) { return to_float(Half{static_cast<uint16_t>(bits >> shift)}); };
    return uint32_t{from_float<Half>(value(a) * value(b) + value(c)).bits} << shift;
  };
  return one(0) | one(16);
#endif
}

ZSM_HOST_DEVICE unsigned at_most(int value, int most) {
  return static_cast<unsigned>(value) < static_cast<unsigned>(most) ? value : most;
}

// A sample: its upper left corner in the prepared x, and each corner's weight in FP16, duplicated.
struct Footprint {
  unsigned index;
  uint32_t weight[4];
};

// (y, x) is a tap's position without its offset. Unsigned, negative positions are huge, so one bound is enough.
ZSM_HOST_DEVICE Footprint footprint(const Plan& plan, unsigned slice, int y, int x, Pair offset, Half logit) {
  offset = bounded(offset);
  const Corners at = corners(displace_near(y + kBefore, to_float(offset.first)),
                             displace_near(x + kBefore, to_float(offset.second)), fast_sigmoid(to_float(logit)));
  const unsigned row = at_most(at.y, plan.shape.height + kBefore), column = at_most(at.x, plan.shape.width + kBefore);
  return {slice + row * plan.prepared_width + column,
          {twice(at.weight[0]), twice(at.weight[1]), twice(at.weight[2]), twice(at.weight[3])}};
}

struct FourVectors {
  Vector corner[4];
};

ZSM_HOST_DEVICE FourVectors load(const Plan& plan, const Vector* x, unsigned index) {
  const Vector *upper = x + index, *lower = x + (index + plan.prepared_width);
  return {{upper[0], upper[1], lower[0], lower[1]}};
}

ZSM_HOST_DEVICE Vector interpolate(const Footprint& f, const FourVectors& v) {
  Vector sum{};
  ZSM_UNROLL
  for (int i = 0; i < 4; ++i) {
    ZSM_UNROLL
    for (int j = 0; j < 4; ++j) sum.pairs[j] = multiply_add(f.weight[i], v.corner[i].pairs[j], sum.pairs[j]);
  }
  return sum;
}

// --- Multiplying, and writing ---

// `Matrices` multiplies, on the tensor cores or in loops on the host. Of each matrix a lane holds two neighbouring
// outputs of its first pixel, then of its second.
template <typename C, typename Matrices>
struct Sums {
  typename Matrices::Sum matrix[C::kMatrices];
};

// Samples a quad and adds its products to the sums.
template <typename C, typename Matrices>
ZSM_HOST_DEVICE void accumulate(const Plan& plan, const Tile& tile, const Vector* x, const Half* offset_mask,
                                const Vector* weights, int quad, int lane, Sums<C, Matrices>& sums) {
  constexpr int kApart = kPixels / 2;
  const Shape& s = plan.shape;
  const int p = lane / kQuad, slice = lane % kQuad, group = slice * C::kGroups / kQuad;
  const int top = tile.y * s.stride_h - s.pad_top, left = (tile.x + p) * s.stride_w - s.pad_left;
  const unsigned first = (tile.n * C::kSlices + quad * kQuad + slice) * static_cast<unsigned>(plan.prepared_area);
  const Half* raw = offset_mask + p * C::kRawPitch;
  const auto* offsets = reinterpret_cast<const Pair*>(raw) + group * kTaps;
  const Half* logits = raw + C::kOffsets + group * kTaps;
  weights += lane;
  ZSM_UNROLL_BY(1)
  for (int i = 0; i < kSide; ++i) {
    ZSM_UNROLL_BY(1)
    for (int j = 0; j < kSide; ++j) {
      const int y = top + i * s.dilation_h, u = left + j * s.dilation_w;
      const Footprint one = footprint(plan, first, y, u, offsets[0], logits[0]);
      const Footprint two = footprint(plan, first, y, u + kApart * s.stride_w, offsets[kApart * C::kRawPitch / 2],
                                      logits[kApart * C::kRawPitch]);
      const FourVectors one_corners = load(plan, x, one.index), two_corners = load(plan, x, two.index);
      const Vector a = interpolate(one, one_corners), b = interpolate(two, two_corners);
      ZSM_UNROLL
      for (int m = 0; m < C::kMatrices; ++m) {
        const Vector w = weights[m * 32];
        ZSM_UNROLL
        for (int k = 0; k < 4; k += 2)
          Matrices::multiply_add(sums.matrix[m], {a.pairs[k], b.pairs[k], a.pairs[k + 1], b.pairs[k + 1]},
                                 {w.pairs[k], w.pairs[k + 1]});
      }
      ++offsets, ++logits, weights += C::kMatrices * 32;
    }
  }
}

// Adds the bias and writes a lane's outputs.
template <typename C, typename Matrices>
ZSM_HOST_DEVICE void write_out(const Plan& plan, const Tile& tile, const Sums<C, Matrices>& sums, const Half* bias,
                               int lane, Half* out) {
  const int first = lane % 4 * C::kLaneOutputs;
  ZSM_UNROLL
  for (int second = 0; second < 2; ++second) {
    const int x = tile.x + lane / 4 + second * kPixels / 2;
    Half* to = out + plan.out.at(tile.n, first, tile.y, x);
    ZSM_UNROLL
    for (int m = 0; m < C::kMatrices; m += 4) {
      Vector values;
      ZSM_UNROLL
      for (int i = 0; i < 4; ++i) {
        const Pair b = *reinterpret_cast<const Pair*>(bias + first + (m + i) * 2);
        const auto& sum = sums.matrix[m + i];
        const Half one = from_float<Half>(Matrices::value(sum, second * 2) + to_float(b.first));
        const Half two = from_float<Half>(Matrices::value(sum, second * 2 + 1) + to_float(b.second));
        values.pairs[i] = one.bits | uint32_t{two.bits} << 16;
      }
      if (x >= plan.width) continue;
      if (plan.channels_last) {
        *reinterpret_cast<Vector*>(to + m * 2) = values;
      } else {
        ZSM_UNROLL
        for (int i = 0; i < kSlice; ++i)
          to[(m * 2 + i) * plan.out.channel].bits = static_cast<uint16_t>(values.pairs[i / 2] >> i % 2 * 16);
      }
    }
  }
}

using Full = Config<64, 8>;
using Compact4 = Config<32, 4>;
using Compact2 = Config<32, 2>;

}  // namespace zsm::fused
