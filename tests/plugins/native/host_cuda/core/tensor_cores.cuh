// Replaces the tensor cores by loops: mma.m16n8k16, with matrices distributed over a warp as in PTX's manual.
//
// Lanes only record their operands. A multiplication isn't a barrier, so a test fails if the kernel lacks one.
#pragma once

#include <array>
#include <vector>

#include "core/half.h"
#include "host_cuda.h"

namespace zsm {

struct TensorCores {
  struct Operands {
    std::array<uint32_t, 4> a;
    std::array<uint32_t, 2> b;
  };
  using Sum = std::vector<Operands>;

  static void multiply_add(Sum& sum, const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    sum.push_back({{a[0], a[1], a[2], a[3]}, {b[0], b[1]}});
  }

  // All lanes of a warp call this together.
  static float value(const Sum& sum, int i) {
    static std::array<const Sum*, 1024> sums;
    const unsigned thread = threadIdx.x, lane = thread % 32, row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
    sums[thread] = &sum;
    __syncwarp();
    const Sum* const* const lanes = &sums[thread - lane];
    float total = 0;
    for (size_t step = 0; step < sum.size(); ++step) {
      for (unsigned k = 0; k < 16; ++k) {
        const unsigned part = k / 8, owner = k % 8 / 2;
        const uint32_t a = (*lanes[row % 8 * 4 + owner])[step].a[part * 2 + row / 8];
        const uint32_t b = (*lanes[column * 4 + owner])[step].b[part];
        total += half(a, k) * half(b, k);
      }
    }
    __syncwarp();
    return total;
  }

 private:
  static float half(uint32_t pair, unsigned k) { return to_float(Half{static_cast<uint16_t>(pair >> k % 2 * 16)}); }
};

}  // namespace zsm
