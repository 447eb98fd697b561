// zsm::DeformConv2d as a TensorRT plugin.
#pragma once

#include <NvInferRuntime.h>

#include <array>
#include <optional>
#include <string>
#include <vector>

#include "core/attributes.h"

namespace zsm::tensorrt {

constexpr int32_t kInputs = 4;

// The attributes as plugin fields, for reading and serialising.
class Fields {
 public:
  explicit Fields(const Attributes& attributes);
  Fields(const Fields&) = delete;
  Fields& operator=(const Fields&) = delete;

  const nvinfer1::PluginFieldCollection& collection() const { return collection_; }

  // Returns an error message, or an empty string.
  static std::string read(const nvinfer1::PluginFieldCollection& fields, Attributes& attributes);

 private:
  std::array<std::vector<int32_t>, 6> values_;
  std::vector<nvinfer1::PluginField> fields_;
  nvinfer1::PluginFieldCollection collection_;
};

// Inputs x, offset_mask, weight, bias; one output. All FP32 or all FP16. Activations are linear, or kHWC8 in FP16
// for shapes that a fused kernel supports.
class DeformConv2d final : public nvinfer1::IPluginV3,
                           public nvinfer1::IPluginV3OneCore,
                           public nvinfer1::IPluginV3OneBuild,
                           public nvinfer1::IPluginV3OneRuntime {
 public:
  explicit DeformConv2d(const Attributes& attributes);
  DeformConv2d(const DeformConv2d& other);
  DeformConv2d& operator=(const DeformConv2d&) = delete;

  nvinfer1::IPluginCapability* getCapabilityInterface(nvinfer1::PluginCapabilityType type) noexcept override;
  nvinfer1::IPluginV3* clone() noexcept override;

  char const* getPluginName() const noexcept override;
  char const* getPluginVersion() const noexcept override;
  char const* getPluginNamespace() const noexcept override;

  int32_t getNbOutputs() const noexcept override;
  int32_t getOutputDataTypes(nvinfer1::DataType* outputs, int32_t output_count, nvinfer1::DataType const* inputs,
                             int32_t input_count) const noexcept override;
  int32_t getOutputShapes(nvinfer1::DimsExprs const* inputs, int32_t input_count, nvinfer1::DimsExprs const*, int32_t,
                          nvinfer1::DimsExprs* outputs, int32_t output_count,
                          nvinfer1::IExprBuilder&) noexcept override;
  bool supportsFormatCombination(int32_t position, nvinfer1::DynamicPluginTensorDesc const* tensors,
                                 int32_t input_count, int32_t output_count) noexcept override;
  int32_t configurePlugin(nvinfer1::DynamicPluginTensorDesc const* inputs, int32_t input_count,
                          nvinfer1::DynamicPluginTensorDesc const* outputs, int32_t output_count) noexcept override;
  int32_t getNbTactics() noexcept override;
  int32_t getValidTactics(int32_t* tactics, int32_t count) noexcept override;
  size_t getWorkspaceSize(nvinfer1::DynamicPluginTensorDesc const* inputs, int32_t input_count,
                          nvinfer1::DynamicPluginTensorDesc const* outputs,
                          int32_t output_count) const noexcept override;
  char const* getTimingCacheID() noexcept override;

  int32_t setTactic(int32_t tactic) noexcept override;
  int32_t onShapeChange(nvinfer1::PluginTensorDesc const* inputs, int32_t input_count,
                        nvinfer1::PluginTensorDesc const* outputs, int32_t output_count) noexcept override;
  int32_t enqueue(nvinfer1::PluginTensorDesc const*, nvinfer1::PluginTensorDesc const*, void const* const* inputs,
                  void* const* outputs, void*, cudaStream_t stream) noexcept override;
  nvinfer1::IPluginV3* attachToContext(nvinfer1::IPluginResourceContext* context) noexcept override;
  nvinfer1::PluginFieldCollection const* getFieldsToSerialize() noexcept override;

 private:
  using Kernels = std::array<int32_t, 8>;

  int32_t fail(nvinfer1::ErrorCode code, const std::string& message) const noexcept;
  int32_t set_shape(const std::array<nvinfer1::Dims, kInputs>& dims, const nvinfer1::PluginTensorDesc& x) noexcept;
  int32_t kernels(Kernels& found) const noexcept;

  Attributes attributes_;
  Fields fields_;
  std::string timing_cache_id_;
  std::optional<std::array<nvinfer1::Dims, kInputs>> dims_;  // that shape_ was made from
  Shape shape_{};
  zsm_type type_ = ZSM_FLOAT32;
  zsm_layout layout_ = ZSM_LINEAR;
  int32_t tactic_ = ZSM_KERNEL_AUTO;
  nvinfer1::IErrorRecorder* recorder_ = nullptr;
};

}  // namespace zsm::tensorrt
