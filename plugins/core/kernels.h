// The implementations behind the C interface. Callers have checked shapes; outputs aren't empty.
#pragma once

#include "core/deform_conv.h"
#include "core/half.h"
#include "core/shape.h"

namespace zsm {

template <typename T>
struct Tensors {
  const T* x;
  const T* offset_mask;
  const T* weight;
  const T* bias;
  T* out;

  explicit Tensors(const zsm_deform_conv2d_tensors& t)
      : x(static_cast<const T*>(t.x)),
        offset_mask(static_cast<const T*>(t.offset_mask)),
        weight(static_cast<const T*>(t.weight)),
        bias(static_cast<const T*>(t.bias)),
        out(static_cast<T*>(t.out)) {}
};

template <typename T>
void reference(const Shape& shape, const Tensors<T>& tensors);

struct Parallel {
  zsm_parallel_for loop;  // null: run in the calling thread
  void* context;

  template <typename Body>
  void operator()(size_t count, const Body& body) const {
    const auto task = [](void* data, size_t index) { (*static_cast<const Body*>(data))(index); };
    void* data = const_cast<Body*>(&body);
    if (loop) {
      loop(context, task, data, count);
    } else {
      for (size_t i = 0; i < count; ++i) task(data, i);
    }
  }
};

// One conv group. Throws std::bad_alloc.
template <typename T>
void cpu(const Shape& shape, const Tensors<T>& tensors, const Parallel& parallel);

}  // namespace zsm
