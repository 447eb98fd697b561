#include <algorithm>

#include "tensorrt/plugin.h"

namespace zsm::tensorrt {
namespace {

using nvinfer1::PluginField;
using nvinfer1::PluginFieldType;

constexpr const char* kNames[] = {"kernel_shape", "strides", "pads", "dilations", "group", "offset_group"};

std::string read_field(const PluginField& field, Sizes& values) {
  const std::string name = field.name ? field.name : "(no name)";
  if (field.length < 1 || !field.data) return "field " + name + " is empty";
  if (field.type == PluginFieldType::kINT32) {
    const auto* data = static_cast<const int32_t*>(field.data);
    values.assign(data, data + field.length);
  } else if (field.type == PluginFieldType::kINT64) {
    const auto* data = static_cast<const int64_t*>(field.data);
    values.assign(data, data + field.length);
  } else {
    return "field " + name + " has type " + std::to_string(static_cast<int>(field.type)) + ", must be INT32 or INT64";
  }
  return {};
}

std::string store(const std::string& name, const Sizes& values, Attributes& a) {
  Sizes* const lists[] = {&a.kernel_shape, &a.strides, &a.pads, &a.dilations};
  int64_t* const numbers[] = {&a.group, &a.offset_group};
  const size_t index = std::find(std::begin(kNames), std::end(kNames), name) - std::begin(kNames);
  if (index == std::size(kNames)) return "there is no field " + name;
  if (index < 4) {
    *lists[index] = values;
  } else if (values.size() == 1) {
    *numbers[index - 4] = values[0];
  } else {
    return "field " + name + " must have one value";
  }
  return {};
}

}  // namespace

Fields::Fields(const Attributes& a) {
  const Sizes lists[] = {a.kernel_shape, a.strides, a.pads, a.dilations, {a.group}, {a.offset_group}};
  for (size_t i = 0; i < values_.size(); ++i) {
    for (const int64_t value : lists[i]) values_[i].push_back(static_cast<int32_t>(value));
    fields_.emplace_back(kNames[i], values_[i].data(), PluginFieldType::kINT32,
                         static_cast<int32_t>(values_[i].size()));
  }
  collection_ = {static_cast<int32_t>(fields_.size()), fields_.data()};
}

std::string Fields::read(const nvinfer1::PluginFieldCollection& fields, Attributes& attributes) {
  for (int32_t i = 0; i < fields.nbFields; ++i) {
    Sizes values;
    std::string fault = read_field(fields.fields[i], values);
    if (fault.empty()) fault = store(fields.fields[i].name, values, attributes);
    if (!fault.empty()) return fault;
  }
  return zsm::fault(attributes);
}

}  // namespace zsm::tensorrt
