// The operator's attributes and tensor sizes, as inference libraries pass them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/shape.h"

namespace zsm {

using Sizes = std::vector<int64_t>;

// The names and values of ONNX's DeformConv; pads are top, left, bottom, right.
struct Attributes {
  Sizes kernel_shape;
  Sizes strides{1, 1};
  Sizes pads{0, 0, 0, 0};
  Sizes dilations{1, 1};
  int64_t group = 1;
  int64_t offset_group = 1;
};

// Values too large for a Shape become ones that fault(Shape) rejects.
Shape shape_of(const Attributes& attributes, const Sizes& x, int64_t outputs);

// Both return an error message, or an empty string.
std::string fault(const Attributes& attributes);
std::string resolve(const Attributes& attributes, const Sizes& x, const Sizes& offset_mask, const Sizes& weight,
                    const Sizes& bias, Shape& shape);

}  // namespace zsm
