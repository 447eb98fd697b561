// Runs kernels on a GPU in tests.
#pragma once

#include <cuda_runtime_api.h>

#include "check.h"

inline bool has_gpu() {
  int devices = 0;
  return cudaGetDeviceCount(&devices) == cudaSuccess && devices > 0;
}

template <typename T>
class OnDevice {
 public:
  explicit OnDevice(const std::vector<T>& values) : count_(values.size()) {
    CHECK(cudaMalloc(&data_, count_ * sizeof(T)) == cudaSuccess);
    CHECK(cudaMemcpy(data_, values.data(), count_ * sizeof(T), cudaMemcpyHostToDevice) == cudaSuccess);
  }
  OnDevice(OnDevice&& other) noexcept : data_(other.data_), count_(other.count_) { other.data_ = nullptr; }
  ~OnDevice() { cudaFree(data_); }

  void* data() const { return data_; }
  std::vector<T> download() const {
    std::vector<T> values(count_);
    CHECK(cudaMemcpy(values.data(), data_, count_ * sizeof(T), cudaMemcpyDeviceToHost) == cudaSuccess);
    return values;
  }

 private:
  void* data_ = nullptr;
  size_t count_;
};

// A problem's inputs on the GPU, and its output, initially NaN.
template <typename T>
struct DeviceProblem {
  const Problem<T>& problem;
  bool channels_last;
  int64_t area = int64_t{zsm::output_height(problem.shape)} * zsm::output_width(problem.shape);
  OnDevice<T> x = upload(problem.x, problem.shape.channels, int64_t{problem.shape.height} * problem.shape.width);
  OnDevice<T> offset_mask = upload(problem.offset_mask, zsm::offset_channels(problem.shape), area);
  OnDevice<T> weight{problem.weight}, bias{problem.bias};
  OnDevice<T> out = upload(std::vector<T>(problem.out.size(), zsm::from_float<T>(NAN)), problem.shape.outputs, area);

  OnDevice<T> upload(const std::vector<T>& values, int channels, int64_t pixels) const {
    return OnDevice<T>(channels_last ? to_channels_last(values, channels, pixels) : values);
  }
  std::vector<T> result() const {
    return channels_last ? to_linear(out.download(), problem.shape.outputs, area) : out.download();
  }
};
