// cuDNN without a GPU: for each convolution it knows one engine, which uses tensor cores and computes nothing.
#include <stddef.h>
#include <stdint.h>

void zsm_write(const char* format, ...);

enum { SUCCESS = 0 };
// Attributes of cuDNN's descriptors, numbered as in its headers.
enum { HEURISTICS_RESULTS = 202, CONFIGURATION_ENGINE = 300, ENGINE_NUMERICAL_NOTE = 1303 };
enum { INT64 = 3, NUMERICAL_NOTE = 16, INT32 = 23 };
enum { TENSOR_CORE = 0 };

size_t cudnnGetVersion(void) { return 91300; }
const char* cudnnGetErrorString(int status) { return status ? "an error" : "no error"; }

int cudnnBackendCreateDescriptor(int type, void** descriptor) {
  zsm_write("cudnnBackendCreateDescriptor - %d", type);
  static int any;
  *descriptor = &any;
  return SUCCESS;
}

int cudnnBackendGetAttribute(void* descriptor, int name, int type, int64_t room, int64_t* count, void* values) {
  (void)descriptor;
  zsm_write("cudnnBackendGetAttribute - %d", name);
  const int many = name == HEURISTICS_RESULTS || name == CONFIGURATION_ENGINE || name == ENGINE_NUMERICAL_NOTE;
  if (count) *count = many;
  if (!room || !values) return SUCCESS;
  if (type == INT64) *(int64_t*)values = 0;
  if (type == INT32) *(int32_t*)values = 0;
  if (type == NUMERICAL_NOTE) *(int32_t*)values = TENSOR_CORE;
  return SUCCESS;
}
