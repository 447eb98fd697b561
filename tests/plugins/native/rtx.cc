// TensorRT for RTX under the names of TensorRT 11's libraries, so that NVIDIA's Python bindings for TensorRT run on it.
//
// The two have one interface; what differs is the version number that each checks where objects are made. It is
// replaced here. Whoever loads this has loaded TensorRT for RTX before: see tests/tensorrt_rtx.py.
#include <dlfcn.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>

namespace {

constexpr char kTensorRT[] = "libtensorrt_rtx.so.1";
constexpr char kParser[] = "libtensorrt_onnxparser_rtx.so.1";

template <typename Result, typename... Arguments>
Result call(const char* library, const char* name, Arguments... arguments) {
  void* const handle = dlopen(library, RTLD_NOW | RTLD_NOLOAD);
  void* const function = handle ? dlsym(handle, name) : nullptr;
  if (!function) {
    std::fprintf(stderr, "%s isn't loaded, or lacks %s\n", library, name);
    std::abort();
  }
  return reinterpret_cast<Result (*)(Arguments...)>(function)(arguments...);
}

int32_t builder_version() { return call<int32_t>(kTensorRT, "getInferLibVersion"); }
int32_t parser_version() { return call<int32_t>(kParser, "getNvOnnxParserVersion"); }

}  // namespace

#define EXPORT extern "C" __attribute__((visibility("default")))

EXPORT void* createInferBuilder_INTERNAL(void* logger, int32_t) {
  return call<void*>(kTensorRT, __func__, logger, builder_version());
}

EXPORT void* createInferRuntime_INTERNAL(void* logger, int32_t) {
  return call<void*>(kTensorRT, __func__, logger, builder_version());
}

EXPORT void* createInferRefitter_INTERNAL(void* engine, void* logger, int32_t) {
  return call<void*>(kTensorRT, __func__, engine, logger, builder_version());
}

EXPORT void* createNvOnnxParser_INTERNAL(void* network, void* logger, int32_t) {
  return call<void*>(kParser, __func__, network, logger, parser_version());
}

EXPORT void* createNvOnnxParserRefitter_INTERNAL(void* refitter, void* logger, int32_t) {
  return call<void*>(kParser, __func__, refitter, logger, parser_version());
}

EXPORT int32_t getNvOnnxParserVersion() { return parser_version(); }

EXPORT void* getPluginRegistry() { return call<void*>(kTensorRT, __func__); }

EXPORT void* getBuilderPluginRegistry(int32_t capability) { return call<void*>(kTensorRT, __func__, capability); }

// There are no plugins of NVIDIA's to register.
EXPORT bool initLibNvInferPlugins(void*, const char*) { return true; }

// The parser looks for this in a libtensorrt_rtx.so, which the package lacks.
EXPORT void* getPrivateApi_INTERNAL(uint64_t which, int32_t version) {
  return call<void*>(kTensorRT, __func__, which, version);
}
