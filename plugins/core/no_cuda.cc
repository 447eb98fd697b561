// Replaces cuda.cu in a library built without CUDA.
#include "core/cuda.h"

namespace zsm {

int cuda_kernels(const Shape&, zsm_type, int32_t*) { return 0; }

int64_t cuda_workspace(const Shape&, zsm_type) { return 0; }

zsm_status cuda(const Shape&, zsm_type, zsm_layout, int32_t, const zsm_deform_conv2d_tensors&, void*, void*,
                std::string& message) {
  message = "this library was built without CUDA; build it where nvcc is installed";
  return ZSM_UNSUPPORTED;
}

}  // namespace zsm
