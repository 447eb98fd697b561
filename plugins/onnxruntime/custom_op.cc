// zsm::DeformConv2d as a custom operator of ONNX Runtime, on its CPU and CUDA providers.
//
// Uses only ONNX Runtime's C API, whose function table is passed in when the library is loaded.
#include <onnxruntime_c_api.h>

#include <memory>
#include <mutex>
#include <string>

#include "core/attributes.h"
#include "core/deform_conv.h"

namespace {

constexpr uint32_t kApiVersion = 18;  // ONNX Runtime 1.18: KernelContext_ParallelFor, the OrtCustomOp members below

struct Failure {
  OrtStatus* status;
};

// Everything below throws on failure; the callbacks at the bottom turn that into a status.
class Api {
 public:
  explicit Api(const OrtApi* api) : api_(api) {}
  const OrtApi* operator->() const { return api_; }
  const OrtApi* get() const { return api_; }

  void check(OrtStatus* status) const {
    if (status) throw Failure{status};
  }
  void require(bool condition, OrtErrorCode code, const std::string& message) const {
    if (!condition) throw Failure{api_->CreateStatus(code, ("zsm::DeformConv2d: " + message).c_str())};
  }

 private:
  const OrtApi* api_;
};

zsm::Sizes sizes(const Api& api, const OrtValue* value) {
  OrtTensorTypeAndShapeInfo* info = nullptr;
  api.check(api->GetTensorTypeAndShape(value, &info));
  const std::unique_ptr<OrtTensorTypeAndShapeInfo, decltype(api->ReleaseTensorTypeAndShapeInfo)> owner(
      info, api->ReleaseTensorTypeAndShapeInfo);
  size_t rank = 0;
  api.check(api->GetDimensionsCount(info, &rank));
  zsm::Sizes result(rank);
  api.check(api->GetDimensions(info, result.data(), rank));
  return result;
}

// A missing attribute keeps its default.
void read(const Api& api, const OrtKernelInfo* info, const char* name, zsm::Sizes& values) {
  size_t count = 0;
  if (OrtStatus* missing = api->KernelInfoGetAttributeArray_int64(info, name, nullptr, &count)) {
    return api->ReleaseStatus(missing);
  }
  values.resize(count);
  api.check(api->KernelInfoGetAttributeArray_int64(info, name, values.data(), &count));
}

void read(const Api& api, const OrtKernelInfo* info, const char* name, int64_t& value) {
  if (OrtStatus* missing = api->KernelInfoGetAttribute_int64(info, name, &value)) api->ReleaseStatus(missing);
}

zsm::Attributes attributes(const Api& api, const OrtKernelInfo* info) {
  zsm::Attributes a;
  read(api, info, "kernel_shape", a.kernel_shape);
  read(api, info, "strides", a.strides);
  read(api, info, "pads", a.pads);
  read(api, info, "dilations", a.dilations);
  read(api, info, "group", a.group);
  read(api, info, "offset_group", a.offset_group);
  const std::string fault = zsm::fault(a);
  api.require(fault.empty(), ORT_INVALID_GRAPH, fault);
  return a;
}

// Adapts ONNX Runtime's thread pool to zsm_parallel_for.
struct Threads {
  const Api& api;
  const OrtKernelContext* context;

  static void run(void* self, void (*task)(void*, size_t), void* data, size_t count) {
    const Threads& threads = *static_cast<Threads*>(self);
    OrtStatus* status = threads.api->KernelContext_ParallelFor(threads.context, task, count, 0, data);
    if (!status) return;
    threads.api->ReleaseStatus(status);
    for (size_t i = 0; i < count; ++i) task(data, i);
  }
};

// Device memory for one launch. ONNX Runtime's arena works in stream order, so it may be freed as soon as the launch is
// queued.
class Workspace {
 public:
  Workspace(const Api& api, const OrtKernelContext* context, OrtAllocator* allocator, int64_t bytes)
      : api_(api), allocator_(allocator) {
    if (bytes == 0) return;
    const OrtMemoryInfo* memory = nullptr;
    api_.check(api_->AllocatorGetInfo(allocator_, &memory));
    api_.check(api_->KernelContext_GetScratchBuffer(context, memory, static_cast<size_t>(bytes), &data_));
  }
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;
  ~Workspace() {
    if (!data_) return;
    if (OrtStatus* status = api_->AllocatorFree(allocator_, data_)) api_->ReleaseStatus(status);
  }

  void* data() const { return data_; }

 private:
  const Api& api_;
  OrtAllocator* allocator_;
  void* data_ = nullptr;
};

class Kernel {
 public:
  Kernel(const OrtApi* api, const OrtKernelInfo* info, zsm_type type, bool cuda)
      : api_(api), attributes_(attributes(api_, info)), type_(type), cuda_(cuda) {
    if (cuda_) api_.check(api_->KernelInfoGetAllocator(info, OrtMemTypeDefault, &allocator_));
  }
  Kernel(const Kernel&) = delete;
  Kernel& operator=(const Kernel&) = delete;
  ~Kernel() {
    if (allocator_) api_->ReleaseAllocator(allocator_);
  }

  const OrtApi* api() const { return api_.get(); }

  void compute(OrtKernelContext* context) const {
    const OrtValue* inputs[4];
    for (size_t i = 0; i < 4; ++i) api_.check(api_->KernelContext_GetInput(context, i, &inputs[i]));
    zsm_deform_conv2d_shape shape;
    const std::string fault = zsm::resolve(attributes_, sizes(api_, inputs[0]), sizes(api_, inputs[1]),
                                           sizes(api_, inputs[2]), sizes(api_, inputs[3]), shape);
    api_.require(fault.empty(), ORT_INVALID_ARGUMENT, fault);

    const int64_t output_sizes[] = {shape.batch, shape.outputs, zsm::output_height(shape), zsm::output_width(shape)};
    OrtValue* output = nullptr;
    api_.check(api_->KernelContext_GetOutput(context, 0, output_sizes, 4, &output));
    if (output_sizes[0] * output_sizes[2] * output_sizes[3] == 0) return;
    const zsm_deform_conv2d_tensors tensors{data(inputs[0]), data(inputs[1]), data(inputs[2]), data(inputs[3]),
                                            mutable_data(output)};
    const zsm_status status = cuda_ ? compute_cuda(context, shape, tensors) : compute_cpu(context, shape, tensors);
    api_.require(status == ZSM_OK, ORT_RUNTIME_EXCEPTION, zsm_last_error());
  }

 private:
  const void* data(const OrtValue* value) const { return mutable_data(const_cast<OrtValue*>(value)); }
  void* mutable_data(OrtValue* value) const {
    void* data = nullptr;
    api_.check(api_->GetTensorMutableData(value, &data));
    return data;
  }

  zsm_status compute_cpu(OrtKernelContext* context, const zsm_deform_conv2d_shape& shape,
                         const zsm_deform_conv2d_tensors& tensors) const {
    Threads threads{api_, context};
    return zsm_deform_conv2d_cpu(&shape, type_, &tensors, Threads::run, &threads);
  }

  zsm_status compute_cuda(OrtKernelContext* context, const zsm_deform_conv2d_shape& shape,
                          const zsm_deform_conv2d_tensors& tensors) const {
    void* stream = nullptr;
    api_.check(api_->KernelContext_GetGPUComputeStream(context, &stream));
    const Workspace workspace(api_, context, allocator_, zsm_deform_conv2d_cuda_workspace(&shape, type_));
    return zsm_deform_conv2d_cuda(&shape, type_, ZSM_LINEAR, ZSM_KERNEL_AUTO, &tensors, workspace.data(), stream);
  }

  Api api_;
  zsm::Attributes attributes_;
  zsm_type type_;
  bool cuda_;
  OrtAllocator* allocator_ = nullptr;
};

template <typename Body>
OrtStatusPtr guarded(const OrtApi* api, const Body& body) noexcept {
  try {
    body();
    return nullptr;
  } catch (const Failure& failure) {
    return failure.status;
  } catch (const std::exception& error) {
    return api->CreateStatus(ORT_RUNTIME_EXCEPTION, error.what());
  }
}

// The operator for one provider and element type; ONNX Runtime selects by both among operators of the same name.
struct Operator : OrtCustomOp {
  zsm_type type;
  bool cuda;

  Operator(zsm_type type_, bool cuda_) : OrtCustomOp{}, type(type_), cuda(cuda_) {
    version = kApiVersion;
    GetName = [](const OrtCustomOp*) { return "DeformConv2d"; };
    GetExecutionProviderType = [](const OrtCustomOp* op) {
      return static_cast<const Operator*>(op)->cuda ? "CUDAExecutionProvider" : nullptr;
    };
    GetInputTypeCount = [](const OrtCustomOp*) -> size_t { return 4; };
    GetOutputTypeCount = [](const OrtCustomOp*) -> size_t { return 1; };
    GetInputType = GetOutputType = [](const OrtCustomOp* op, size_t) {
      const bool half = static_cast<const Operator*>(op)->type == ZSM_FLOAT16;
      return half ? ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16 : ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
    };
    GetInputCharacteristic = GetOutputCharacteristic = [](const OrtCustomOp*, size_t) { return INPUT_OUTPUT_REQUIRED; };
    GetInputMemoryType = [](const OrtCustomOp*, size_t) { return OrtMemTypeDefault; };
    CreateKernelV2 = [](const OrtCustomOp* op, const OrtApi* api, const OrtKernelInfo* info, void** kernel) {
      const auto* self = static_cast<const Operator*>(op);
      return guarded(api, [&] { *kernel = new Kernel(api, info, self->type, self->cuda); });
    };
    KernelComputeV2 = [](void* kernel, OrtKernelContext* context) {
      const auto* self = static_cast<const Kernel*>(kernel);
      return guarded(self->api(), [&] { self->compute(context); });
    };
    KernelDestroy = [](void* kernel) { delete static_cast<Kernel*>(kernel); };
  }
};

// All sessions share one domain. They keep pointers to it, so it is never released.
OrtStatus* make_domain(const OrtApi* api, OrtCustomOpDomain** made) {
  static Operator operators[] = {{ZSM_FLOAT32, false}, {ZSM_FLOAT16, false}, {ZSM_FLOAT32, true}, {ZSM_FLOAT16, true}};
  static OrtCustomOpDomain* complete = nullptr;
  static std::mutex mutex;
  const std::lock_guard<std::mutex> lock(mutex);
  if (!complete) {
    OrtCustomOpDomain* domain = nullptr;
    if (OrtStatus* status = api->CreateCustomOpDomain("zsm", &domain)) return status;
    const size_t count = *zsm_cuda_architectures() ? 4 : 2;
    for (size_t i = 0; i < count; ++i) {
      if (OrtStatus* status = api->CustomOpDomain_Add(domain, &operators[i])) return status;
    }
    complete = domain;
  }
  *made = complete;
  return nullptr;
}

}  // namespace

extern "C" __attribute__((visibility("default"))) OrtStatus* RegisterCustomOps(OrtSessionOptions* options,
                                                                               const OrtApiBase* base) {
  const OrtApi* api = base->GetApi(kApiVersion);
  if (!api) return base->GetApi(1)->CreateStatus(ORT_FAIL, "zsm::DeformConv2d needs ONNX Runtime 1.18 or later");
  OrtCustomOpDomain* domain = nullptr;
  if (OrtStatus* status = make_domain(api, &domain)) return status;
  return api->AddCustomOpDomain(options, domain);
}
