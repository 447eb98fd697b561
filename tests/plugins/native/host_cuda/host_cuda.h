// Runs CUDA kernels on the host: each thread of a block is a fiber that runs up to its next barrier.
//
// Threads run one after the other; a warp runs to the block's next barrier before another starts. If a barrier is
// missing between a write and a read of another thread, the read gets the wrong value, in this order of threads or in
// the reverse, so tests run both.
#pragma once

#include <ucontext.h>

#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))

namespace host_cuda {

struct Index {
  unsigned x;
};

enum class State { kReady, kAtWarpBarrier, kAtBlockBarrier, kDone };

constexpr size_t kStackBytes = 256 * 1024;

struct Fiber {
  ucontext_t context;
  std::unique_ptr<char[]> stack{new char[kStackBytes]};
  State state = State::kReady;
};

class Block {
 public:
  Block(int threads, std::function<void()> kernel) : fibers_(threads), kernel_(std::move(kernel)) {}

  // Runs all threads to their end, warp by warp, each to the block's next barrier.
  void run(bool backwards);
  void wait(State barrier);

 private:
  static void enter();
  void resume(int thread);
  bool release(size_t first, size_t last, State barrier);

  std::vector<Fiber> fibers_;
  std::function<void()> kernel_;
  ucontext_t scheduler_;
  const void* scheduler_stack_ = nullptr;
  size_t scheduler_stack_bytes_ = 0;
};

inline Block* running = nullptr;

}  // namespace host_cuda

inline host_cuda::Index threadIdx, blockIdx, blockDim, gridDim;

inline void __syncthreads() { host_cuda::running->wait(host_cuda::State::kAtBlockBarrier); }
inline void __syncwarp() { host_cuda::running->wait(host_cuda::State::kAtWarpBarrier); }

namespace host_cuda {

inline void switch_to(ucontext_t& from, ucontext_t& to, [[maybe_unused]] const void* stack,
                      [[maybe_unused]] size_t bytes) {
#if defined(__SANITIZE_ADDRESS__)
  void* fake_stack = nullptr;
  __sanitizer_start_switch_fiber(&fake_stack, stack, bytes);
  swapcontext(&from, &to);
  __sanitizer_finish_switch_fiber(fake_stack, nullptr, nullptr);
#else
  swapcontext(&from, &to);
#endif
}

inline void Block::enter() {
  Block& block = *running;
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, &block.scheduler_stack_, &block.scheduler_stack_bytes_);
#endif
  block.kernel_();
  block.wait(State::kDone);
}

inline void Block::wait(State barrier) {
  Fiber& fiber = fibers_[threadIdx.x];
  fiber.state = barrier;
  switch_to(fiber.context, scheduler_, scheduler_stack_, scheduler_stack_bytes_);
}

inline void Block::resume(int thread) {
  Fiber& fiber = fibers_[thread];
  threadIdx.x = thread;
  switch_to(scheduler_, fiber.context, fiber.stack.get(), kStackBytes);
}

// Releases the threads of a warp or block once all that are still running wait at this barrier.
inline bool Block::release(size_t first, size_t last, State barrier) {
  bool any = false;
  for (size_t i = first; i < last; ++i) {
    if (fibers_[i].state == State::kDone) continue;
    if (fibers_[i].state != barrier) return false;
    any = true;
  }
  for (size_t i = first; i < last; ++i) {
    if (fibers_[i].state == barrier) fibers_[i].state = State::kReady;
  }
  return any;
}

inline void Block::run(bool backwards) {
  running = this;
  for (Fiber& fiber : fibers_) {
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.get();
    fiber.context.uc_stack.ss_size = kStackBytes;
    makecontext(&fiber.context, &Block::enter, 0);
  }
  const int count = static_cast<int>(fibers_.size());
  do {
    for (int i = 0; i < count; i += 32) {
      const int warp = backwards ? count - 32 - i : i;
      do {
        for (int lane = 0; lane < 32; ++lane) {
          const int thread = warp + (backwards ? 31 - lane : lane);
          if (fibers_[thread].state == State::kReady) resume(thread);
        }
      } while (release(warp, warp + 32, State::kAtWarpBarrier));
    }
  } while (release(0, count, State::kAtBlockBarrier));
  for (const Fiber& fiber : fibers_) {
    if (fiber.state == State::kDone) continue;
    std::printf("threads of a block wait at different barriers\n");
    std::exit(1);
  }
}

// kernel<<<blocks, threads>>>, one block after the other. `before` and `after` prepare and check shared memory.
template <typename Kernel, typename Before, typename After>
void launch(int blocks, int threads, bool backwards, const Kernel& kernel, const Before& before, const After& after) {
  gridDim.x = blocks;
  blockDim.x = threads;
  for (int block = 0; block < blocks; ++block) {
    blockIdx.x = block;
    before();
    Block(threads, kernel).run(backwards);
    after();
  }
}

}  // namespace host_cuda
