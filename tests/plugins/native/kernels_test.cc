// Runs the CUDA kernels themselves on the host, barriers included, against the reference.
#include "host_cuda.h"

// The plain kernel's shared memory has a fixed size, the fused kernels' one that is chosen at launch.
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

// A copy that is aligned as GPU memory is, and ends where the values end, so that AddressSanitizer sees overruns.
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

template <typename C>
void test_fused(const Shape& s, float reach) {
  Problem<Half> problem(s, reach);
  const std::vector<Half> expected = problem.reference();
  const int blocks = static_cast<int>(std::min<int64_t>(fused::tiles<C>(s), 2));     // few, so that each has many tiles
  const auto fill = [] { std::memset(fused::memory, 0xff, sizeof fused::memory); };  // NaN
  const auto no_overrun = [] {
    unsigned char* end = fused::memory + sizeof fused::memory;
    CHECK(std::all_of(fused::memory + C::kSharedBytes, end, [](unsigned char byte) { return byte == 0xff; }));
  };
  for (const bool backwards : {false, true}) {
    const std::vector<Half> found = run(problem, true, [&](const zsm::Tensors<Half>& t) {
      const auto kernel = [&] { fused::kernel<C>(s, t); };
      host_cuda::launch(blocks, C::kThreads, backwards, kernel, fill, no_overrun);
    });
    CHECK(difference(found, expected) < 1e-3f);
  }
}

template <typename C>
void test_fused_config() {
  test_fused<C>(square_shape({1, 1, 1}), 2);
  test_fused<C>(square_shape({2, 11, 19}), 3);
  test_fused<C>(square_shape({1, 8, 33}), 100);
  Shape strided = square_shape({1, 20, 23});
  strided.stride_h = 2, strided.dilation_w = 2, strided.pad_left = 0, strided.pad_bottom = 3;
  test_fused<C>(strided, 2);
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
  CHECK(fused::takes(square_shape({1, 4, 4})));
  CHECK(!fused::takes(square_shape({1, 4, 4}, 32, 64)));
  CHECK(!fused::takes(square_shape({1, 4, 4}, 64, 32)));
  CHECK(!fused::takes(square_shape({1, 4, 4}, 64, 64, 4)));
  Shape shape = square_shape({1, 4, 4});
  shape.kernel_h = 5;
  CHECK(!fused::takes(shape));
}

// Counted in pixels, not in elements, and beyond what 32 bits hold.
void test_large_images() {
  const Shape s = square_shape({40, 1 << 14, 1 << 14});
  using C = fused::Resident128;
  const fused::Tile last = fused::tile<C>(s, fused::tiles<C>(s) - 1);
  CHECK(last.n == 39 && last.y == (1 << 14) - 8 && last.x == (1 << 14) - 16);
  CHECK(fused::pixel(s, last, 127).index == (int64_t{40} << 28) - 1);
  CHECK(zsm::strides(64, 1 << 14, 1 << 14, true).at(39, 63, (1 << 14) - 1, (1 << 14) - 1) == (int64_t{40} << 34) - 1);
}

}  // namespace

int main() {
  test_shapes_that_fused_takes();
  test_large_images();
  test_plain_shapes();
  test_fused_config<fused::Streamed64>();
  test_fused_config<fused::Streamed128>();
  test_fused_config<fused::Resident64>();
  test_fused_config<fused::Resident128>();
  return report("kernels");
}
