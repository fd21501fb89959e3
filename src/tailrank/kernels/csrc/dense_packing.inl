// How weights and rows become what the layers read.
//
// Legend: B rows, K inputs, N outputs.

#include "dense.h"

namespace tailrank::TAILRANK_ISA {
namespace {

std::size_t packed_bytes(DenseFormat format, int num_inputs, int num_outputs) {
  const std::size_t columns = static_cast<std::size_t>(vectors_of(num_outputs)) * L;
  if (format == DenseFormat::bf16)
    return columns * static_cast<std::size_t>((num_inputs + 1) / 2) * 4;
  return columns * static_cast<std::size_t>(num_inputs) * 4;
}

std::uint16_t bf16_of(float x) {
  vec all = broadcast(x);
  return to_bf16_bits(all)[0];
}

template <DenseFormat F>
void pack_as(const float* weight_NK, std::ptrdiff_t stride, int num_inputs, int num_outputs,
             void* packed) {
  using S = Step<F>;
  auto* out = static_cast<typename S::Element*>(packed);
  for (int vector = 0; vector < vectors_of(num_outputs); vector += kPanel) {
    const int left = vectors_of(num_outputs) - vector;
    const int width = (left < kPanel ? left : kPanel) * L;
    for (int k = 0; k < num_inputs; k += S::kElements)
      for (int column = vector * L; column < vector * L + width; ++column)
        for (int e = 0; e < S::kElements; ++e) {
          const bool inside = column < num_outputs && k + e < num_inputs;
          const float value = inside ? weight_NK[column * stride + k + e] : 0.0f;
          if constexpr (F == DenseFormat::bf16)
            *out++ = bf16_of(value);
          else
            *out++ = value;
        }
  }
}

void pack_linear(DenseFormat format, const float* weight_NK, std::ptrdiff_t stride, int num_inputs,
                 int num_outputs, void* packed) {
  if (format == DenseFormat::bf16)
    return pack_as<DenseFormat::bf16>(weight_NK, stride, num_inputs, num_outputs, packed);
  pack_as<DenseFormat::fp32>(weight_NK, stride, num_inputs, num_outputs, packed);
}

void to_bf16(const float* x_BK, std::ptrdiff_t x_stride, std::int64_t num_rows, int width,
             std::uint16_t* out, std::ptrdiff_t out_stride) {
  for (std::int64_t row = 0; row < num_rows; ++row) {
    const float* x = x_BK + row * x_stride;
    std::uint16_t* y = out + row * out_stride;
    int k = 0;
    for (; k + L <= width; k += L)
      store(y + k, to_bf16_bits(load<vec>(x + k)));
    for (; k < width; ++k) y[k] = bf16_of(x[k]);
    if (width % 2) y[width] = 0;
  }
}

}  // namespace
}  // namespace tailrank::TAILRANK_ISA
