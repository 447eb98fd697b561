// The part of CUDA's mma.h that the fused kernel uses, in loops. Checks the alignment that tensor cores ask for.
#pragma once

#include <cstdint>

#include "core/half.h"
#include "host_cuda.h"

struct __half {
  uint16_t bits;
};

namespace nvcuda::wmma {

struct matrix_a;
struct matrix_b;
struct accumulator;
struct row_major;
struct col_major;
enum layout_t { mem_row_major };

// Every thread of a warp keeps a copy of a, by rows, or b, by columns.
template <typename Use, int M, int N, int K, typename T, typename Layout = void>
struct fragment {
  static_assert(M == 16 && N == 16 && K == 16);
  float value[16][16];
};

// Of the sums it keeps every 32nd, beginning with its own lane's.
template <int M, int N, int K>
struct fragment<accumulator, M, N, K, float> {
  float value[8];
};

using Sum = fragment<accumulator, 16, 16, 16, float>;

inline unsigned element(int i) { return threadIdx.x % 32 + 32 * i; }

inline void require(bool condition, const char* what) {
  if (condition) return;
  std::printf("wmma: %s\n", what);
  std::exit(1);
}

inline void fill_fragment(Sum& sum, float value) {
  for (float& each : sum.value) each = value;
}

// a is row_major and b col_major: in both, depth is what varies fastest.
template <typename Fragment>
void load_matrix_sync(Fragment& fragment, const __half* from, unsigned pitch) {
  require(reinterpret_cast<uintptr_t>(from) % 32 == 0 && pitch % 8 == 0, "a load is not aligned");
  for (int i = 0; i < 256; ++i)
    fragment.value[i / 16][i % 16] = zsm::to_float(zsm::Half{from[i / 16 * pitch + i % 16].bits});
}

template <typename A, typename B>
void mma_sync(Sum& to, const A& a, const B& b, const Sum& sum) {
  for (int i = 0; i < 8; ++i) {
    const float *row = a.value[element(i) / 16], *column = b.value[element(i) % 16];
    to.value[i] = sum.value[i];
    for (int k = 0; k < 16; ++k) to.value[i] += row[k] * column[k];
  }
}

inline void store_matrix_sync(float* to, const Sum& sum, unsigned pitch, layout_t) {
  require(reinterpret_cast<uintptr_t>(to) % 32 == 0 && pitch % 4 == 0, "a store is not aligned");
  for (int i = 0; i < 8; ++i) to[element(i) / 16 * pitch + element(i) % 16] = sum.value[i];
}

}  // namespace nvcuda::wmma
