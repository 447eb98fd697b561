// Sampling positions of the deformable convolution, and the bilinear weights of the four pixels around each.
//
// Shared by host and device, so that the kernels' arithmetic is tested without a GPU.
#pragma once

#include <cmath>

// Always inlined: a copy compiled for one instruction set must not serve callers compiled for another.
#if defined(__CUDACC__)
#define ZSM_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define ZSM_HOST_DEVICE inline __attribute__((always_inline))
#endif

#if defined(__CUDA_ARCH__)
#define ZSM_UNROLL _Pragma("unroll")
#define ZSM_UNROLL_BY(n) _Pragma(ZSM_TEXT(unroll n))
#define ZSM_TEXT(text) #text
#else
#define ZSM_UNROLL
#define ZSM_UNROLL_BY(n)
#endif

namespace zsm {

// A position along one axis: a pixel, and a fraction of the way to the next one. Rounding origin + offset to one
// float would lose sub-pixel precision in large images: at 4096 pixels 12 of float's 24 bits remain, none of half's.
struct Position {
  int pixel;
  float fraction;  // in [0, 1]
};

// An offset beyond any image, which samples zero. Sizes are smaller, so that sums with it fit an int.
constexpr float kFar = 1 << 28;

ZSM_HOST_DEVICE Position displace(int origin, float offset) {
  const float above = offset > -kFar ? offset : -kFar;  // false for NaN, which also samples zero
  const float bounded = above < kFar ? above : kFar;
  const float whole = floorf(bounded);
  return {origin + static_cast<int>(whole), bounded - whole};
}

// Pixels (y, x), (y, x+1), (y+1, x), (y+1, x+1), in this order.
struct Corners {
  int y, x;
  float weight[4];
};

ZSM_HOST_DEVICE Corners corners(Position y, Position x, float mask) {
  const float below = y.fraction * mask, above = mask - below;
  const float upper_right = above * x.fraction, lower_right = below * x.fraction;
  return {y.pixel, x.pixel, {above - upper_right, upper_right, below - lower_right, lower_right}};
}

ZSM_HOST_DEVICE bool inside(int index, int size) { return static_cast<unsigned>(index) < static_cast<unsigned>(size); }

ZSM_HOST_DEVICE float sigmoid(float logit) { return 1.0f / (1.0f + expf(-logit)); }

}  // namespace zsm
