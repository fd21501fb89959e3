// How weights and rows become what the layers read.
//
// Legend: B rows, K inputs, N outputs.

#include "dense.h"

namespace tailrank::TAILRANK_ISA {
namespace {

std::size_t packed_bytes(DenseFormat format, int num_inputs, int num_outputs) {
  const int vectors = vectors_of(num_outputs);
  const auto bytes = [&]<DenseFormat F>() {
    const std::ptrdiff_t elements = panel_elements<F>(padded_inputs<F>(num_inputs), vectors);
    return static_cast<std::size_t>(elements) * sizeof(typename Step<F>::Element);
  };
  if (format == DenseFormat::bf16) return bytes.template operator()<DenseFormat::bf16>();
  if (format == DenseFormat::int8) return bytes.template operator()<DenseFormat::int8>();
  return bytes.template operator()<DenseFormat::fp32>();
}

// Ranges so small that a scale has no reciprocal count as none.
float scale_of(float step) { return step < __FLT_MIN__ ? 0.0f : step; }

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

// The scale of a column: its largest number is code 127. NaN where a weight is not finite: then the
// whole column is.
float column_scale(const float* weight_K, int num_inputs) {
  float largest = 0.0f;
  for (int k = 0; k < num_inputs; ++k) {
    if (!__builtin_isfinite(weight_K[k])) return __builtin_nanf("");
    largest = __builtin_fmaxf(largest, __builtin_fabsf(weight_K[k]));
  }
  return scale_of(largest / 127.0f);
}

void pack_int8(const float* weight_NK, std::ptrdiff_t stride, int num_inputs, int num_outputs,
               void* packed) {
  auto* out = static_cast<std::uint8_t*>(packed);
  const int padded = padded_inputs<DenseFormat::int8>(num_inputs);
  for (int vector = 0; vector < vectors_of(num_outputs); vector += kPanel) {
    const int left = vectors_of(num_outputs) - vector;
    const int width = (left < kPanel ? left : kPanel) * L;
    float scales[kPanel * L] = {};
    std::int32_t sums[kPanel * L] = {};
    for (int c = 0; c < width; ++c) {
      const int column = vector * L + c;
      if (column >= num_outputs) continue;
      const float* weight_K = weight_NK + column * stride;
      scales[c] = column_scale(weight_K, num_inputs);
      for (int k = 0; k < num_inputs && scales[c] > 0.0f; ++k) {
        const int code = nearest(broadcast(weight_K[k] / scales[c]))[0];
        out[(k / 4 * width + c) * 4 + k % 4] = static_cast<std::uint8_t>(code);
        sums[c] += code;
      }
    }
    out += std::ptrdiff_t{padded} * width;
    std::memcpy(out, scales, static_cast<std::size_t>(width) * 4);
    std::memcpy(out + width * 4, sums, static_cast<std::size_t>(width) * 4);
    out += width * 8;
  }
}

void pack_linear(DenseFormat format, const float* weight_NK, std::ptrdiff_t stride, int num_inputs,
                 int num_outputs, void* packed) {
  if (format == DenseFormat::bf16)
    return pack_as<DenseFormat::bf16>(weight_NK, stride, num_inputs, num_outputs, packed);
  if (format == DenseFormat::int8)
    return pack_int8(weight_NK, stride, num_inputs, num_outputs, packed);
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

// The codes of a row run from its least number, or 0, to its largest, or 0: after a ReLU, zero is 0.
RowScale row_scale(const float* x_K, int width) {
  constexpr std::int32_t kInfinity = 0x7f800000;
  vec low{}, high{};
  ivec sizes{};  // bits without the sign, which stand in the order of the numbers, NaN last
  const auto take = [&](vec x) {
    low = least_of(x, low);
    high = largest_of(x, high);
    sizes = largest_of(reinterpret_cast<ivec>(x) & 0x7fffffff, sizes);
  };
  int k = 0;
  for (; k + L <= width; k += L) take(load<vec>(x_K + k));
  if (k < width) take(load_first(x_K + k, width - k));
  if (over_lanes(sizes, largest_of<ivec>) >= kInfinity) return {__builtin_nanf(""), 0};
  const float least = over_lanes(low, least_of<vec>), largest = over_lanes(high, largest_of<vec>);
  const float scale = scale_of(largest / 255.0f - least / 255.0f);
  if (scale == 0.0f) return {0.0f, 0};
  return {scale, -nearest(broadcast(least * (1.0f / scale)))[0]};
}

void to_int8(const float* x_BK, std::ptrdiff_t x_stride, std::int64_t num_rows, int width,
             std::uint8_t* out, std::ptrdiff_t out_stride, RowScale* row_scales) {
  for (std::int64_t row = 0; row < num_rows; ++row) {
    const float* x = x_BK + row * x_stride;
    std::uint8_t* y = out + row * out_stride;
    // A row ahead: a scale takes long to compute, and the codes of another row hide that.
    if (row == 0) row_scales[0] = row_scale(x, width);
    if (row + 1 < num_rows) row_scales[row + 1] = row_scale(x + x_stride, width);
    const RowScale own = row_scales[row];
    const vec inverse = broadcast(own.scale > 0.0f ? 1.0f / own.scale : 0.0f);
    const auto codes = [&](vec numbers) {
      const ivec code = nearest(numbers * inverse) + own.zero;
      return __builtin_convertvector(code > 255 ? ivec{} + 255 : code, bvec);
    };
    int k = 0;
    for (; k + L <= width; k += L) store(y + k, codes(load<vec>(x + k)));
    if (k < width) store(y + k, codes(load_first(x + k, width - k)));
  }
}

}  // namespace
}  // namespace tailrank::TAILRANK_ISA
