// The CPU kernels through the C interface: fast against reference on shapes that reach every path, and invalid input.
#include <cstring>
#include <limits>
#include <string>

#include "check.h"

namespace {

using zsm::Half;
using zsm::Shape;

template <typename T>
std::vector<T> fast(Problem<T>& problem, zsm_parallel_for parallel_for = nullptr, void* context = nullptr) {
  const zsm_deform_conv2d_tensors t = problem.tensors();
  std::fill(problem.out.begin(), problem.out.end(), zsm::from_float<T>(NAN));
  CHECK(zsm_deform_conv2d_cpu(&problem.shape, problem.type(), &t, parallel_for, context) == ZSM_OK);
  return problem.out;
}

void test_fast_equals_reference() {
  const Shape shapes[] = {
      square_shape({1, 1, 1}),
      square_shape({2, 7, 50}),
      square_shape({1, 9, 11}, 32, 48),   // 4 channels per group
      square_shape({1, 5, 6}, 24, 5, 2),  // 12 channels per group, a partial vector of outputs
      square_shape({1, 4, 3}, 3, 1, 1),
      {1, 8, 9, 10, 6, 5, 2, 2, 3, 2, 1, 0, 4, 1, 2, 1, 4},  // nothing square
      {1, 8, 9, 10, 6, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 2, 4},  // conv groups
  };
  for (const Shape& shape : shapes) {
    for (const float reach : {0.0f, 2.0f, 200.0f}) {
      Problem<float> single(shape, reach);
      CHECK(difference(fast(single), single.reference()) < 2e-6f);
      Problem<Half> half(shape, reach);
      CHECK(difference(fast(half), half.reference()) < 1e-3f);
    }
  }
}

void test_parallel_tasks_may_run_in_any_order() {
  Problem<float> problem(square_shape({1, 13, 40}));
  const std::vector<float> serial = fast(problem);
  const auto backwards = [](void*, void (*task)(void*, size_t), void* data, size_t count) {
    for (size_t i = count; i-- > 0;) task(data, i);
  };
  CHECK(fast(problem, backwards) == serial);
}

void test_threads_compute_the_same() {
  Problem<float> problem(square_shape({1, 13, 40}));
  const std::vector<float> serial = fast(problem);
  for (int32_t threads : {-1, 0, 1, 2, 7}) CHECK(fast(problem, zsm_threads, &threads) == serial);
  int32_t threads = 3;
  std::vector<int> calls(1000);
  const auto count = [](void* data, size_t index) { ++static_cast<int*>(data)[index]; };
  zsm_threads(&threads, count, calls.data(), calls.size());
  CHECK(calls == std::vector<int>(1000, 1));
}

// Positions outside the image, however far, sample zero; so does NaN.
void test_far_offsets_give_the_bias() {
  const float infinity = std::numeric_limits<float>::infinity();
  for (const float offset : {1e3f, -1e3f, 1e30f, -1e30f, infinity, -infinity, NAN}) {
    Problem<float> problem(square_shape({1, 6, 7}));
    const int64_t pixels = 6 * 7;
    std::fill_n(problem.offset_mask.begin(), pixels * zsm::mask_channel(problem.shape), offset);
    for (const std::vector<float>& out : {problem.reference(), fast(problem)}) {
      for (int64_t i = 0; i < 64 * pixels; ++i) CHECK(out[i] == problem.bias[i / pixels]);
    }
  }
}

// An output is NaN if the logit of one of its taps is, and only then.
void test_nan_logits_give_nan() {
  const int height = 6, width = 61, pixels = height * width, bad = 2 * width + 50;  // in the second tile
  Problem<float> problem(square_shape({1, height, width}), 0);
  const std::vector<float> good = fast(problem);
  problem.offset_mask[(zsm::mask_channel(problem.shape) + 4) * pixels + bad] = NAN;
  for (const std::vector<float>& out : {problem.reference(), fast(problem)}) {
    for (int i = 0; i < 64 * pixels; ++i)
      CHECK(i % pixels == bad ? std::isnan(out[i]) : std::abs(out[i] - good[i]) < 1e-4f);
  }
}

void test_half_converts_as_the_standard_says() {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const Half half{static_cast<uint16_t>(bits)};
    const float value = zsm::to_float(half);
    if (std::isnan(value)) continue;
    CHECK(zsm::from_float<Half>(value).bits == bits);
    const int exponent = bits >> 10 & 31, fraction = bits & 1023;
    const float size = exponent ? std::ldexp(1024.0f + fraction, exponent - 25) : std::ldexp(float(fraction), -24);
    CHECK(exponent == 31 ? std::isinf(value) : std::abs(value) == size);
  }
  CHECK(zsm::from_float<Half>(1 + std::ldexp(1.0f, -11)).bits == 0x3c00);      // a tie goes to even
  CHECK(zsm::from_float<Half>(1 + 3 * std::ldexp(1.0f, -11)).bits == 0x3c02);  // this one upwards
  CHECK(zsm::from_float<Half>(65519.0f).bits == 0x7bff);
  CHECK(zsm::from_float<Half>(65520.0f).bits == 0x7c00);
  CHECK(zsm::from_float<Half>(std::ldexp(1.0f, -25)).bits == 0);
  CHECK(std::isnan(zsm::to_float(zsm::from_float<Half>(NAN))));
}

// Positions keep their sub-pixel precision in wide images.
void test_positions_are_exact_far_from_the_origin() {
  for (const float offset : {0.0009765625f, 0.3f, -0.7f, 2.25f}) {
    const zsm::Position position = zsm::displace(1 << 24, offset);
    CHECK(position.pixel - (1 << 24) == static_cast<int>(std::floor(offset)));
    CHECK(position.fraction == offset - std::floor(offset));
  }
}

void expect_refused(const Shape& shape, const char* part) {
  Problem<float> problem(square_shape({1, 2, 2}));
  const zsm_deform_conv2d_tensors t = problem.tensors();
  CHECK(zsm_deform_conv2d_cpu(&shape, ZSM_FLOAT32, &t, nullptr, nullptr) == ZSM_INVALID_ARGUMENT);
  CHECK(std::strstr(zsm_last_error(), part));
}

void test_bad_input_is_refused() {
  Shape shape = square_shape({1, 2, 2});
  shape.stride_w = 0;
  expect_refused(shape, "stride of the width is 0");
  shape = square_shape({1, 2, 2});
  shape.offset_groups = 7;
  expect_refused(shape, "offset_group is 7, must divide 64");
  shape = square_shape({1, 2, 2});
  shape.pad_left = -1;
  expect_refused(shape, "padding at the left is -1");
  Problem<float> problem(square_shape({1, 2, 2}));
  zsm_deform_conv2d_tensors t = problem.tensors();
  t.bias = nullptr;
  CHECK(zsm_deform_conv2d_cpu(&problem.shape, ZSM_FLOAT32, &t, nullptr, nullptr) == ZSM_INVALID_ARGUMENT);
  CHECK(zsm_deform_conv2d_reference(nullptr, ZSM_FLOAT32, &t) == ZSM_INVALID_ARGUMENT);
  CHECK(zsm_deform_conv2d_reference(&problem.shape, static_cast<zsm_type>(9), &t) == ZSM_INVALID_ARGUMENT);
}

void test_empty_output_is_no_error() {
  Problem<float> problem(square_shape({1, 2, 2}));
  const zsm_deform_conv2d_tensors t = problem.tensors();
  for (const Size size : {Size{0, 2, 2}, Size{1, 0, 2}}) {
    Shape shape = square_shape(size);
    shape.pad_top = shape.pad_bottom = 0;
    CHECK(zsm_deform_conv2d_cpu(&shape, ZSM_FLOAT32, &t, nullptr, nullptr) == ZSM_OK);
  }
}

}  // namespace

int main() {
  test_fast_equals_reference();
  test_parallel_tasks_may_run_in_any_order();
  test_threads_compute_the_same();
  test_far_offsets_give_the_bias();
  test_nan_logits_give_nan();
  test_half_converts_as_the_standard_says();
  test_positions_are_exact_far_from_the_origin();
  test_bad_input_is_refused();
  test_empty_output_is_no_error();
  return report("core");
}
