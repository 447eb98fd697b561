// Chooses and launches the CUDA kernels.
#pragma once

#include <string>

#include "core/deform_conv.h"
#include "core/shape.h"

namespace zsm {

int cuda_kernels(const Shape& shape, zsm_type type, int32_t* kernels);

int64_t cuda_workspace(const Shape& shape, zsm_type type);

zsm_status cuda(const Shape& shape, zsm_type type, zsm_layout layout, int32_t kernel,
                const zsm_deform_conv2d_tensors& tensors, void* workspace, void* stream, std::string& message);

}  // namespace zsm
