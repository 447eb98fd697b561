// What the fused kernel is measured against: its sampling alone, and the im2col that other libraries' kernels start
// with (the multiplication is then cuBLAS's).
#include <cuda_runtime.h>

#include <algorithm>

#include "core/fused.h"

namespace {

using zsm::Half;
using zsm::Shape;
using C = zsm::fused::Streamed128;

// All samples are made as in the fused kernel; of each pixel as many as it has outputs are written.
__global__ void __launch_bounds__(C::kThreads, 2) gather_only(Shape s, zsm::Tensors<Half> t) {
  extern __shared__ __align__(128) unsigned char memory[];
  Half* columns = reinterpret_cast<Half*>(memory);
  const int thread = static_cast<int>(threadIdx.x);
  for (int64_t index = blockIdx.x; index < zsm::fused::tiles<C>(s); index += gridDim.x) {
    const zsm::fused::Tile tile = zsm::fused::tile<C>(s, index);
    for (int stage = 0; stage < C::kStages; ++stage) {
      __syncthreads();
      zsm::fused::gather<C>(s, tile, t.x, t.offset_mask, stage * C::kGroups, thread, columns);
    }
    __syncthreads();
    constexpr int kVectors = zsm::fused::kOutputs / zsm::fused::kVector;
    for (int i = thread; i < C::kPixels * kVectors; i += C::kThreads) {
      const int p = i / kVectors, column = i % kVectors * zsm::fused::kVector;
      const zsm::fused::Pixel at = zsm::fused::pixel(s, tile, p);
      if (!at.exists) continue;
      const auto* from = reinterpret_cast<const zsm::fused::Vector*>(columns + p * C::kColumnPitch + column);
      *reinterpret_cast<zsm::fused::Vector*>(t.out + at.index * zsm::fused::kOutputs + column) = *from;
    }
  }
}

// One thread per input channel and output pixel; columns (N, channels*taps, pixels).
template <typename T>
__global__ void im2col(Shape s, zsm::Tensors<T> t) {
  const int K = zsm::taps(s), width = zsm::output_width(s);
  const int64_t pixels = int64_t{zsm::output_height(s)} * width, count = s.batch * s.channels * pixels;
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < count; i += int64_t{gridDim.x} * blockDim.x) {
    const int64_t n = i / pixels / s.channels, c = i / pixels % s.channels, p = i % pixels;
    const int y = static_cast<int>(p / width), x = static_cast<int>(p % width);
    const int g = static_cast<int>(c) / (s.channels / s.offset_groups);
    const T* plane = t.x + (n * s.channels + c) * s.height * s.width;
    const T* offsets = t.offset_mask + (n * zsm::offset_channels(s) + 2 * g * K) * pixels + p;
    const T* logits = t.offset_mask + (n * zsm::offset_channels(s) + zsm::mask_channel(s) + g * K) * pixels + p;
    for (int k = 0; k < K; ++k) {
      const zsm::Corners corner =
          zsm::corners(zsm::displace(y - s.pad_top + k / s.kernel_w, zsm::to_float(offsets[2 * k * pixels])),
                       zsm::displace(x - s.pad_left + k % s.kernel_w, zsm::to_float(offsets[(2 * k + 1) * pixels])),
                       zsm::sigmoid(zsm::to_float(logits[k * pixels])));
      float sum = 0;
      for (int j = 0; j < 4; ++j) {
        const int v = corner.y + j / 2, u = corner.x + j % 2;
        if (zsm::inside(v, s.height) && zsm::inside(u, s.width))
          sum += corner.weight[j] * zsm::to_float(plane[int64_t{v} * s.width + u]);
      }
      t.out[((n * s.channels + c) * K + k) * pixels + p] = zsm::from_float<T>(sum);
    }
  }
}

template <typename T>
void launch_im2col(const Shape& s, const zsm_deform_conv2d_tensors& tensors, cudaStream_t stream) {
  const int64_t count = int64_t{s.batch} * s.channels * zsm::output_height(s) * zsm::output_width(s);
  const auto blocks = static_cast<unsigned>(std::min<int64_t>((count + 255) / 256, 1 << 20));
  im2col<T><<<blocks, 256, 0, stream>>>(s, zsm::Tensors<T>(tensors));
}

}  // namespace

// FP16, channels-last, a shape that the fused kernels take. Returns a cudaError_t.
extern "C" ZSM_API int zsm_benchmark_gather(const zsm_deform_conv2d_shape* shape,
                                            const zsm_deform_conv2d_tensors* tensors, void* stream) {
  int device = 0, multiprocessors = 0, blocks = 0;
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device);
  cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, gather_only, C::kThreads, C::kColumnBytes);
  const auto grid = static_cast<unsigned>(std::min<int64_t>(zsm::fused::tiles<C>(*shape), multiprocessors * blocks));
  gather_only<<<grid, C::kThreads, C::kColumnBytes, static_cast<cudaStream_t>(stream)>>>(*shape,
                                                                                         zsm::Tensors<Half>(*tensors));
  return cudaGetLastError();
}

// Linear; `out` is the columns, (batch, channels*9, pixels). Stride and dilation 1. Returns a cudaError_t.
extern "C" ZSM_API int zsm_benchmark_im2col(const zsm_deform_conv2d_shape* shape, zsm_type type,
                                            const zsm_deform_conv2d_tensors* tensors, void* stream) {
  const auto queue = static_cast<cudaStream_t>(stream);
  type == ZSM_FLOAT16 ? launch_im2col<Half>(*shape, *tensors, queue) : launch_im2col<float>(*shape, *tensors, queue);
  return cudaGetLastError();
}
