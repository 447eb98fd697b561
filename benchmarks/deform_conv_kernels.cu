// Baselines for the fused kernel: its sampling alone, and the im2col with which other libraries start (cuBLAS then
// multiplies).
#include <cuda_runtime.h>

#include <algorithm>

#include "core/cuda_fused.cuh"

namespace {

using zsm::Half;
using zsm::Shape;
using C = zsm::fused::Full;

// Samples, but discards the result. The output is the bias.
struct NoMatrices {
  struct Sum {};

  static __device__ __forceinline__ void multiply_add(Sum&, const uint32_t (&a)[4], const uint32_t (&)[2]) {
    asm volatile("" ::"r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]));
  }
  static __device__ __forceinline__ float value(const Sum&, int) { return 0; }
};

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

// FP16, channels-last, 64 channels in 8 deformable groups. Samples the x that the last fused launch prepared in the
// workspace. Returns a cudaError_t.
extern "C" ZSM_API int zsm_benchmark_gather(const zsm_deform_conv2d_shape* shape,
                                            const zsm_deform_conv2d_tensors* tensors, void* workspace, void* stream) {
  const auto gather = zsm::fused::kernel<C, NoMatrices>;
  const int warps = zsm::fused::kMostWarps, bytes = zsm::fused::shared_bytes<C>(warps, false);
  int device = 0, multiprocessors = 0;
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device);
  cudaFuncSetAttribute(gather, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  gather<<<multiprocessors, warps * 32, bytes, static_cast<cudaStream_t>(stream)>>>(
      zsm::fused::plan(*shape, true), zsm::Tensors<Half>(*tensors), zsm::fused::Prepared(*shape, workspace), false);
  return cudaGetLastError();
}

// Linear; `out` is the columns, (batch, channels*9, pixels). Stride and dilation 1. Returns a cudaError_t.
extern "C" ZSM_API int zsm_benchmark_im2col(const zsm_deform_conv2d_shape* shape, zsm_type type,
                                            const zsm_deform_conv2d_tensors* tensors, void* stream) {
  const auto queue = static_cast<cudaStream_t>(stream);
  type == ZSM_FLOAT16 ? launch_im2col<Half>(*shape, *tensors, queue) : launch_im2col<float>(*shape, *tensors, queue);
  return cudaGetLastError();
}
