// Runs the CUDA kernels on the host, barriers included, and compares them with the reference.
#include "host_cuda.h"

// The plain kernel's shared memory has a fixed size; the fused kernels' is chosen at launch.
#define __shared__ static
#include "core/cuda_plain.cuh"
#undef __shared__
#define __shared__
#include <cstring>

#include "check.h"
#include "core/cuda_fused.cuh"

namespace zsm::fused {

alignas(128) unsigned char memory[160 * 1024];

}  // namespace zsm::fused

namespace {

using zsm::Half;
using zsm::Shape;
namespace fused = zsm::fused;

// A copy aligned like GPU memory that ends with its last value, so that AddressSanitizer detects overruns.
template <typename T>
class Aligned {
 public:
  explicit Aligned(const std::vector<T>& values) : count_(values.size()) {
    data_ = static_cast<T*>(::operator new(count_ * sizeof(T), std::align_val_t{128}));
    std::copy(values.begin(), values.end(), data_);
  }
  Aligned(const Aligned&) = delete;
  Aligned& operator=(const Aligned&) = delete;
  ~Aligned() { ::operator delete(data_, std::align_val_t{128}); }

  T* data() const { return data_; }
  std::vector<T> values() const { return {data_, data_ + count_}; }

 private:
  T* data_;
  size_t count_;
};

// Launches on copies of the problem's tensors in the layout; returns the output, linear.
template <typename T, typename Launch>
std::vector<T> run(const Problem<T>& problem, bool channels_last, const Launch& launch) {
  const Shape& s = problem.shape;
  const int64_t pixels = int64_t{zsm::output_height(s)} * zsm::output_width(s);
  const auto relaid = [&](const std::vector<T>& values, int channels, int64_t area) {
    return channels_last ? to_channels_last(values, channels, area) : values;
  };
  const std::vector<T> nan(problem.out.size(), zsm::from_float<T>(NAN));
  const Aligned<T> x(relaid(problem.x, s.channels, int64_t{s.height} * s.width)), weight(problem.weight),
      offset_mask(relaid(problem.offset_mask, zsm::offset_channels(s), pixels)), bias(problem.bias),
      out(relaid(nan, s.outputs, pixels));
  launch(zsm::Tensors<T>({x.data(), offset_mask.data(), weight.data(), bias.data(), out.data()}));
  return channels_last ? to_linear(out.values(), s.outputs, pixels) : out.values();
}

// Variants of a fused launch.
struct Launch {
  int warps;
  bool resident, channels_last, backwards;
};

// Runs few blocks, so that each has several tiles for each of its warps.
template <typename C>
void run_fused(const Shape& s, const zsm::Tensors<Half>& t, const Launch& launch) {
  const fused::Plan plan = fused::plan(s, launch.channels_last);
  const Aligned<uint8_t> workspace(std::vector<uint8_t>(fused::Prepared::bytes(s), 0xff));  // NaN
  const fused::Prepared prepared(s, workspace.data());
  const auto vectors = static_cast<unsigned>(fused::Prepared::x_vectors(plan));
  const auto nothing = [] {};
  const auto prepare = [&] { fused::prepare<C>(plan, t, prepared, vectors); };
  host_cuda::launch(2, fused::kPrepareThreads, launch.backwards, prepare, nothing, nothing);

  const int shared_bytes = fused::shared_bytes<C>(launch.warps, launch.resident);
  const auto fill = [] { std::memset(fused::memory, 0xff, sizeof fused::memory); };
  const auto no_overrun = [&] {
    unsigned char* end = fused::memory + sizeof fused::memory;
    CHECK(std::all_of(fused::memory + shared_bytes, end, [](unsigned char byte) { return byte == 0xff; }));
  };
  const auto kernel = [&] { fused::kernel<C>(plan, t, prepared, launch.resident); };
  host_cuda::launch(2, launch.warps * 32, launch.backwards, kernel, fill, no_overrun);
}

template <typename C>
void test_fused(const Shape& s, float reach) {
  CHECK(fused::takes<C>(s));
  Problem<Half> problem(s, reach);
  const std::vector<Half> expected = problem.reference();
  for (const bool resident : {false, true}) {
    for (const bool channels_last : {false, true}) {
      for (const bool backwards : {false, true}) {
        const Launch launch{resident ? 2 : 3, resident, channels_last, backwards};
        const std::vector<Half> found =
            run(problem, channels_last, [&](const zsm::Tensors<Half>& t) { run_fused<C>(s, t, launch); });
        CHECK(difference(found, expected) < 1e-3f);
      }
    }
  }
}

template <typename C>
void test_fused_config() {
  const auto shape = [](Size size) { return square_shape(size, C::kChannels, C::kOutputs, C::kOffsetGroups); };
  test_fused<C>(shape({1, 1, 1}), 2);
  test_fused<C>(shape({2, 5, 19}), 3);
  test_fused<C>(shape({1, 3, 33}), 100);
  Shape strided = shape({1, 10, 23});
  strided.stride_h = 2, strided.dilation_w = 2, strided.pad_left = 0, strided.pad_bottom = 3;
  test_fused<C>(strided, 2);
}

// Infinite, NaN and huge offsets sample zero, which leaves the bias.
void test_offsets_without_bounds() {
  using C = fused::Full;
  Problem<Half> problem(square_shape({1, 2, 5}));
  const float nowhere[] = {INFINITY, -INFINITY, NAN, 65504, -65504};
  for (size_t i = 0; i < problem.offset_mask.size() / 3 * 2; ++i)
    problem.offset_mask[i] = zsm::from_float<Half>(nowhere[i / 20 % 5]);
  const std::vector<Half> expected = problem.reference();
  const Launch launch{1, true, false, false};
  const std::vector<Half> found =
      run(problem, false, [&](const zsm::Tensors<Half>& t) { run_fused<C>(problem.shape, t, launch); });
  CHECK(difference(found, expected) == 0);
  CHECK(zsm::to_float(found[0]) == zsm::to_float(problem.bias[0]));
}

template <typename T>
void test_plain(const Shape& s, float reach, float tolerance) {
  Problem<T> problem(s, reach);
  const std::vector<T> expected = problem.reference();
  const auto nothing = [] {};
  for (const bool channels_last : {false, true}) {
    for (const bool backwards : {false, true}) {
      const std::vector<T> found = run(problem, channels_last, [&](const zsm::Tensors<T>& t) {
        const auto at = zsm::plain::layout(s, channels_last);
        const auto kernel = [&] { zsm::plain::kernel<T>(s, at, t); };
        host_cuda::launch(2, zsm::plain::kThreads, backwards, kernel, nothing, nothing);
      });
      CHECK(difference(found, expected) < tolerance);
    }
  }
}

void test_plain_shapes() {
  const Shape shapes[] = {
      square_shape({1, 1, 1}),
      square_shape({2, 3, 7}),
      square_shape({1, 4, 9}, 12, 5, 2),
      {1, 8, 9, 10, 6, 5, 2, 2, 3, 2, 1, 0, 4, 1, 2, 1, 4},
      {1, 12, 3, 5, 132, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 2, 4},
  };
  for (const Shape& s : shapes) {
    test_plain<float>(s, 3, 2e-6f);
    test_plain<Half>(s, 3, 1e-3f);
  }
}

void test_shapes_that_fused_takes() {
  using fused::takes;
  const Size size{1, 4, 4};
  CHECK(takes<fused::Full>(square_shape(size)));
  CHECK(!takes<fused::Full>(square_shape(size, 32, 64)));
  CHECK(!takes<fused::Full>(square_shape(size, 64, 32)));
  CHECK(!takes<fused::Full>(square_shape(size, 64, 64, 4)));
  CHECK(takes<fused::Compact4>(square_shape(size, 32, 32, 4)) &&
        !takes<fused::Compact2>(square_shape(size, 32, 32, 4)));
  Shape shape = square_shape(size);
  shape.kernel_h = 5;
  CHECK(!takes<fused::Full>(shape));
  CHECK(takes<fused::Full>(square_shape({1, 4320, 7680})));
  CHECK(!takes<fused::Full>(square_shape({1, 4, (1 << 15) + 1})));  // beyond an FP16 offset's reach
  CHECK(!takes<fused::Full>(square_shape({1, 1 << 15, 1 << 15})));  // beyond 32-bit indices
}

// Counted in elements, beyond what 32 bits hold.
void test_large_images() {
  CHECK(zsm::strides(64, 1 << 14, 1 << 14, true).at(39, 63, (1 << 14) - 1, (1 << 14) - 1) == (int64_t{40} << 34) - 1);
  const Shape s = square_shape({3, 4320, 7680});
  const fused::Plan plan = fused::plan(s, true);
  const fused::Tile last(plan, plan.tiles - 1);
  CHECK(last.n == 2 && last.y == 4319 && last.x == 7680 - fused::kPixels);
}

}  // namespace

int main() {
  test_shapes_that_fused_takes();
  test_large_images();
  test_plain_shapes();
  test_fused_config<fused::Full>();
  test_fused_config<fused::Compact4>();
  test_fused_config<fused::Compact2>();
  test_offsets_without_bounds();
  return report("kernels");
}
