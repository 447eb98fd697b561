// Every CUDA kernel against the reference, on a GPU; small enough for compute-sanitizer.
#include "device.h"

namespace {

using zsm::Half;
using zsm::Shape;

template <typename T>
void test_shape(const Shape& shape, float reach, float tolerance) {
  Problem<T> problem(shape, reach);
  const std::vector<T> expected = problem.reference();
  for (const zsm_layout layout : {ZSM_LINEAR, ZSM_CHANNELS_LAST}) {
    int32_t kernels[8];
    const int32_t count = zsm_deform_conv2d_cuda_kernels(&shape, problem.type(), kernels);
    const int64_t bytes = zsm_deform_conv2d_cuda_workspace(&shape, problem.type());
    const OnDevice<uint8_t> workspace(std::vector<uint8_t>(static_cast<size_t>(bytes) + 1, 0xff));  // NaN
    for (int32_t i = 0; i < count; ++i) {
      const DeviceProblem<T> device{problem, layout == ZSM_CHANNELS_LAST};
      const zsm_deform_conv2d_tensors tensors{device.x.data(), device.offset_mask.data(), device.weight.data(),
                                              device.bias.data(), device.out.data()};
      CHECK(zsm_deform_conv2d_cuda(&shape, problem.type(), layout, kernels[i], &tensors, workspace.data(), nullptr) ==
            ZSM_OK);
      CHECK(cudaDeviceSynchronize() == cudaSuccess);
      const float error = difference(device.result(), expected);
      CHECK(error <= tolerance);
      std::printf("%s kernel %d layout %d %dx%dx%d: %.1e\n", sizeof(T) == 2 ? "FP16" : "FP32", kernels[i], layout,
                  shape.batch, shape.width, shape.height, static_cast<double>(error));
    }
  }
}

void test_shape(const Shape& shape, float reach) {
  test_shape<float>(shape, reach, 1e-5f);
  test_shape<Half>(shape, reach, 2e-3f);
}

}  // namespace

int main() {
  if (!has_gpu()) {
    std::printf("cuda: no GPU\n");
    return 77;  // ctest and pytest count it as skipped
  }
  for (const Size size : {Size{1, 1, 1}, Size{1, 5, 3}, Size{2, 33, 47}, Size{1, 64, 112}})
    test_shape(square_shape(size), 3);
  test_shape(square_shape({1, 16, 16}), 1000);
  test_shape(square_shape({1, 9, 11}, 32, 48), 3);
  test_shape(square_shape({2, 33, 47}, 32, 32, 4), 3);
  test_shape(square_shape({2, 33, 47}, 32, 32, 2), 3);
  test_shape(square_shape({1, 7, 6}, 24, 5, 2), 3);
  test_shape({2, 8, 9, 10, 6, 5, 2, 2, 3, 2, 1, 0, 4, 1, 2, 1, 4}, 3);
  test_shape({1, 12, 9, 10, 130, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 2, 4}, 3);
  Shape strided = square_shape({1, 40, 43});
  strided.stride_h = 2, strided.dilation_w = 2, strided.pad_left = 0;
  test_shape(strided, 3);
  return report("cuda");
}
