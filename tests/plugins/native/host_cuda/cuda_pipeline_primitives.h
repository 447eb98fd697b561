// Asynchronous copies that happen as late as they may: when the thread waits for them.
#pragma once

#include <cstdint>
#include <cstring>

#include "host_cuda.h"

namespace host_cuda {

struct Copy {
  void* to;
  const void* from;
  size_t bytes;
  bool committed;
};

inline std::vector<Copy> copies[1024];  // by thread

}  // namespace host_cuda

inline void __pipeline_memcpy_async(void* to, const void* from, size_t bytes) {
  if ((reinterpret_cast<uintptr_t>(to) | reinterpret_cast<uintptr_t>(from)) % bytes != 0) {
    std::printf("a copy of %zu bytes is not aligned\n", bytes);
    std::exit(1);
  }
  host_cuda::copies[threadIdx.x].push_back({to, from, bytes, false});
}

inline void __pipeline_commit() {
  for (host_cuda::Copy& copy : host_cuda::copies[threadIdx.x]) copy.committed = true;
}

inline void __pipeline_wait_prior(size_t) {
  std::vector<host_cuda::Copy>& copies = host_cuda::copies[threadIdx.x];
  for (const host_cuda::Copy& copy : copies) {
    if (copy.committed) std::memcpy(copy.to, copy.from, copy.bytes);
  }
  copies.clear();
}
