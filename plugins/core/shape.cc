#include "core/shape.h"

#include <sstream>

namespace zsm {
namespace {

template <typename... Parts>
std::string sentence(const Parts&... parts) {
  std::ostringstream text;
  (text << ... << parts);
  return text.str();
}

struct Bound {
  const char* name;
  int64_t value, least, most;
};

constexpr int kLargest = 1 << 28;  // side: positions stay within an int

}  // namespace

std::string fault(const Shape& s) {
  const Bound bounds[] = {
      {"batch", s.batch, 0, kLargest},
      {"channels", s.channels, 1, 1 << 20},
      {"height", s.height, 0, kLargest},
      {"width", s.width, 0, kLargest},
      {"outputs", s.outputs, 1, 1 << 20},
      {"kernel height", s.kernel_h, 1, 1 << 10},
      {"kernel width", s.kernel_w, 1, 1 << 10},
      {"stride of the height", s.stride_h, 1, 1 << 20},
      {"stride of the width", s.stride_w, 1, 1 << 20},
      {"dilation of the height", s.dilation_h, 1, 1 << 10},
      {"dilation of the width", s.dilation_w, 1, 1 << 10},
      {"padding at the top", s.pad_top, 0, 1 << 20},
      {"padding at the left", s.pad_left, 0, 1 << 20},
      {"padding at the bottom", s.pad_bottom, 0, 1 << 20},
      {"padding at the right", s.pad_right, 0, 1 << 20},
      {"group", s.groups, 1, 1 << 20},
      {"offset_group", s.offset_groups, 1, 1 << 20},
      {"channels of offset_mask", int64_t{3} * s.offset_groups * s.kernel_h * s.kernel_w, 3, 1 << 28},
  };
  for (const Bound& b : bounds) {
    if (b.value < b.least || b.value > b.most)
      return sentence(b.name, " is ", b.value, ", must be from ", b.least, " to ", b.most);
  }
  if (s.channels % s.groups || s.outputs % s.groups)
    return sentence("group is ", s.groups, ", must divide ", s.channels, " channels and ", s.outputs, " outputs");
  if (s.channels % s.offset_groups)
    return sentence("offset_group is ", s.offset_groups, ", must divide ", s.channels, " channels");
  return {};
}

}  // namespace zsm
