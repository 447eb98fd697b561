// FP16 as a storage type, on host and device, without arithmetic.
#pragma once

#include <cstdint>
#include <cstring>

#include "core/sampling.h"

#if defined(__CUDACC__)
#include <cuda_fp16.h>
#endif

namespace zsm {

struct Half {
  uint16_t bits;
};

namespace detail {

inline uint32_t bits_of(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

inline float float_of(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// Multiplying by a power of two moves the exponent between the formats and handles subnormals.
inline float widen(uint16_t half) {
  const uint32_t sign = (half & 0x8000u) << 16, magnitude = half & 0x7fffu;
  if (magnitude >= 0x7c00u) return float_of(sign | 0x7f800000u | (magnitude & 0x3ffu) << 13);
  return float_of(sign | bits_of(float_of(magnitude << 13) * 0x1p112f));
}

inline uint16_t narrow(float value) {
  const uint32_t bits = bits_of(value), sign = bits >> 16 & 0x8000u, magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u);   // NaN
  if (magnitude >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);  // rounds to infinity
  if (magnitude < 0x38800000u) {  // subnormal: adding 0.5 leaves the rounding to the float addition
    return static_cast<uint16_t>(sign | (bits_of(float_of(magnitude) + 0.5f) - 0x3f000000u));
  }
  const uint32_t odd = magnitude >> 13 & 1u;  // ties to even
  return static_cast<uint16_t>(sign | ((magnitude - 0x38000000u + 0xfffu + odd) >> 13));
}

}  // namespace detail

ZSM_HOST_DEVICE float to_float(float value) { return value; }

ZSM_HOST_DEVICE float to_float(Half value) {
#if defined(__CUDA_ARCH__)
  return __half2float(__ushort_as_half(value.bits));
#else
  return detail::widen(value.bits);
#endif
}

template <typename T>
ZSM_HOST_DEVICE T from_float(float value);

template <>
ZSM_HOST_DEVICE float from_float<float>(float value) {
  return value;
}

template <>
ZSM_HOST_DEVICE Half from_float<Half>(float value) {
#if defined(__CUDA_ARCH__)
  return {__half_as_ushort(__float2half_rn(value))};
#else
  return {detail::narrow(value)};
#endif
}

}  // namespace zsm
