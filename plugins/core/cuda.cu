#include <cuda_runtime.h>

#include <algorithm>

#include "core/cuda.h"
#include "core/cuda_fused.cuh"
#include "core/cuda_plain.cuh"

namespace zsm {
namespace {

struct Device {
  int multiprocessors;
  int shared_bytes, warps;  // per block, at most
};

cudaError_t current(Device& device) {
  int index = 0;
  cudaError_t error = cudaGetDevice(&index);
  const auto get = [&](int& value, cudaDeviceAttr attribute) {
    if (error == cudaSuccess) error = cudaDeviceGetAttribute(&value, attribute, index);
  };
  int major = 0;
  get(major, cudaDevAttrComputeCapabilityMajor);
  device.warps = major < 8 ? fused::kTuringWarps : fused::kMostWarps;
  get(device.multiprocessors, cudaDevAttrMultiProcessorCount);
  get(device.shared_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin);
  return error;
}

// The largest number of warps per block. A multiprocessor holds one block.
template <typename C>
int most_warps(const Device& device, bool resident) {
  const int room = device.shared_bytes - fused::shared_bytes<C>(0, resident);
  return std::min(room / C::kRawBytes, device.warps);
}

// The most dynamic shared memory that a launch may take.
template <typename C>
int most_shared_bytes(const Device& device) {
  const auto most = [&](bool resident) { return fused::shared_bytes<C>(most_warps<C>(device, resident), resident); };
  return std::min(std::max(most(true), most(false)), device.shared_bytes);
}

template <typename C>
cudaError_t launch_fused(const Shape& s, bool channels_last, bool resident, const Tensors<Half>& tensors,
                         void* workspace, cudaStream_t stream) {
  Device device{};
  cudaError_t error = current(device);
  if (error != cudaSuccess) return error;
  const fused::Plan plan = fused::plan(s, channels_last);
  const fused::Prepared prepared(s, workspace);
  const auto vectors = static_cast<unsigned>(fused::Prepared::x_vectors(plan));
  fused::prepare<C>
      <<<(vectors + fused::kPrepareThreads - 1) / fused::kPrepareThreads, fused::kPrepareThreads, 0, stream>>>(
          plan, tensors, prepared, vectors);
  if ((error = cudaGetLastError()) != cudaSuccess) return error;

  // A small image is spread over all multiprocessors.
  const int per_multiprocessor = (plan.tiles + device.multiprocessors - 1) / device.multiprocessors;
  const int warps = std::min(most_warps<C>(device, resident), per_multiprocessor);
  const int blocks = std::min((plan.tiles + warps - 1) / warps, device.multiprocessors);
  const int bytes = fused::shared_bytes<C>(warps, resident);
  // The same for all launches, because other threads' may come in between.
  error =
      cudaFuncSetAttribute(fused::kernel<C>, cudaFuncAttributeMaxDynamicSharedMemorySize, most_shared_bytes<C>(device));
  if (error != cudaSuccess) return error;
  fused::kernel<C><<<blocks, warps * 32, bytes, stream>>>(plan, tensors, prepared, resident);
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
  bool (*takes)(const Shape&);
  int (*most_warps)(const Device&, bool resident);
  cudaError_t (*launch)(const Shape&, bool channels_last, bool resident, const Tensors<Half>&, void* workspace,
                        cudaStream_t);
  bool several_quads;
};

template <typename C>
constexpr Fused fused_kernel() {
  return {fused::takes<C>, most_warps<C>, launch_fused<C>, C::kQuads > 1};
}

constexpr Fused kFused[] = {fused_kernel<fused::Full>(), fused_kernel<fused::Compact4>(),
                            fused_kernel<fused::Compact2>()};

const Fused* find_fused(const Shape& s, zsm_type type) {
  if (type != ZSM_FLOAT16) return nullptr;
  const Fused* found = std::find_if(std::begin(kFused), std::end(kFused), [&](const Fused& f) { return f.takes(s); });
  return found == std::end(kFused) ? nullptr : found;
}

bool aligned(const zsm_deform_conv2d_tensors& t, const void* workspace) {
  const auto bits = [](const void* pointer) { return reinterpret_cast<uintptr_t>(pointer); };
  return (bits(t.x) | bits(t.offset_mask) | bits(t.weight) | bits(t.bias) | bits(t.out) | bits(workspace)) % 16 == 0;
}

}  // namespace

// Prefers the variant with more warps, which keep more loads in flight; at a tie, the one that reads the weights once.
int cuda_kernels(const Shape& s, zsm_type type, int32_t* kernels) {
  constexpr int kFewestWarps = 4;
  int count = 0;
  if (const Fused* fused = find_fused(s, type)) {
    Device device{};
    if (current(device) != cudaSuccess) {
      cudaGetLastError();  // a missing device isn't an error here, and must not surface later
      device = {1, 1 << 30, fused::kMostWarps};
    }
    const int resident = fused->most_warps(device, true);
    const int streamed = fused->several_quads ? fused->most_warps(device, false) : 0;
    if (resident >= kFewestWarps) kernels[count++] = ZSM_KERNEL_FUSED_RESIDENT;
    if (streamed >= kFewestWarps) kernels[count++] = ZSM_KERNEL_FUSED_STREAMED;
    if (count == 2 && streamed > resident) std::swap(kernels[0], kernels[1]);
  }
  kernels[count++] = ZSM_KERNEL_PLAIN;
  return count;
}

int64_t cuda_workspace(const Shape& s, zsm_type type) { return find_fused(s, type) ? fused::Prepared::bytes(s) : 0; }

zsm_status cuda(const Shape& s, zsm_type type, zsm_layout layout, int32_t kernel,
                const zsm_deform_conv2d_tensors& tensors, void* workspace, void* stream, std::string& message) {
  int32_t kernels[8];
  const int count = cuda_kernels(s, type, kernels);
  if (kernel == ZSM_KERNEL_AUTO) kernel = kernels[0];
  if (std::find(kernels, kernels + count, kernel) == kernels + count) {
    message = "CUDA kernel " + std::to_string(kernel) + " does not take this shape and type on this device";
    return ZSM_UNSUPPORTED;
  }
  const auto queue = static_cast<cudaStream_t>(stream);
  cudaError_t error = cudaSuccess;
  if (kernel == ZSM_KERNEL_PLAIN) {
    error = type == ZSM_FLOAT32 ? launch_plain<float>(s, layout, tensors, queue)
                                : launch_plain<Half>(s, layout, tensors, queue);
  } else if (!workspace || !aligned(tensors, workspace)) {
    message = "the fused kernels need a workspace, and all memory aligned to 16 bytes";
    return ZSM_INVALID_ARGUMENT;
  } else {
    error = find_fused(s, type)->launch(s, layout == ZSM_CHANNELS_LAST, kernel == ZSM_KERNEL_FUSED_RESIDENT,
                                        Tensors<Half>(tensors), workspace, queue);
  }
  if (error == cudaSuccess) return ZSM_OK;
  message = std::string("CUDA: ") + cudaGetErrorString(error);
  if (error == cudaErrorNoKernelImageForDevice)
    message += std::string("; this library has code for ") + zsm_cuda_architectures() +
               ": build it again with -DCMAKE_CUDA_ARCHITECTURES=native on this machine";
  return ZSM_CUDA_ERROR;
}

}  // namespace zsm
