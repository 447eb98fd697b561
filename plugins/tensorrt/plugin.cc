#include "tensorrt/plugin.h"

#include <algorithm>
#include <sstream>

#include "tensorrt/errors.h"

namespace zsm::tensorrt {
namespace {

using namespace nvinfer1;

constexpr int32_t kOutput = kInputs;  // the output's position comes after the inputs'
constexpr int32_t kWeight = 2, kBias = 3;

// Increase it when a kernel's speed changes, so that TensorRT doesn't keep a tactic chosen by outdated timings.
constexpr int32_t kKernels = 2;

Sizes sizes(const Dims& dims) { return Sizes(dims.d, dims.d + std::clamp<int32_t>(dims.nbDims, 0, Dims::MAX_DIMS)); }

std::string describe(const Attributes& a) {
  std::ostringstream text;
  text << "kernels " << kKernels << ' ';
  for (const Sizes& list : {a.kernel_shape, a.strides, a.pads, a.dilations, {a.group, a.offset_group}}) {
    for (const int64_t value : list) text << value << ' ';
  }
  return text.str();
}

bool equal(const Dims& a, const Dims& b) {
  return a.nbDims == b.nbDims && std::equal(a.d, a.d + std::clamp<int32_t>(a.nbDims, 0, Dims::MAX_DIMS), b.d);
}

bool is_weight(int32_t position) { return position == kWeight || position == kBias; }

}  // namespace

DeformConv2d::DeformConv2d(const Attributes& attributes)
    : attributes_(attributes), fields_(attributes), timing_cache_id_(describe(attributes)) {}

DeformConv2d::DeformConv2d(const DeformConv2d& other)
    : IPluginV3(other),
      IPluginV3OneCore(other),
      IPluginV3OneBuild(other),
      IPluginV3OneRuntime(other),
      attributes_(other.attributes_),
      fields_(other.attributes_),
      timing_cache_id_(other.timing_cache_id_),
      dims_(other.dims_),
      shape_(other.shape_),
      type_(other.type_),
      layout_(other.layout_),
      tactic_(other.tactic_),
      recorder_(other.recorder_) {}

IPluginCapability* DeformConv2d::getCapabilityInterface(PluginCapabilityType type) noexcept {
  switch (type) {
    case PluginCapabilityType::kCORE:
      return static_cast<IPluginV3OneCore*>(this);
    case PluginCapabilityType::kBUILD:
      return static_cast<IPluginV3OneBuild*>(this);
    case PluginCapabilityType::kRUNTIME:
      return static_cast<IPluginV3OneRuntime*>(this);
  }
  return nullptr;
}

IPluginV3* DeformConv2d::clone() noexcept try { return new DeformConv2d(*this); } catch (const std::exception& error) {
  fail(ErrorCode::kFAILED_ALLOCATION, error.what());
  return nullptr;
}

char const* DeformConv2d::getPluginName() const noexcept { return kName; }
char const* DeformConv2d::getPluginVersion() const noexcept { return kVersion; }
char const* DeformConv2d::getPluginNamespace() const noexcept { return kNamespace; }

int32_t DeformConv2d::getNbOutputs() const noexcept { return 1; }

int32_t DeformConv2d::getOutputDataTypes(DataType* outputs, int32_t output_count, DataType const* inputs,
                                         int32_t input_count) const noexcept {
  if (input_count != kInputs || output_count != 1)
    return fail(ErrorCode::kINVALID_ARGUMENT, "it has 4 inputs (x, offset_mask, weight, bias) and 1 output");
  if (!std::all_of(inputs, inputs + kInputs, [&](DataType type) { return type == inputs[0]; }))
    return fail(ErrorCode::kINVALID_ARGUMENT, "its inputs must all have one element type");
  outputs[0] = inputs[0];
  return 0;
}

// offset_mask has the output's height and width; onShapeChange checks that.
int32_t DeformConv2d::getOutputShapes(DimsExprs const* inputs, int32_t input_count, DimsExprs const*, int32_t,
                                      DimsExprs* outputs, int32_t output_count, IExprBuilder&) noexcept {
  if (input_count != kInputs || output_count != 1 || inputs[0].nbDims != 4 || inputs[1].nbDims != 4 ||
      inputs[kWeight].nbDims != 4 || inputs[kBias].nbDims != 1)
    return fail(ErrorCode::kINVALID_ARGUMENT, "x, offset_mask and weight must have 4 dimensions, bias 1");
  outputs[0].nbDims = 4;
  outputs[0].d[0] = inputs[0].d[0];
  outputs[0].d[1] = inputs[kWeight].d[0];
  outputs[0].d[2] = inputs[1].d[2];
  outputs[0].d[3] = inputs[1].d[3];
  return 0;
}

// Tensors after `position` may not be read. The network fixes the types; TensorRT tries several formats.
bool DeformConv2d::supportsFormatCombination(int32_t position, DynamicPluginTensorDesc const* tensors,
                                             int32_t input_count, int32_t output_count) noexcept try {
  if (input_count != kInputs || output_count != 1 || position < 0 || position > kOutput) return false;
  const PluginTensorDesc &own = tensors[position].desc, &x = tensors[0].desc;
  if (own.type != x.type || (x.type != DataType::kFLOAT && x.type != DataType::kHALF)) return false;
  if (is_weight(position)) return own.format == TensorFormat::kLINEAR;
  if (own.format != x.format) return false;
  if (own.format == TensorFormat::kLINEAR) return true;
  if (own.format != TensorFormat::kHWC8 || x.type != DataType::kHALF) return false;
  // Until the weights may be read: as many outputs as inputs, which the fused kernels require.
  const Dims& weight = position > kWeight ? tensors[kWeight].desc.dims : x.dims;
  if (x.dims.nbDims != 4 || weight.nbDims != 4) return false;
  const int64_t channels = x.dims.d[1], outputs = position > kWeight ? weight.d[0] : channels;
  const Shape shape = shape_of(attributes_, {1, channels, 3, 3}, outputs);
  return zsm_deform_conv2d_cuda_workspace(&shape, ZSM_FLOAT16) > 0;
} catch (const std::exception&) {
  return false;
}

int32_t DeformConv2d::configurePlugin(DynamicPluginTensorDesc const* inputs, int32_t input_count,
                                      DynamicPluginTensorDesc const*, int32_t output_count) noexcept {
  if (input_count != kInputs || output_count != 1)
    return fail(ErrorCode::kINVALID_ARGUMENT, "it has 4 inputs (x, offset_mask, weight, bias) and 1 output");
  return set_shape({inputs[0].opt, inputs[1].opt, inputs[2].opt, inputs[3].opt}, inputs[0].desc);
}

int32_t DeformConv2d::getNbTactics() noexcept {
  Kernels found;
  return kernels(found);
}

int32_t DeformConv2d::getValidTactics(int32_t* tactics, int32_t count) noexcept {
  Kernels found;
  const int32_t known = kernels(found);
  if (count != known) return fail(ErrorCode::kINVALID_ARGUMENT, "there is no room for its tactics");
  std::copy_n(found.begin(), count, tactics);
  return 0;
}

// For the largest shape: `max` is its dimensions.
size_t DeformConv2d::getWorkspaceSize(DynamicPluginTensorDesc const* inputs, int32_t input_count,
                                      DynamicPluginTensorDesc const*, int32_t) const noexcept try {
  if (input_count != kInputs || inputs[0].desc.type != DataType::kHALF) return 0;
  const Dims &x = inputs[0].max, &weight = inputs[kWeight].max;
  if (x.nbDims != 4 || weight.nbDims != 4) return 0;
  const Shape shape = shape_of(attributes_, sizes(x), weight.d[0]);
  return static_cast<size_t>(zsm_deform_conv2d_cuda_workspace(&shape, ZSM_FLOAT16));
} catch (const std::exception& error) {
  fail(ErrorCode::kFAILED_ALLOCATION, error.what());
  return 0;
}

char const* DeformConv2d::getTimingCacheID() noexcept { return timing_cache_id_.c_str(); }

int32_t DeformConv2d::setTactic(int32_t tactic) noexcept {
  tactic_ = tactic;
  return 0;
}

int32_t DeformConv2d::onShapeChange(PluginTensorDesc const* inputs, int32_t input_count, PluginTensorDesc const*,
                                    int32_t output_count) noexcept {
  if (input_count != kInputs || output_count != 1)
    return fail(ErrorCode::kINVALID_ARGUMENT, "it has 4 inputs (x, offset_mask, weight, bias) and 1 output");
  return set_shape({inputs[0].dims, inputs[1].dims, inputs[2].dims, inputs[3].dims}, inputs[0]);
}

int32_t DeformConv2d::enqueue(PluginTensorDesc const*, PluginTensorDesc const*, void const* const* inputs,
                              void* const* outputs, void* workspace, cudaStream_t stream) noexcept {
  const zsm_deform_conv2d_tensors tensors{inputs[0], inputs[1], inputs[2], inputs[3], outputs[0]};
  const zsm_status status = zsm_deform_conv2d_cuda(&shape_, type_, layout_, tactic_, &tensors, workspace, stream);
  return status == ZSM_OK ? 0 : fail(ErrorCode::kFAILED_EXECUTION, zsm_last_error());
}

IPluginV3* DeformConv2d::attachToContext(IPluginResourceContext* context) noexcept {
  auto* attached = static_cast<DeformConv2d*>(clone());
  if (attached && context) attached->recorder_ = context->getErrorRecorder();
  return attached;
}

PluginFieldCollection const* DeformConv2d::getFieldsToSerialize() noexcept { return &fields_.collection(); }

int32_t DeformConv2d::fail(ErrorCode code, const std::string& message) const noexcept {
  report(recorder_, code, message);
  return -1;
}

int32_t DeformConv2d::set_shape(const std::array<Dims, kInputs>& dims, const PluginTensorDesc& x) noexcept try {
  type_ = x.type == DataType::kHALF ? ZSM_FLOAT16 : ZSM_FLOAT32;
  layout_ = x.format == TensorFormat::kLINEAR ? ZSM_LINEAR : ZSM_CHANNELS_LAST;
  // TensorRT says that shapes changed when only addresses did.
  if (dims_ && std::equal(dims.begin(), dims.end(), dims_->begin(), equal)) return 0;
  dims_.reset();
  const std::string fault =
      resolve(attributes_, sizes(dims[0]), sizes(dims[1]), sizes(dims[2]), sizes(dims[3]), shape_);
  if (!fault.empty()) return fail(ErrorCode::kINVALID_ARGUMENT, fault);
  dims_ = dims;
  return 0;
} catch (const std::exception& error) {
  return fail(ErrorCode::kFAILED_ALLOCATION, error.what());
}

int32_t DeformConv2d::kernels(Kernels& found) const noexcept {
  return zsm_deform_conv2d_cuda_kernels(&shape_, type_, found.data());
}

}  // namespace zsm::tensorrt
