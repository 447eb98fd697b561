// A plugin library that records how TensorRT builds with our plugin. Its plugins, in the namespace "traced", pass
// everything on to ours, and check that no answer about a tensor depends on later ones.
#include <NvInferRuntime.h>

#include <memory>
#include <mutex>
#include <string>
#include <vector>

namespace {

using namespace nvinfer1;

std::string trace;
std::mutex mutex;  // a builder has several threads

void record(const std::string& event) {
  const std::lock_guard lock(mutex);
  trace += event + '\n';
}

const char* name(DataType type) {
  switch (type) {
    case DataType::kFLOAT:
      return "float32";
    case DataType::kHALF:
      return "float16";
    case DataType::kINT8:
      return "int8";
    default:
      return "other";
  }
}

const char* name(TensorFormat format) {
  switch (format) {
    case TensorFormat::kLINEAR:
      return "linear";
    case TensorFormat::kHWC8:
      return "hwc8";
    default:
      return "other";
  }
}

std::string name(const PluginTensorDesc& tensor) { return std::string(name(tensor.type)) + ' ' + name(tensor.format); }

class Build final : public IPluginV3OneBuild {
 public:
  explicit Build(IPluginV3OneBuild& inner) : inner_(inner) {}

  bool supportsFormatCombination(int32_t position, DynamicPluginTensorDesc const* tensors, int32_t inputs,
                                 int32_t outputs) noexcept override {
    const bool answer = inner_.supportsFormatCombination(position, tensors, inputs, outputs);
    const std::string place = std::to_string(position);
    record("query " + place + ' ' + name(tensors[position].desc) + (answer ? " yes" : " no"));
    for (const auto& later : {DynamicPluginTensorDesc{}, tensors[0]}) {
      std::vector<DynamicPluginTensorDesc> other(tensors, tensors + inputs + outputs);
      for (size_t i = position + 1; i < other.size(); ++i) other[i] = later;
      if (inner_.supportsFormatCombination(position, other.data(), inputs, outputs) != answer)
        record("read-ahead " + place);
    }
    return answer;
  }

  int32_t configurePlugin(DynamicPluginTensorDesc const* inputs, int32_t input_count,
                          DynamicPluginTensorDesc const* outputs, int32_t output_count) noexcept override {
    std::string formats;
    for (int32_t i = 0; i < input_count; ++i) formats += ' ' + name(inputs[i].desc);
    for (int32_t i = 0; i < output_count; ++i) formats += ' ' + name(outputs[i].desc);
    record("configure" + formats);
    return inner_.configurePlugin(inputs, input_count, outputs, output_count);
  }

  int32_t getNbTactics() noexcept override { return inner_.getNbTactics(); }
  int32_t getValidTactics(int32_t* tactics, int32_t count) noexcept override {
    const int32_t status = inner_.getValidTactics(tactics, count);
    for (int32_t i = 0; status == 0 && i < count; ++i) record("tactic " + std::to_string(tactics[i]));
    return status;
  }
  size_t getWorkspaceSize(DynamicPluginTensorDesc const* inputs, int32_t input_count,
                          DynamicPluginTensorDesc const* outputs, int32_t output_count) const noexcept override {
    return inner_.getWorkspaceSize(inputs, input_count, outputs, output_count);
  }
  int32_t getNbOutputs() const noexcept override { return inner_.getNbOutputs(); }
  int32_t getOutputDataTypes(DataType* outputs, int32_t output_count, DataType const* inputs,
                             int32_t input_count) const noexcept override {
    return inner_.getOutputDataTypes(outputs, output_count, inputs, input_count);
  }
  int32_t getOutputShapes(DimsExprs const* inputs, int32_t input_count, DimsExprs const* shape_inputs,
                          int32_t shape_input_count, DimsExprs* outputs, int32_t output_count,
                          IExprBuilder& expressions) noexcept override {
    return inner_.getOutputShapes(inputs, input_count, shape_inputs, shape_input_count, outputs, output_count,
                                  expressions);
  }
  char const* getTimingCacheID() noexcept override { return inner_.getTimingCacheID(); }
  int32_t getFormatCombinationLimit() noexcept override { return inner_.getFormatCombinationLimit(); }
  char const* getMetadataString() noexcept override { return inner_.getMetadataString(); }

 private:
  IPluginV3OneBuild& inner_;
};

class Plugin final : public IPluginV3 {
 public:
  explicit Plugin(IPluginV3* inner)
      : inner_(inner),
        build_(*static_cast<IPluginV3OneBuild*>(inner->getCapabilityInterface(PluginCapabilityType::kBUILD))) {}

  IPluginCapability* getCapabilityInterface(PluginCapabilityType type) noexcept override {
    return type == PluginCapabilityType::kBUILD ? &build_ : inner_->getCapabilityInterface(type);
  }
  IPluginV3* clone() noexcept override { return new Plugin(inner_->clone()); }

 private:
  std::unique_ptr<IPluginV3> inner_;
  Build build_;
};

// Our creator, which must be registered.
IPluginCreatorV3One* ours() {
  return static_cast<IPluginCreatorV3One*>(getPluginRegistry()->getCreator("DeformConv2d", "1", "zsm"));
}

class Creator final : public IPluginCreatorV3One {
 public:
  AsciiChar const* getPluginName() const noexcept override { return "DeformConv2d"; }
  AsciiChar const* getPluginVersion() const noexcept override { return "1"; }
  AsciiChar const* getPluginNamespace() const noexcept override { return "traced"; }
  PluginFieldCollection const* getFieldNames() noexcept override { return ours()->getFieldNames(); }
  IPluginV3* createPlugin(AsciiChar const* node, PluginFieldCollection const* fields,
                          TensorRTPhase phase) noexcept override {
    IPluginV3* const plugin = ours()->createPlugin(node, fields, phase);
    return plugin ? new Plugin(plugin) : nullptr;
  }
};

}  // namespace

#define EXPORT extern "C" __attribute__((visibility("default")))

EXPORT IPluginCreatorInterface* const* getCreators(int32_t& count) {
  static Creator creator;
  static IPluginCreatorInterface* const creators[] = {&creator};
  count = 1;
  return creators;
}

EXPORT void setLoggerFinder(ILoggerFinder*) {}

// What was recorded since the last call, a line per event; valid until the next call.
EXPORT const char* take_trace() {
  static std::string text;
  const std::lock_guard lock(mutex);
  text.clear();
  text.swap(trace);
  return text.c_str();
}
