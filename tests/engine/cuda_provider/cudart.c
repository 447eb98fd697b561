// CUDA's runtime without a GPU: memory is the host's, copies are made at once, and kernels are only written to a
// journal.
//
// The journal has one line per call: what was called, the stream, and whatever else tests look at. Functions that are
// not here succeed without doing anything (stubs.py).
#define _GNU_SOURCE
#include <cuda_runtime_api.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

enum { ALIGNMENT = 512 };

// --- The journal ---

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static FILE* journal;
static char* text;
static size_t length;

void zsm_write(const char* format, ...) {
  va_list values;
  va_start(values, format);
  pthread_mutex_lock(&lock);
  if (!journal) journal = open_memstream(&text, &length);
  vfprintf(journal, format, values);
  fputc('\n', journal);
  pthread_mutex_unlock(&lock);
  va_end(values);
}

// Returns what was written since the last call, to be freed with zsm_free.
char* zsm_take(void) {
  pthread_mutex_lock(&lock);
  if (journal) fclose(journal);
  char* taken = journal ? text : strdup("");
  journal = NULL;
  pthread_mutex_unlock(&lock);
  return taken;
}

void zsm_free(char* taken) { free(taken); }

// --- Devices ---

cudaError_t cudaGetDeviceCount(int* count) {
  *count = 1;
  return cudaSuccess;
}

cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}

cudaError_t cudaDriverGetVersion(int* version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}

// An H100's.
cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp* properties, int device) {
  (void)device;
  *properties = (struct cudaDeviceProp){
      .name = "stub",
      .major = 9,
      .totalGlobalMem = 80ull << 30,
      .sharedMemPerBlock = 48 << 10,
      .sharedMemPerBlockOptin = 227 << 10,
      .regsPerBlock = 65536,
      .warpSize = 32,
      .maxThreadsPerBlock = 1024,
      .maxThreadsPerMultiProcessor = 2048,
      .multiProcessorCount = 132,
      .maxThreadsDim = {1024, 1024, 64},
      .maxGridSize = {2147483647, 65535, 65535},
      .l2CacheSize = 50 << 20,
  };
  return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int* value, enum cudaDeviceAttr attribute, int device) {
  (void)device;
  switch (attribute) {
    case cudaDevAttrComputeCapabilityMajor:
      *value = 9;
      break;
    case cudaDevAttrComputeCapabilityMinor:
      *value = 0;
      break;
    case cudaDevAttrMultiProcessorCount:
      *value = 132;
      break;
    case cudaDevAttrMaxThreadsPerBlock:
      *value = 1024;
      break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = 227 << 10;
      break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
      *value = 228 << 10;
      break;
    default:
      *value = 1;
  }
  return cudaSuccess;
}

const char* cudaGetErrorString(cudaError_t error) { return error ? "an error" : "no error"; }
const char* cudaGetErrorName(cudaError_t error) { return error ? "cudaError" : "cudaSuccess"; }

// --- Memory ---

static cudaError_t allocate(const char* what, void** address, size_t size) {
  if (posix_memalign(address, ALIGNMENT, size ? size : 1)) return cudaErrorMemoryAllocation;
  memset(*address, 0, size);
  zsm_write("%s - %p %zu", what, *address, size);
  return cudaSuccess;
}

cudaError_t cudaMalloc(void** address, size_t size) { return allocate("cudaMalloc", address, size); }
cudaError_t cudaMallocHost(void** address, size_t size) { return allocate("cudaMallocHost", address, size); }
cudaError_t cudaHostAlloc(void** address, size_t size, unsigned flags) {
  (void)flags;
  return allocate("cudaHostAlloc", address, size);
}

static cudaError_t release(const char* what, void* address) {
  zsm_write("%s - %p", what, address);
  free(address);
  return cudaSuccess;
}

cudaError_t cudaFree(void* address) { return release("cudaFree", address); }
cudaError_t cudaFreeHost(void* address) { return release("cudaFreeHost", address); }

cudaError_t cudaMemGetInfo(size_t* available, size_t* total) {
  *available = 70ull << 30;
  *total = 80ull << 30;
  return cudaSuccess;
}

cudaError_t cudaPointerGetAttributes(struct cudaPointerAttributes* attributes, const void* address) {
  *attributes = (struct cudaPointerAttributes){.type = cudaMemoryTypeDevice, .devicePointer = (void*)address};
  return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t size, enum cudaMemcpyKind kind, cudaStream_t stream) {
  static const char* const names[] = {"host-to-host", "host-to-device", "device-to-host", "device-to-device", "any"};
  zsm_write("cudaMemcpyAsync %p %s %p %p", (void*)stream, names[kind], from, to);
  memcpy(to, from, size);
  return cudaSuccess;
}

cudaError_t cudaMemcpy(void* to, const void* from, size_t size, enum cudaMemcpyKind kind) {
  (void)kind;
  zsm_write("cudaMemcpy -");
  memcpy(to, from, size);
  return cudaSuccess;
}

cudaError_t cudaMemset(void* to, int value, size_t size) {
  zsm_write("cudaMemset -");
  memset(to, value, size);
  return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void* to, int value, size_t size, cudaStream_t stream) {
  zsm_write("cudaMemsetAsync %p", (void*)stream);
  memset(to, value, size);
  return cudaSuccess;
}

// --- Streams and events ---

static void* handle(void) {
  static uintptr_t last = 0x1000;
  return (void*)__atomic_add_fetch(&last, 16, __ATOMIC_RELAXED);
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) {
  (void)flags;
  *stream = handle();
  return cudaSuccess;
}

cudaError_t cudaStreamCreate(cudaStream_t* stream) { return cudaStreamCreateWithFlags(stream, 0); }

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags) {
  (void)flags;
  *event = handle();
  return cudaSuccess;
}

cudaError_t cudaEventCreate(cudaEvent_t* event) { return cudaEventCreateWithFlags(event, 0); }

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, enum cudaStreamCaptureStatus* status) {
  (void)stream;
  *status = cudaStreamCaptureStatusNone;
  return cudaSuccess;
}

cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void* data) {
  zsm_write("cudaLaunchHostFunc %p", (void*)stream);
  function(data);
  return cudaSuccess;
}

// --- Kernels ---

typedef struct {
  const void* function;
  const char* name;
} Kernel;

static Kernel* kernels;
static size_t kernel_count, kernel_room;

// nvcc registers a program's kernels with these when it is loaded, and launches with those below.
void** __cudaRegisterFatBinary(void* binary) {
  static void* any;
  (void)binary;
  return &any;
}

void __cudaRegisterFunction(void** binary, const char* function, char* stub, const char* name, int limit, void* thread,
                            void* block, void* block_size, void* grid_size, int* warp_size) {
  (void)binary, (void)stub, (void)limit, (void)thread, (void)block, (void)block_size, (void)grid_size, (void)warp_size;
  pthread_mutex_lock(&lock);
  if (kernel_count == kernel_room) {
    kernel_room = kernel_room ? 2 * kernel_room : 1024;
    kernels = realloc(kernels, kernel_room * sizeof *kernels);
  }
  kernels[kernel_count++] = (Kernel){function, name};
  pthread_mutex_unlock(&lock);
}

cudaError_t __cudaGetKernel(cudaKernel_t* kernel, const void* function) {
  *kernel = (cudaKernel_t)function;
  return cudaSuccess;
}

static const char* name_of(const void* function) {
  for (size_t i = 0; i < kernel_count; ++i)
    if (kernels[i].function == function) return kernels[i].name;
  return "unknown";
}

// A kernel's first two arguments, as words. How many it has, and of what sizes, isn't known here.
static void write_launch(const void* function, void** arguments, cudaStream_t stream) {
  uintptr_t words[2] = {0};
  for (int i = 0; i < 2; ++i) {
    const struct iovec to = {&words[i], sizeof words[i]}, from = {arguments[i], sizeof words[i]};
    process_vm_readv(getpid(), &to, 1, &from, 1, 0);  // fails where there is no memory
  }
  zsm_write("launch %p %s %#lx %#lx", (void*)stream, name_of(function), words[0], words[1]);
}

cudaError_t cudaLaunchKernel(const void* function, dim3 grid, dim3 block, void** arguments, size_t shared,
                             cudaStream_t stream) {
  (void)grid, (void)block, (void)shared;
  write_launch(function, arguments, stream);
  return cudaSuccess;
}

cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3 grid, dim3 block, void** arguments, size_t shared,
                               cudaStream_t stream) {
  return cudaLaunchKernel(kernel, grid, block, arguments, shared, stream);
}

cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* config, const void* function, void** arguments) {
  write_launch(function, arguments, config->stream);
  return cudaSuccess;
}

static __thread struct {
  dim3 grid, block;
  size_t shared;
  struct CUstream_st* stream;
} next;

unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared, struct CUstream_st* stream) {
  next.grid = grid, next.block = block, next.shared = shared, next.stream = stream;
  return 0;
}

cudaError_t __cudaPopCallConfiguration(dim3* grid, dim3* block, size_t* shared, void* stream) {
  *grid = next.grid, *block = next.block, *shared = next.shared;
  *(struct CUstream_st**)stream = next.stream;
  return cudaSuccess;
}
