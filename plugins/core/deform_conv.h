// The deformable convolution's C interface: pointers, a shape, a stream, a status.
//
// Adapters for inference libraries, and tests, call only this.
#ifndef ZSM_DEFORM_CONV_H
#define ZSM_DEFORM_CONV_H

#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32)
#define ZSM_API __declspec(dllexport)
#else
#define ZSM_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef enum {
  ZSM_OK = 0,
  ZSM_INVALID_ARGUMENT = 1,
  ZSM_UNSUPPORTED = 2,  // the kernel doesn't support this shape, or the library was built without CUDA
  ZSM_OUT_OF_MEMORY = 3,
  ZSM_CUDA_ERROR = 4,
} zsm_status;

// The element type of all tensors. Positions and sums are always float32 or better.
typedef enum { ZSM_FLOAT32 = 0, ZSM_FLOAT16 = 1 } zsm_type;

// The memory layout of x, offset_mask and out; weight and bias are always linear.
typedef enum {
  ZSM_LINEAR = 0,         // (N,C,H,W)
  ZSM_CHANNELS_LAST = 1,  // (N,H,W,C), C rounded up to a multiple of 8: TensorRT's kHWC8
} zsm_layout;

// The fused kernels take FP16 and the network's shapes: 64 channels in 8 deformable groups, or 32 in 4 or 2; as many
// outputs; 3x3. They differ in which weights they hold in shared memory.
typedef enum {
  ZSM_KERNEL_AUTO = 0,
  ZSM_KERNEL_PLAIN = 1,           // any shape
  ZSM_KERNEL_FUSED_RESIDENT = 2,  // all
  ZSM_KERNEL_FUSED_STREAMED = 3,  // those of 32 channels at a time
} zsm_cuda_kernel;

// x (batch,channels,height,width), weight (outputs,channels/groups,kernel_h,kernel_w), bias (outputs),
// offset_mask (batch,3*offset_groups*kernel_h*kernel_w,H',W') and out (batch,outputs,H',W'), where (H',W')
// is zsm_deform_conv2d_output_size. With K = kernel_h*kernel_w, channel g*2K+2k of offset_mask is dy of tap
// k in deformable group g, the next channel is dx, and channel 2K*offset_groups+g*K+k is the logit of its mask.
typedef struct {
  int32_t batch, channels, height, width, outputs;
  int32_t kernel_h, kernel_w, stride_h, stride_w, dilation_h, dilation_w;
  int32_t pad_top, pad_left, pad_bottom, pad_right;
  int32_t groups, offset_groups;
} zsm_deform_conv2d_shape;

typedef struct {
  const void* x;
  const void* offset_mask;
  const void* weight;
  const void* bias;
  void* out;
} zsm_deform_conv2d_tensors;

// Calls task(data, i) once for every i in [0, count), in any order, on any threads; returns when all are done.
typedef void (*zsm_parallel_for)(void* context, void (*task)(void* data, size_t index), void* data, size_t count);

// A zsm_parallel_for for callers without threads of their own. `context` is a const int32_t*, the number of threads, of
// which the calling thread is one; the others are started for this call.
ZSM_API void zsm_threads(void* context, void (*task)(void* data, size_t index), void* data, size_t count);

// The error message of this thread's last call that did not return ZSM_OK.
ZSM_API const char* zsm_last_error(void);

// The CUDA architectures that this library contains code for ("75-real 90-real"), or "" if it was built without CUDA.
ZSM_API const char* zsm_cuda_architectures(void);

ZSM_API zsm_status zsm_deform_conv2d_output_size(const zsm_deform_conv2d_shape* shape, int32_t* height, int32_t* width);

// The readable, slow reference; sums in float64. Linear layout.
ZSM_API zsm_status zsm_deform_conv2d_reference(const zsm_deform_conv2d_shape* shape, zsm_type type,
                                               const zsm_deform_conv2d_tensors* tensors);

// Linear layout. With a null `parallel_for` everything runs in the calling thread.
// Allocates a float32 copy of x. Shapes with several conv groups run on the reference.
ZSM_API zsm_status zsm_deform_conv2d_cpu(const zsm_deform_conv2d_shape* shape, zsm_type type,
                                         const zsm_deform_conv2d_tensors* tensors, zsm_parallel_for parallel_for,
                                         void* context);

// Writes the kernels that support this shape on the current device, probably fastest first, and returns their number.
// `kernels` has room for 8. Without a device, assumes one with enough shared memory for all.
ZSM_API int32_t zsm_deform_conv2d_cuda_kernels(const zsm_deform_conv2d_shape* shape, zsm_type type, int32_t* kernels);

// Size in bytes of the fused kernels' workspace in device memory, about that of x; 0 if they don't support the shape.
ZSM_API int64_t zsm_deform_conv2d_cuda_workspace(const zsm_deform_conv2d_shape* shape, zsm_type type);

// Launches on `stream` (a cudaStream_t) of the current device and returns at once. Tensors and workspace are aligned to
// 16 bytes. The workspace keeps nothing between calls, but must stay untouched until the stream has finished this one;
// the plain kernel needs none (null).
ZSM_API zsm_status zsm_deform_conv2d_cuda(const zsm_deform_conv2d_shape* shape, zsm_type type, zsm_layout layout,
                                          int32_t kernel, const zsm_deform_conv2d_tensors* tensors, void* workspace,
                                          void* stream);

#ifdef __cplusplus
}
#endif
#endif
