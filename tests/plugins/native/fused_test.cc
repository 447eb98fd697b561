// Runs the fused kernel's blocks on the host: the same steps in the same order, loops in place of tensor cores.
//
// Shared memory starts as NaN, and few blocks work on many tiles, as on a GPU. Only barriers go unchecked.
#include "core/fused.h"

#include "check.h"

namespace {

using zsm::Half;
using zsm::Shape;
using namespace zsm::fused;

struct Loops {
  struct Left {
    float value[kMatrix][kMatrix];  // [row][depth]
  };
  struct Right {
    float value[kMatrix][kMatrix];  // [column][depth]
  };
  struct Sum {
    float value[kMatrix][kMatrix];
  };

  static void clear(Sum& sum) { sum = {}; }
  template <typename Matrix>
  static void load(Matrix& matrix, const Half* from, int pitch) {
    for (int i = 0; i < kMatrix * kMatrix; ++i)
      matrix.value[i / kMatrix][i % kMatrix] = zsm::to_float(from[i / kMatrix * pitch + i % kMatrix]);
  }
  static void multiply_add(Sum& sum, const Left& left, const Right& right) {
    for (int i = 0; i < kMatrix; ++i) {
      for (int j = 0; j < kMatrix; ++j) {
        for (int k = 0; k < kMatrix; ++k) sum.value[i][j] += left.value[i][k] * right.value[j][k];
      }
    }
  }
  static void store(float* to, int pitch, const Sum& sum) {
    for (int i = 0; i < kMatrix * kMatrix; ++i)
      to[i / kMatrix * pitch + i % kMatrix] = sum.value[i / kMatrix][i % kMatrix];
  }
};

struct alignas(128) Line {
  unsigned char bytes[128];
};

// Mirrors the kernel in cuda_fused.cuh; each loop over threads or warps ends where the kernel has a barrier.
template <typename C>
void run_block(const Shape& s, const zsm::Tensors<Half>& t, int64_t first_tile, int64_t step) {
  std::vector<Line> memory(C::kSharedBytes / sizeof(Line) + 1);
  std::memset(memory.data(), 0xff, memory.size() * sizeof(Line));
  Half* columns = reinterpret_cast<Half*>(memory.data());
  Half* weights = columns + C::kColumnBytes / sizeof(Half);
  const auto threads = [](const auto& body) {
    for (int thread = 0; thread < C::kThreads; ++thread) body(thread);
  };

  if (C::kResident) threads([&](int thread) { load_weights<C>(t.weight, 0, thread, weights); });
  for (int64_t index = first_tile; index < tiles<C>(s); index += step) {
    const Tile at = tile<C>(s, index);
    std::vector<Sums<C, Loops>> sums(C::kWarps);
    for (auto& sum : sums) sum.clear();
    for (int stage = 0; stage < C::kStages; ++stage) {
      threads([&](int thread) {
        if (!C::kResident) load_weights<C>(t.weight, stage * C::kGroups, thread, weights);
        gather<C>(s, at, t.x, t.offset_mask, stage * C::kGroups, thread, columns);
      });
      for (int warp = 0; warp < C::kWarps; ++warp)
        multiply(columns, weights + (C::kResident ? stage * C::kDepth : 0), warp, sums[warp]);
    }
    for (int half = 0; half < 2; ++half) {
      for (int warp = 0; warp < C::kWarps; ++warp) store_sums(sums[warp], half, sum_buffer<C>(columns, warp));
      for (int thread = 0; thread < C::kThreads; ++thread)
        write_out<C>(s, at, sum_buffer<C>(columns, thread / 32), t.bias, half, thread / 32, thread % 32, t.out);
    }
  }
}

template <typename T>
const T* aligned_copy(const std::vector<Half>& values, std::vector<Line>& storage) {
  storage.resize(values.size() * sizeof(Half) / sizeof(Line) + 1);
  std::memcpy(storage.data(), values.data(), values.size() * sizeof(Half));
  return reinterpret_cast<const T*>(storage.data());
}

template <typename C>
void test_blocks(const Shape& s, float reach) {
  Problem<Half> problem(s, reach);
  const int64_t pixels = int64_t{zsm::output_height(s)} * zsm::output_width(s);
  const std::vector<Half> expected = to_channels_last(problem.reference(), s.outputs, pixels);

  std::vector<Line> x, offset_mask, weight, bias, out;
  const auto nan = std::vector<Half>(expected.size(), Half{0xffff});
  const zsm::Tensors<Half> tensors({
      aligned_copy<void>(to_channels_last(problem.x, s.channels, int64_t{s.height} * s.width), x),
      aligned_copy<void>(to_channels_last(problem.offset_mask, kOffsetChannels, pixels), offset_mask),
      aligned_copy<void>(problem.weight, weight),
      aligned_copy<void>(problem.bias, bias),
      const_cast<void*>(aligned_copy<void>(nan, out)),
  });
  const int64_t blocks = std::min<int64_t>(tiles<C>(s), 3);
  for (int64_t block = 0; block < blocks; ++block) run_block<C>(s, tensors, block, blocks);
  const float error = difference(std::vector<Half>(tensors.out, tensors.out + expected.size()), expected);
  CHECK(error < 2e-3f);
}

template <typename C>
void test_config() {
  for (const Size size : {Size{1, 1, 1}, Size{2, 19, 21}, Size{1, 8, 64}}) {
    for (const float reach : {2.0f, 100.0f}) test_blocks<C>(square_shape(size), reach);
  }
  Shape strided = square_shape({1, 20, 23});
  strided.stride_h = 2, strided.dilation_w = 2, strided.pad_left = 0, strided.pad_bottom = 3;
  test_blocks<C>(strided, 2);
}

void test_shapes_it_takes() {
  CHECK(takes(square_shape({1, 4, 4})));
  CHECK(!takes(square_shape({1, 4, 4}, 32, 64)));
  CHECK(!takes(square_shape({1, 4, 4}, 64, 32)));
  CHECK(!takes(square_shape({1, 4, 4}, 64, 64, 4)));
  Shape shape = square_shape({1, 4, 4});
  shape.kernel_h = 5;
  CHECK(!takes(shape));
}

void test_every_tile_is_worked_on_once() {
  const Shape s = square_shape({3, 37, 33});
  std::vector<int> seen(size_t{3} * 37 * 33);
  for (int64_t i = 0; i < tiles<Resident128>(s); ++i) {
    for (int p = 0; p < Resident128::kPixels; ++p) {
      const Pixel at = pixel(s, tile<Resident128>(s, i), p);
      if (at.exists) ++seen[static_cast<size_t>(at.index)];
    }
  }
  CHECK(std::all_of(seen.begin(), seen.end(), [](int count) { return count == 1; }));
}

}  // namespace

int main() {
  test_shapes_it_takes();
  test_every_tile_is_worked_on_once();
  test_config<Streamed64>();
  test_config<Streamed128>();
  test_config<Resident64>();
  test_config<Resident128>();
  return report("fused");
}
