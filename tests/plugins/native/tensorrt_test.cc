// Drives the TensorRT adapter through TensorRT's own headers, in the order in which TensorRT calls it.
#include <NvInferRuntime.h>

#include <cstring>
#include <map>
#include <memory>
#include <string>

#include "device.h"

extern "C" nvinfer1::IPluginCreatorInterface* const* getCreators(int32_t& count);
extern "C" void setLoggerFinder(nvinfer1::ILoggerFinder* finder);

namespace {

using namespace nvinfer1;
using zsm::Half;
using zsm::Shape;

struct Log final : ILogger, ILoggerFinder {
  std::string text;
  void log(Severity, AsciiChar const* message) noexcept override { text = message; }
  ILogger* findLogger() override { return this; }
} logger;

struct Recorder final : IErrorRecorder {
  std::string text;
  int32_t getNbErrors() const noexcept override { return text.empty() ? 0 : 1; }
  ErrorCode getErrorCode(int32_t) const noexcept override { return ErrorCode::kUNSPECIFIED_ERROR; }
  ErrorDesc getErrorDesc(int32_t) const noexcept override { return text.c_str(); }
  bool hasOverflowed() const noexcept override { return false; }
  void clear() noexcept override { text.clear(); }
  bool reportError(ErrorCode, ErrorDesc description) noexcept override {
    text = description;
    return true;
  }
  RefCount incRefCount() noexcept override { return 1; }
  RefCount decRefCount() noexcept override { return 1; }
};

struct Context final : IPluginResourceContext {
  Recorder recorder;
  IGpuAllocator* getGpuAllocator() const noexcept override { return nullptr; }
  IErrorRecorder* getErrorRecorder() const noexcept override { return const_cast<Recorder*>(&recorder); }
};

// A constant dimension; the adapter only passes expressions on.
struct Dimension final : IDimensionExpr, apiv::VDimensionExpr {
  int64_t value;
  explicit Dimension(int64_t value_) : value(value_) { IDimensionExpr::mImpl = this; }
  bool isConstant() const override { return true; }
  int64_t getConstantValue() const override { return value; }
  bool isSizeTensor() const override { return false; }
};

struct Builder final : IExprBuilder {};

IPluginCreatorV3One& creator() {
  int32_t count = 0;
  IPluginCreatorInterface* const* creators = getCreators(count);
  CHECK(count == 1);
  CHECK(!std::strcmp(creators[0]->getInterfaceInfo().kind, "PLUGIN CREATOR_V3ONE"));
  return *static_cast<IPluginCreatorV3One*>(creators[0]);
}

using FieldValues = std::map<std::string, std::vector<int32_t>>;

FieldValues network_fields() {
  return {{"kernel_shape", {3, 3}}, {"strides", {1, 1}}, {"pads", {1, 1, 1, 1}},
          {"dilations", {1, 1}},    {"group", {1}},      {"offset_group", {8}}};
}

std::unique_ptr<IPluginV3> create(const FieldValues& values, TensorRTPhase phase = TensorRTPhase::kBUILD,
                                  PluginFieldType type = PluginFieldType::kINT32) {
  std::vector<PluginField> fields;
  for (const auto& [name, list] : values)
    fields.emplace_back(name.c_str(), list.data(), type, static_cast<int32_t>(list.size()));
  const PluginFieldCollection collection{static_cast<int32_t>(fields.size()), fields.data()};
  return std::unique_ptr<IPluginV3>(creator().createPlugin("node", &collection, phase));
}

IPluginV3OneBuild& build(IPluginV3& plugin) {
  return *static_cast<IPluginV3OneBuild*>(plugin.getCapabilityInterface(PluginCapabilityType::kBUILD));
}

IPluginV3OneRuntime& runtime(IPluginV3& plugin) {
  return *static_cast<IPluginV3OneRuntime*>(plugin.getCapabilityInterface(PluginCapabilityType::kRUNTIME));
}

Dims dims(std::initializer_list<int64_t> sizes) {
  Dims result{};
  for (const int64_t size : sizes) result.d[result.nbDims++] = size;
  return result;
}

// x, offset_mask, weight, bias, output; batch, height and width are dynamic while building.
std::vector<DynamicPluginTensorDesc> descriptions(Size size, DataType type, TensorFormat format, int64_t channels = 64,
                                                  int64_t outputs = 64) {
  const auto describe = [&](const Dims& at, int64_t count, TensorFormat own) {
    DynamicPluginTensorDesc tensor{};
    const bool weight = count == 0;
    tensor.desc = {weight ? at : dims({-1, count, -1, -1}), type, own, 1.0f};
    tensor.min = tensor.max = tensor.opt = at;
    return tensor;
  };
  const int64_t n = size.batch, h = size.height, w = size.width;
  return {describe(dims({n, channels, h, w}), channels, format), describe(dims({n, 216, h, w}), 216, format),
          describe(dims({outputs, channels, 3, 3}), 0, TensorFormat::kLINEAR),
          describe(dims({outputs}), 0, TensorFormat::kLINEAR), describe(dims({n, outputs, h, w}), outputs, format)};
}

// As TensorRT asks: of the tensors after `position` nothing is known yet.
bool supports(IPluginV3& plugin, const std::vector<DynamicPluginTensorDesc>& tensors) {
  std::vector<DynamicPluginTensorDesc> known(tensors.size());
  for (int32_t position = 0; position < 5; ++position) {
    known[position] = tensors[position];
    if (!build(plugin).supportsFormatCombination(position, known.data(), 4, 1)) return false;
  }
  return true;
}

std::vector<PluginTensorDesc> at_run_time(const std::vector<DynamicPluginTensorDesc>& tensors) {
  std::vector<PluginTensorDesc> result;
  for (const DynamicPluginTensorDesc& tensor : tensors)
    result.push_back({tensor.opt, tensor.desc.type, tensor.desc.format, 1});
  return result;
}

std::vector<int32_t> tactics(IPluginV3& plugin) {
  std::vector<int32_t> result(static_cast<size_t>(build(plugin).getNbTactics()));
  CHECK(build(plugin).getValidTactics(result.data(), static_cast<int32_t>(result.size())) == 0);
  return result;
}

void test_creator() {
  CHECK(!std::strcmp(creator().getPluginName(), "DeformConv2d"));
  CHECK(!std::strcmp(creator().getPluginVersion(), "1"));
  CHECK(!std::strcmp(creator().getPluginNamespace(), "zsm"));
  const FieldValues expected = network_fields();
  const PluginFieldCollection* names = creator().getFieldNames();
  CHECK(names->nbFields == static_cast<int32_t>(expected.size()));
  for (int32_t i = 0; i < names->nbFields; ++i) CHECK(expected.count(names->fields[i].name) == 1);
}

void test_plugin_says_who_it_is() {
  const auto plugin = create(network_fields());
  auto* core = static_cast<IPluginV3OneCore*>(plugin->getCapabilityInterface(PluginCapabilityType::kCORE));
  CHECK(!std::strcmp(core->getPluginName(), "DeformConv2d"));
  CHECK(!std::strcmp(core->getPluginNamespace(), "zsm"));
  CHECK(build(*plugin).getNbOutputs() == 1);
}

void expect_refused(const FieldValues& values, const char* part, PluginFieldType type = PluginFieldType::kINT32) {
  logger.text.clear();
  CHECK(!create(values, TensorRTPhase::kBUILD, type));
  CHECK(logger.text.find(part) != std::string::npos);
}

void test_bad_fields_are_refused_with_a_message() {
  const auto with = [](const char* name, std::vector<int32_t> value) {
    FieldValues values = network_fields();
    values[name] = std::move(value);
    return values;
  };
  expect_refused(with("strides", {1, 0}), "stride of the width is 0");
  expect_refused(with("pads", {1, 1}), "pads (1,1) must have 4 values");
  expect_refused(with("group", {0}), "group is 0");
  expect_refused(with("group", {1, 1}), "field group must have one value");
  expect_refused(with("offset_group", {-8}), "offset_group is -8");
  expect_refused(with("kernal_shape", {3, 3}), "there is no field kernal_shape");
  expect_refused(with("dilations", {}), "field dilations is empty");
  expect_refused(network_fields(), "must be INT32", PluginFieldType::kFLOAT32);
  FieldValues missing = network_fields();
  missing.erase("kernel_shape");
  expect_refused(missing, "kernel_shape () must have 2 values");
  CHECK(!creator().createPlugin("node", nullptr, TensorRTPhase::kBUILD));
}

void test_output_types_and_shapes() {
  const auto plugin = create(network_fields());
  DataType inputs[4] = {DataType::kHALF, DataType::kHALF, DataType::kHALF, DataType::kHALF}, output{};
  CHECK(build(*plugin).getOutputDataTypes(&output, 1, inputs, 4) == 0 && output == DataType::kHALF);
  inputs[2] = DataType::kFLOAT;
  CHECK(build(*plugin).getOutputDataTypes(&output, 1, inputs, 4) != 0);

  Dimension two(2), c(64), om(216), h(30), w(40), outputs(96), k(3);
  const DimsExprs shapes[4] = {
      {4, {&two, &c, &h, &w}}, {4, {&two, &om, &h, &w}}, {4, {&outputs, &c, &k, &k}}, {1, {&outputs}}};
  DimsExprs result{};
  Builder builder;
  CHECK(build(*plugin).getOutputShapes(shapes, 4, nullptr, 0, &result, 1, builder) == 0);
  const int64_t expected[] = {2, 96, 30, 40};
  CHECK(result.nbDims == 4);
  for (int i = 0; i < 4; ++i) CHECK(result.d[i]->getConstantValue() == expected[i]);
  CHECK(build(*plugin).getOutputShapes(shapes, 3, nullptr, 0, &result, 1, builder) != 0);
}

void test_formats() {
  const Size size{1, 32, 48};
  const auto plugin = create(network_fields());
  CHECK(supports(*plugin, descriptions(size, DataType::kFLOAT, TensorFormat::kLINEAR)));
  CHECK(supports(*plugin, descriptions(size, DataType::kHALF, TensorFormat::kLINEAR)));
  CHECK(supports(*plugin, descriptions(size, DataType::kHALF, TensorFormat::kHWC8)));
  CHECK(!supports(*plugin, descriptions(size, DataType::kFLOAT, TensorFormat::kHWC8)));
  CHECK(!supports(*plugin, descriptions(size, DataType::kHALF, TensorFormat::kCHW2)));
  CHECK(!supports(*plugin, descriptions(size, DataType::kINT8, TensorFormat::kLINEAR)));
  CHECK(!supports(*plugin, descriptions(size, DataType::kHALF, TensorFormat::kHWC8, 128)));
  CHECK(!supports(*plugin, descriptions(size, DataType::kHALF, TensorFormat::kHWC8, 64, 96)));

  auto mixed = descriptions(size, DataType::kHALF, TensorFormat::kLINEAR);
  mixed[1].desc.type = DataType::kFLOAT;
  CHECK(!supports(*plugin, mixed));
  auto weights = descriptions(size, DataType::kHALF, TensorFormat::kHWC8);
  weights[2].desc.format = TensorFormat::kHWC8;
  CHECK(!supports(*plugin, weights));
}

void test_tactics_are_unique_and_not_zero() {
  const auto plugin = create(network_fields());
  auto tensors = descriptions({1, 32, 48}, DataType::kHALF, TensorFormat::kHWC8);
  CHECK(build(*plugin).configurePlugin(tensors.data(), 4, tensors.data() + 4, 1) == 0);
  std::vector<int32_t> found = tactics(*plugin);
  CHECK(found.size() >= 3 && found.back() == ZSM_KERNEL_PLAIN);
  std::sort(found.begin(), found.end());
  CHECK(found.front() > 0 && std::adjacent_find(found.begin(), found.end()) == found.end());

  tensors = descriptions({1, 32, 48}, DataType::kFLOAT, TensorFormat::kLINEAR);
  CHECK(build(*plugin).configurePlugin(tensors.data(), 4, tensors.data() + 4, 1) == 0);
  CHECK(tactics(*plugin) == std::vector<int32_t>{ZSM_KERNEL_PLAIN});
}

// The builder asks before it knows the shape, so the workspace must suffice for the largest.
void test_workspace_fits_the_largest_shape() {
  const auto plugin = create(network_fields());
  const auto bytes = [&](Size size, DataType type) {
    const auto tensors = descriptions(size, type, TensorFormat::kLINEAR);
    return static_cast<int64_t>(build(*plugin).getWorkspaceSize(tensors.data(), 4, tensors.data() + 4, 1));
  };
  const Shape large = square_shape({2, 64, 96});
  CHECK(bytes({2, 64, 96}, DataType::kHALF) == zsm_deform_conv2d_cuda_workspace(&large, ZSM_FLOAT16));
  CHECK(bytes({2, 64, 96}, DataType::kHALF) > bytes({1, 32, 48}, DataType::kHALF));
  CHECK(bytes({2, 64, 96}, DataType::kFLOAT) == 0);
}

void test_timing_cache_tells_attributes_apart() {
  FieldValues strided = network_fields();
  strided["strides"] = {2, 2};
  const auto one = create(network_fields()), same = create(network_fields()), other = create(strided);
  CHECK(!std::strcmp(build(*one).getTimingCacheID(), build(*same).getTimingCacheID()));
  CHECK(std::strcmp(build(*one).getTimingCacheID(), build(*other).getTimingCacheID()));
}

void test_wrong_shapes_are_reported() {
  const auto plugin = create(network_fields());
  auto tensors = descriptions({1, 32, 48}, DataType::kHALF, TensorFormat::kHWC8);
  tensors[1].opt.d[1] = 215;
  logger.text.clear();
  CHECK(build(*plugin).configurePlugin(tensors.data(), 4, tensors.data() + 4, 1) != 0);
  CHECK(logger.text.find("offset_mask is (1,215,32,48), must be (1,216,32,48)") != std::string::npos);
}

// An engine's life: its fields are stored, and a second process makes the plugin from them.
std::unique_ptr<IPluginV3> serialised_and_created_again(IPluginV3& plugin) {
  const PluginFieldCollection* stored = runtime(plugin).getFieldsToSerialize();
  FieldValues values;
  for (int32_t i = 0; i < stored->nbFields; ++i) {
    const PluginField& field = stored->fields[i];
    CHECK(field.type == PluginFieldType::kINT32);
    const auto* data = static_cast<const int32_t*>(field.data);
    values[field.name].assign(data, data + field.length);
  }
  CHECK(values == network_fields());
  return create(values, TensorRTPhase::kRUNTIME);
}

void enqueue_on_device(IPluginV3& attached, Size size, bool channels_last, const std::vector<int32_t>& tactics) {
  Problem<Half> problem(square_shape(size), 3);
  const std::vector<Half> expected = problem.reference();
  const int64_t bytes = zsm_deform_conv2d_cuda_workspace(&problem.shape, ZSM_FLOAT16);
  const OnDevice<uint8_t> workspace(std::vector<uint8_t>(static_cast<size_t>(bytes)));
  for (const int32_t tactic : tactics) {
    const DeviceProblem<Half> device{problem, channels_last};
    const void* const inputs[] = {device.x.data(), device.offset_mask.data(), device.weight.data(), device.bias.data()};
    void* const output = device.out.data();
    CHECK(runtime(attached).setTactic(tactic) == 0);
    CHECK(runtime(attached).enqueue(nullptr, nullptr, inputs, &output, workspace.data(), nullptr) == 0);
    CHECK(difference(device.result(), expected) <= 2e-3f);
  }
}

// One network: format, tactics, then an engine's life in a runtime.
void test_life_of_an_engine(Size size, TensorFormat format) {
  const bool channels_last = format == TensorFormat::kHWC8;
  const auto tensors = descriptions(size, DataType::kHALF, format);
  const auto original = create(network_fields());
  const std::unique_ptr<IPluginV3> built(original->clone());
  CHECK(supports(*built, tensors));
  CHECK(build(*built).configurePlugin(tensors.data(), 4, tensors.data() + 4, 1) == 0);
  const std::vector<int32_t> found = tactics(*built);

  const auto loaded = serialised_and_created_again(*built);
  Context context;
  const std::unique_ptr<IPluginV3> attached(runtime(*loaded).attachToContext(&context));
  CHECK(attached && attached != loaded);
  const std::vector<PluginTensorDesc> now = at_run_time(tensors);
  CHECK(runtime(*attached).onShapeChange(now.data(), 4, now.data() + 4, 1) == 0);

  if (has_gpu()) return enqueue_on_device(*attached, size, channels_last, found);
  alignas(16) Half memory[64];
  void* const pointers[] = {memory, memory, memory, memory};
  CHECK(runtime(*attached).setTactic(found[0]) == 0);
  CHECK(runtime(*attached).enqueue(nullptr, nullptr, pointers, pointers, memory, nullptr) != 0);
  CHECK(context.recorder.text.find("CUDA: ") != std::string::npos);
}

void test_shape_errors_go_to_the_contexts_recorder() {
  const auto plugin = create(network_fields(), TensorRTPhase::kRUNTIME);
  Context context;
  const std::unique_ptr<IPluginV3> attached(runtime(*plugin).attachToContext(&context));
  const auto good = at_run_time(descriptions({1, 32, 48}, DataType::kFLOAT, TensorFormat::kLINEAR));
  auto bad = good;
  bad[3].dims.d[0] = 63;
  const auto change = [&](const std::vector<PluginTensorDesc>& now) {
    return runtime(*attached).onShapeChange(now.data(), 4, now.data() + 4, 1);
  };
  // The same shapes again are checked no further, which must not hide wrong ones.
  for (const bool valid : {true, true, false, false, true}) {
    context.recorder.clear();
    CHECK((change(valid ? good : bad) == 0) == valid);
    CHECK((context.recorder.text.find("bias is (63), must be (64)") == std::string::npos) == valid);
  }
}

}  // namespace

int main() {
  setLoggerFinder(&logger);
  test_creator();
  test_plugin_says_who_it_is();
  test_bad_fields_are_refused_with_a_message();
  test_output_types_and_shapes();
  test_formats();
  test_tactics_are_unique_and_not_zero();
  test_workspace_fits_the_largest_shape();
  test_timing_cache_tells_attributes_apart();
  test_wrong_shapes_are_reported();
  test_shape_errors_go_to_the_contexts_recorder();
  for (const Size size : {Size{1, 1, 1}, Size{2, 33, 47}}) {
    for (const TensorFormat format : {TensorFormat::kLINEAR, TensorFormat::kHWC8}) test_life_of_an_engine(size, format);
  }
  return report("tensorrt");
}
