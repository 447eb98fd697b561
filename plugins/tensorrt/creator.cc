// The library's entry points for TensorRT: the creator, and the logger.
#include <array>

#include "tensorrt/errors.h"
#include "tensorrt/plugin.h"

namespace zsm::tensorrt {
namespace {

using namespace nvinfer1;

class Creator final : public IPluginCreatorV3One {
 public:
  char const* getPluginName() const noexcept override { return kName; }
  char const* getPluginVersion() const noexcept override { return kVersion; }
  char const* getPluginNamespace() const noexcept override { return kNamespace; }

  // TensorRT's parser reads only the node attributes listed here.
  PluginFieldCollection const* getFieldNames() noexcept override { return &names_.collection(); }

  // The fields are the same in both phases: an engine stores those that the plugin was built from.
  IPluginV3* createPlugin(AsciiChar const*, PluginFieldCollection const* fields, TensorRTPhase) noexcept override try {
    Attributes attributes;
    const std::string fault = fields ? Fields::read(*fields, attributes) : "it was given no fields";
    if (fault.empty()) return new DeformConv2d(attributes);
    report(nullptr, ErrorCode::kINVALID_ARGUMENT, fault);
    return nullptr;
  } catch (const std::exception& error) {
    report(nullptr, ErrorCode::kFAILED_ALLOCATION, error.what());
    return nullptr;
  }

 private:
  Fields names_{Attributes{}};
};

}  // namespace
}  // namespace zsm::tensorrt

#define ZSM_EXPORT extern "C" __attribute__((visibility("default")))

ZSM_EXPORT nvinfer1::IPluginCreatorInterface* const* getCreators(int32_t& count) {
  static zsm::tensorrt::Creator creator;
  static nvinfer1::IPluginCreatorInterface* const creators[] = {&creator};
  count = 1;
  return creators;
}

ZSM_EXPORT void setLoggerFinder(nvinfer1::ILoggerFinder* finder) { zsm::tensorrt::use_logger_of(finder); }
