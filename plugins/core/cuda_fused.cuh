// The fused kernel: barriers, asynchronous copies and tensor cores around the steps of fused.h.
#pragma once

#include <cuda_pipeline_primitives.h>

#include "core/fused.h"
#include "core/tensor_cores.cuh"

namespace zsm::fused {

constexpr int kPrepareThreads = 256;

// Turing's shared memory holds the offsets of few warps, so each may use more registers.
constexpr int kTuringWarps = 8;
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
constexpr int kBlockWarps = kTuringWarps;
#else
constexpr int kBlockWarps = kMostWarps;
#endif

// A thread waits only for its own copies; a barrier must follow.
struct AsyncCopies {
  template <int kBytes>
  static __device__ __forceinline__ void copy(void* to, const void* from) {
    __pipeline_memcpy_async(to, from, kBytes);
  }
  static __device__ __forceinline__ void wait() {
    __pipeline_commit();
    __pipeline_wait_prior(0);
  }
};

template <typename C>
__global__ void __launch_bounds__(kPrepareThreads) prepare(Plan plan, Tensors<Half> t, Prepared to, unsigned vectors) {
  const unsigned first = blockIdx.x * kPrepareThreads + threadIdx.x, step = gridDim.x * kPrepareThreads;
  for (unsigned i = first; i < vectors; i += step) prepare_x(plan, t.x, i, to.x);
  for (unsigned i = first; i < C::kQuads * C::kQuadVectors; i += step)
    prepare_weights<C>(t.weight, static_cast<int>(i), to.weights);
}

// Copies the weights to shared memory once, or, where that is too small, one quad at a time.
template <typename C, typename Matrices = TensorCores>
__global__ void __launch_bounds__(kBlockWarps * 32)
    kernel(Plan plan, Tensors<Half> t, Prepared prepared, bool resident) {
  extern __shared__ __align__(128) unsigned char memory[];
  auto* weights = reinterpret_cast<Vector*>(memory);
  const int thread = static_cast<int>(threadIdx.x), warp = thread / 32, lane = thread % 32;
  const int warps = static_cast<int>(blockDim.x) / 32, step = static_cast<int>(gridDim.x) * warps;
  auto* offset_mask =
      reinterpret_cast<Half*>(memory + (resident ? C::kQuads : 1) * C::kQuadBytes + warp * C::kRawBytes);
  const auto copy_weights = [&](int first, int count) {
    ZSM_UNROLL_BY(1)
    for (int i = thread; i < count; i += warps * 32) AsyncCopies::copy<16>(weights + i, prepared.weights + first + i);
    AsyncCopies::wait();
  };

  if (resident) {
    copy_weights(0, C::kQuads * C::kQuadVectors);
    __syncthreads();  // the weights have arrived
  }
  ZSM_UNROLL_BY(1)
  for (int index = static_cast<int>(blockIdx.x) * warps + warp; index - warp < plan.tiles; index += step) {
    Sums<C, Matrices> sums;
    ZSM_UNROLL_BY(1)
    for (int quad = 0; quad < C::kQuads; ++quad) {
      if (!resident) {
        __syncthreads();  // everyone is done with the previous weights
        copy_weights(quad * C::kQuadVectors, C::kQuadVectors);
        __syncthreads();  // the weights have arrived
      }
      if (index >= plan.tiles) continue;
      const Tile tile(plan, index);
      __syncwarp();  // all lanes are done with the previous offsets
      copy_offset_mask<C, AsyncCopies>(plan, tile, t.offset_mask, quad, lane, offset_mask);
      AsyncCopies::wait();
      __syncwarp();  // the offsets have arrived
      accumulate<C, Matrices>(plan, tile, prepared.x, offset_mask, weights + (resident ? quad * C::kQuadVectors : 0),
                              quad, lane, sums);
    }
    if (index < plan.tiles) write_out<C>(plan, Tile(plan, index), sums, t.bias, lane, t.out);
  }
}

}  // namespace zsm::fused
