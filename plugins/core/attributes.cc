#include "core/attributes.h"

#include <algorithm>
#include <limits>
#include <numeric>
#include <sstream>
#include <utility>

namespace zsm {
namespace {

constexpr int64_t kMostGroups = 1 << 20;

std::string list(const Sizes& sizes) {
  std::ostringstream text;
  text << '(';
  for (size_t i = 0; i < sizes.size(); ++i) text << (i ? "," : "") << sizes[i];
  text << ')';
  return text.str();
}

std::string wrong_length(const char* name, const Sizes& sizes, size_t expected) {
  if (sizes.size() == expected) return {};
  return std::string(name) + " " + list(sizes) + " must have " + std::to_string(expected) + " values";
}

std::string mismatch(const char* name, const Sizes& sizes, const Sizes& expected) {
  if (sizes == expected) return {};
  return std::string(name) + " is " + list(sizes) + ", must be " + list(expected);
}

std::string first_of(std::initializer_list<std::string> faults) {
  const auto* found = std::find_if(faults.begin(), faults.end(), [](const auto& fault) { return !fault.empty(); });
  return found == faults.end() ? std::string() : *found;
}

int32_t narrow(int64_t value) {
  return static_cast<int32_t>(std::clamp<int64_t>(value, -1, std::numeric_limits<int32_t>::max()));
}

}  // namespace

Shape shape_of(const Attributes& a, const Sizes& x, int64_t outputs) {
  return {narrow(x[0]),
          narrow(x[1]),
          narrow(x[2]),
          narrow(x[3]),
          narrow(outputs),
          narrow(a.kernel_shape[0]),
          narrow(a.kernel_shape[1]),
          narrow(a.strides[0]),
          narrow(a.strides[1]),
          narrow(a.dilations[0]),
          narrow(a.dilations[1]),
          narrow(a.pads[0]),
          narrow(a.pads[1]),
          narrow(a.pads[2]),
          narrow(a.pads[3]),
          narrow(a.group),
          narrow(a.offset_group)};
}

std::string fault(const Attributes& a) {
  const std::string lengths =
      first_of({wrong_length("kernel_shape", a.kernel_shape, 2), wrong_length("strides", a.strides, 2),
                wrong_length("pads", a.pads, 4), wrong_length("dilations", a.dilations, 2)});
  if (!lengths.empty()) return lengths;
  for (const auto& [name, value] : {std::pair{"group", a.group}, std::pair{"offset_group", a.offset_group}}) {
    if (value < 1 || value > kMostGroups)
      return std::string(name) + " is " + std::to_string(value) + ", must be from 1 to " + std::to_string(kMostGroups);
  }
  const int64_t channels = std::lcm(a.group, a.offset_group);  // so that the rest can be checked without a tensor
  return fault(shape_of(a, {1, channels, 1, 1}, a.group));
}

std::string resolve(const Attributes& a, const Sizes& x, const Sizes& offset_mask, const Sizes& weight,
                    const Sizes& bias, Shape& shape) {
  const std::string ranks =
      first_of({wrong_length("the shape of x", x, 4), wrong_length("the shape of weight", weight, 4)});
  if (!ranks.empty()) return ranks;
  shape = shape_of(a, x, weight[0]);
  const std::string own = fault(shape);
  if (!own.empty()) return own;
  return first_of(
      {mismatch("the shape of weight", weight, {weight[0], x[1] / a.group, a.kernel_shape[0], a.kernel_shape[1]}),
       mismatch("the shape of bias", bias, {weight[0]}),
       mismatch("the shape of offset_mask", offset_mask,
                {x[0], offset_channels(shape), output_height(shape), output_width(shape)})});
}

}  // namespace zsm
