// The C interface: checks arguments, dispatches on the element type, turns exceptions into a status.
#include <new>
#include <string>

#include "core/cuda.h"
#include "core/kernels.h"

namespace {

using zsm::Half;
using zsm::Shape;
using zsm::Tensors;

thread_local std::string last_error;

zsm_status fail(zsm_status status, std::string message) {
  last_error = std::move(message);
  return status;
}

zsm_status check(const Shape* shape, zsm_type type) {
  if (!shape) return fail(ZSM_INVALID_ARGUMENT, "the shape is a null pointer");
  if (type != ZSM_FLOAT32 && type != ZSM_FLOAT16)
    return fail(ZSM_INVALID_ARGUMENT, "element type " + std::to_string(type) + " is not float32 (0) or float16 (1)");
  const std::string fault = zsm::fault(*shape);
  return fault.empty() ? ZSM_OK : fail(ZSM_INVALID_ARGUMENT, fault);
}

zsm_status check(const Shape* shape, zsm_type type, const zsm_deform_conv2d_tensors* t) {
  const zsm_status status = check(shape, type);
  if (status != ZSM_OK) return status;
  if (!t || !t->x || !t->offset_mask || !t->weight || !t->bias || !t->out)
    return fail(ZSM_INVALID_ARGUMENT, "a tensor is a null pointer");
  return ZSM_OK;
}

bool empty(const Shape& s) { return s.batch == 0 || zsm::output_height(s) == 0 || zsm::output_width(s) == 0; }

// Calls run(Tensors<T>) with the type's T.
template <typename Run>
zsm_status dispatch(zsm_type type, const zsm_deform_conv2d_tensors& tensors, const Run& run) {
  try {
    return type == ZSM_FLOAT32 ? run(Tensors<float>(tensors)) : run(Tensors<Half>(tensors));
  } catch (const std::bad_alloc&) {
    return fail(ZSM_OUT_OF_MEMORY, "not enough memory");
  }
}

}  // namespace

extern "C" {

const char* zsm_last_error() { return last_error.c_str(); }

const char* zsm_cuda_architectures() { return ZSM_CUDA_ARCHITECTURES; }

zsm_status zsm_deform_conv2d_output_size(const Shape* shape, int32_t* height, int32_t* width) {
  const zsm_status status = check(shape, ZSM_FLOAT32);
  if (status != ZSM_OK) return status;
  *height = zsm::output_height(*shape);
  *width = zsm::output_width(*shape);
  return ZSM_OK;
}

zsm_status zsm_deform_conv2d_reference(const Shape* shape, zsm_type type, const zsm_deform_conv2d_tensors* tensors) {
  const zsm_status status = check(shape, type, tensors);
  if (status != ZSM_OK || empty(*shape)) return status;
  return dispatch(type, *tensors, [&](const auto& t) {
    zsm::reference(*shape, t);
    return ZSM_OK;
  });
}

zsm_status zsm_deform_conv2d_cpu(const Shape* shape, zsm_type type, const zsm_deform_conv2d_tensors* tensors,
                                 zsm_parallel_for parallel_for, void* context) {
  const zsm_status status = check(shape, type, tensors);
  if (status != ZSM_OK || empty(*shape)) return status;
  return dispatch(type, *tensors, [&](const auto& t) {
    zsm::cpu(*shape, t, zsm::Parallel{parallel_for, context});
    return ZSM_OK;
  });
}

int32_t zsm_deform_conv2d_cuda_kernels(const Shape* shape, zsm_type type, int32_t* kernels) {
  return check(shape, type) == ZSM_OK ? zsm::cuda_kernels(*shape, type, kernels) : 0;
}

int64_t zsm_deform_conv2d_cuda_workspace(const Shape* shape, zsm_type type) {
  return check(shape, type) == ZSM_OK && !empty(*shape) ? zsm::cuda_workspace(*shape, type) : 0;
}

zsm_status zsm_deform_conv2d_cuda(const Shape* shape, zsm_type type, zsm_layout layout, int32_t kernel,
                                  const zsm_deform_conv2d_tensors* tensors, void* workspace, void* stream) {
  const zsm_status status = check(shape, type, tensors);
  if (status != ZSM_OK || empty(*shape)) return status;
  std::string message;
  const zsm_status launched = zsm::cuda(*shape, type, layout, kernel, *tensors, workspace, stream, message);
  return launched == ZSM_OK ? ZSM_OK : fail(launched, message);
}
}
