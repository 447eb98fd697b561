// Threads for callers that have none of their own.
#include <algorithm>
#include <atomic>
#include <system_error>
#include <thread>
#include <vector>

#include "core/deform_conv.h"

extern "C" void zsm_threads(void* context, void (*task)(void* data, size_t index), void* data, size_t count) {
  std::atomic<size_t> next{0};
  const auto work = [&] {
    for (size_t i = next++; i < count; i = next++) task(data, i);
  };
  const size_t threads = std::max(1, *static_cast<const int32_t*>(context));
  std::vector<std::thread> helpers;
  helpers.reserve(threads);
  try {
    while (helpers.size() + 1 < threads && helpers.size() + 1 < count) helpers.emplace_back(work);
  } catch (const std::system_error&) {  // the system has no more threads; those there are do the work
  }
  work();
  for (std::thread& helper : helpers) helper.join();
}
