// The fused kernel: barriers and tensor cores around the steps of fused.h.
#pragma once

#include <mma.h>

#include "core/fused.h"

namespace zsm::fused {

struct TensorCores {
  using Left =
      nvcuda::wmma::fragment<nvcuda::wmma::matrix_a, kMatrix, kMatrix, kMatrix, __half, nvcuda::wmma::row_major>;
  using Right =
      nvcuda::wmma::fragment<nvcuda::wmma::matrix_b, kMatrix, kMatrix, kMatrix, __half, nvcuda::wmma::col_major>;
  using Sum = nvcuda::wmma::fragment<nvcuda::wmma::accumulator, kMatrix, kMatrix, kMatrix, float>;

  static __device__ __forceinline__ void clear(Sum& sum) { nvcuda::wmma::fill_fragment(sum, 0.0f); }
  template <typename Fragment>
  static __device__ __forceinline__ void load(Fragment& fragment, const Half* from, int pitch) {
    nvcuda::wmma::load_matrix_sync(fragment, reinterpret_cast<const __half*>(from), pitch);
  }
  static __device__ __forceinline__ void multiply_add(Sum& sum, const Left& left, const Right& right) {
    nvcuda::wmma::mma_sync(sum, left, right, sum);
  }
  static __device__ __forceinline__ void store(float* to, int pitch, const Sum& sum) {
    nvcuda::wmma::store_matrix_sync(to, sum, pitch, nvcuda::wmma::mem_row_major);
  }
};

// At least two blocks of 256 threads fit a multiprocessor's registers.
template <typename C>
__global__ void __launch_bounds__(C::kThreads, 512 / C::kThreads) kernel(Shape s, Tensors<Half> t) {
  extern __shared__ __align__(128) unsigned char memory[];
  Half* columns = reinterpret_cast<Half*>(memory);
  Half* weights = reinterpret_cast<Half*>(memory + C::kColumnBytes);
  const int thread = static_cast<int>(threadIdx.x), warp = thread / 32, lane = thread % 32;

  if (C::kResident) load_weights<C>(t.weight, 0, thread, weights);
  for (int64_t index = blockIdx.x; index < tiles<C>(s); index += gridDim.x) {
    const Tile at = tile<C>(s, index);
    Sums<C, TensorCores> sums;
    sums.clear();
    ZSM_UNROLL_BY(1)
    for (int stage = 0; stage < C::kStages; ++stage) {
      __syncthreads();  // everyone is done with the columns and weights of before
      if (!C::kResident) load_weights<C>(t.weight, stage * C::kGroups, thread, weights);
      gather<C>(s, at, t.x, t.offset_mask, stage * C::kGroups, thread, columns);
      __syncthreads();
      multiply(columns, weights + (C::kResident ? stage * C::kDepth : 0), warp, sums);
    }
    __syncthreads();
    float* buffer = sum_buffer<C>(columns, warp);
    ZSM_UNROLL
    for (int half = 0; half < 2; ++half) {
      store_sums(sums, half, buffer);
      __syncwarp();
      write_out<C>(s, at, buffer, t.bias, half, warp, lane, t.out);
      __syncwarp();
    }
  }
}

}  // namespace zsm::fused
