// FP16 multiplication on tensor cores in PTX, because wmma hides which lane holds which elements.
#pragma once

#include <cstdint>

namespace zsm {

struct TensorCores {
  struct Sum {
    float value[4] = {};
  };

  // Adds a (16,16) times b (16,8), distributed over a warp as mma.m16n8k16 defines it.
  static __device__ __forceinline__ void multiply_add(Sum& sum, const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    float (&s)[4] = sum.value;
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
    for (int i = 0; i < 2; ++i)
      asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
          : "+f"(s[0]), "+f"(s[1]), "+f"(s[2]), "+f"(s[3])
          : "r"(a[2 * i]), "r"(a[2 * i + 1]), "r"(b[i]));
#else
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(s[0]), "+f"(s[1]), "+f"(s[2]), "+f"(s[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
  }

  static __device__ __forceinline__ float value(const Sum& sum, int i) { return sum.value[i]; }
};

}  // namespace zsm
