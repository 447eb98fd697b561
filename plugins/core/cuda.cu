#include <cuda_runtime.h>

#include <algorithm>
#include <atomic>

#include "core/cuda.h"
#include "core/cuda_fused.cuh"
#include "core/cuda_plain.cuh"

namespace zsm {
namespace {

constexpr int kDevices = 64;  // whose occupancy is remembered

// Sizes a persistent grid: as many blocks as fit the current device at once. 0 and `error` if that fails.
template <typename C>
int resident_blocks(cudaError_t& error) {
  static std::atomic<int> known[kDevices];
  int device = 0, multiprocessors = 0, per_multiprocessor = 0;
  if ((error = cudaGetDevice(&device)) != cudaSuccess) return 0;
  if (device < kDevices && known[device] > 0) return known[device];
  if ((error = cudaFuncSetAttribute(fused::kernel<C>, cudaFuncAttributeMaxDynamicSharedMemorySize, C::kSharedBytes)) !=
          cudaSuccess ||
      (error = cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device)) != cudaSuccess ||
      (error = cudaOccupancyMaxActiveBlocksPerMultiprocessor(&per_multiprocessor, fused::kernel<C>, C::kThreads,
                                                             C::kSharedBytes)) != cudaSuccess)
    return 0;
  const int blocks = multiprocessors * per_multiprocessor;
  if (device < kDevices) known[device] = blocks;
  return blocks;
}

template <typename C>
cudaError_t launch_fused(const Shape& s, const zsm_deform_conv2d_tensors& tensors, cudaStream_t stream) {
  cudaError_t error = cudaSuccess;
  const int most = resident_blocks<C>(error);
  if (error != cudaSuccess) return error;
  if (most == 0) return cudaErrorLaunchOutOfResources;
  const auto blocks = static_cast<unsigned>(std::min<int64_t>(fused::tiles<C>(s), most));
  fused::kernel<C><<<blocks, C::kThreads, C::kSharedBytes, stream>>>(s, Tensors<Half>(tensors));
  return cudaGetLastError();
}

template <typename T>
cudaError_t launch_plain(const Shape& s, zsm_layout layout, const zsm_deform_conv2d_tensors& tensors,
                         cudaStream_t stream) {
  const auto blocks = static_cast<unsigned>(std::min<int64_t>(plain::work_items(s), 1 << 30));
  const plain::Layout at = plain::layout(s, layout == ZSM_CHANNELS_LAST);
  plain::kernel<T><<<blocks, plain::kThreads, 0, stream>>>(s, at, Tensors<T>(tensors));
  return cudaGetLastError();
}

struct Fused {
  int32_t id;
  int shared_bytes;
  cudaError_t (*launch)(const Shape&, const zsm_deform_conv2d_tensors&, cudaStream_t);
};

template <typename C>
constexpr Fused fused_kernel(zsm_cuda_kernel id) {
  return {id, C::kSharedBytes, launch_fused<C>};
}

// The likely fastest first: weights that stay cost no second read, then big tiles that share what they read.
constexpr Fused kFused[] = {
    fused_kernel<fused::Resident128>(ZSM_KERNEL_FUSED_128_RESIDENT),
    fused_kernel<fused::Streamed128>(ZSM_KERNEL_FUSED_128_STREAMED),
    fused_kernel<fused::Streamed64>(ZSM_KERNEL_FUSED_64_STREAMED),
    fused_kernel<fused::Resident64>(ZSM_KERNEL_FUSED_64_RESIDENT),
};

int shared_memory() {
  int device = 0, bytes = 0;
  if (cudaGetDevice(&device) != cudaSuccess ||
      cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device) != cudaSuccess) {
    cudaGetLastError();  // no device is no error here, and must not surface later
    return 1 << 30;
  }
  return bytes;
}

bool aligned(const zsm_deform_conv2d_tensors& t) {
  const auto bits = [](const void* pointer) { return reinterpret_cast<uintptr_t>(pointer); };
  return (bits(t.x) | bits(t.offset_mask) | bits(t.weight) | bits(t.bias) | bits(t.out)) % 16 == 0;
}

}  // namespace

int cuda_kernels(const Shape& s, zsm_type type, zsm_layout layout, int32_t* kernels) {
  int count = 0;
  if (type == ZSM_FLOAT16 && layout == ZSM_CHANNELS_LAST && fused::takes(s)) {
    const int available = shared_memory();
    for (const Fused& f : kFused) {
      if (f.shared_bytes <= available) kernels[count++] = f.id;
    }
  }
  kernels[count++] = ZSM_KERNEL_PLAIN;
  return count;
}

zsm_status cuda(const Shape& s, zsm_type type, zsm_layout layout, int32_t kernel,
                const zsm_deform_conv2d_tensors& tensors, void* stream, std::string& message) {
  int32_t kernels[8];
  const int count = cuda_kernels(s, type, layout, kernels);
  if (kernel == ZSM_KERNEL_AUTO) kernel = kernels[0];
  if (std::find(kernels, kernels + count, kernel) == kernels + count) {
    message = "CUDA kernel " + std::to_string(kernel) + " does not take this shape, type and layout on this device";
    return ZSM_UNSUPPORTED;
  }
  const auto queue = static_cast<cudaStream_t>(stream);
  cudaError_t error = cudaSuccess;
  if (kernel == ZSM_KERNEL_PLAIN) {
    error = type == ZSM_FLOAT32 ? launch_plain<float>(s, layout, tensors, queue)
                                : launch_plain<Half>(s, layout, tensors, queue);
  } else if (!aligned(tensors)) {
    message = "the fused kernels need tensors aligned to 16 bytes";
    return ZSM_INVALID_ARGUMENT;
  } else {
    const auto* chosen =
        std::find_if(std::begin(kFused), std::end(kFused), [=](const Fused& f) { return f.id == kernel; });
    error = chosen->launch(s, tensors, queue);
  }
  if (error == cudaSuccess) return ZSM_OK;
  message = std::string("CUDA: ") + cudaGetErrorString(error);
  return ZSM_CUDA_ERROR;
}

}  // namespace zsm
