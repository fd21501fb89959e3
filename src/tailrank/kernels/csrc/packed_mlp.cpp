#include "packed_mlp.h"

#include <algorithm>

namespace tailrank {
namespace {

int padded(int width, int lanes) { return (width + lanes - 1) / lanes * lanes; }

}  // namespace

PackedLayer::PackedLayer(const DenseKernels& kernels, DenseFormat format, const LayerWeights& w)
    : kernels_(&kernels),
      format_(format),
      num_inputs_(w.num_inputs),
      num_outputs_(w.num_outputs),
      padded_outputs_(padded(w.num_outputs, kernels.lanes)),
      rectify_(w.rectify),
      packed_(kernels.packed_bytes(format, w.num_inputs, w.num_outputs)),
      bias_(static_cast<std::size_t>(padded_outputs_)) {
  kernels.pack_linear(format, w.weight_NK, w.weight_stride, num_inputs_, num_outputs_,
                      packed_.get());
  if (w.bias_N) std::copy(w.bias_N, w.bias_N + num_outputs_, bias_.get());
}

void PackedLayer::run(std::int64_t num_rows, const void* x, std::ptrdiff_t x_stride,
                      const Initial& initial, float* sums_BN, std::ptrdiff_t sums_stride,
                      std::uint16_t* y_bf16, std::ptrdiff_t y_bf16_stride,
                      const RowScale* row_scales) const {
  LinearCall call;
  call.x = x;
  call.x_stride = x_stride;
  call.row_scales = row_scales;
  call.num_rows = num_rows;
  call.packed = packed_.get();
  call.num_inputs = num_inputs_;
  call.num_outputs = num_outputs_;
  call.initial = initial.rows ? initial.rows : bias_.get();
  call.initial_row = initial.row_B;
  call.initial_stride = initial.stride;
  call.sums_BN = sums_BN;
  call.sums_stride = sums_stride;
  call.y_bf16 = y_bf16;
  call.y_bf16_stride = y_bf16_stride;
  call.rectify = rectify_;
  kernels_->linear(format_, call);
}

PackedMlp::PackedMlp(const DenseKernels& kernels, DenseFormat format,
                     const std::vector<LayerWeights>& layers)
    : kernels_(&kernels), format_(format) {
  layers_.reserve(layers.size());
  for (const LayerWeights& layer : layers) {
    const bool last = &layer == &layers.back();
    layers_.emplace_back(kernels, last ? unless_int8(format) : format, layer);
    widest_ = std::max({widest_, layer.num_inputs, layer.num_outputs});
  }
}

void PackedMlp::run(std::int64_t num_rows, const float* x_BK, std::ptrdiff_t x_stride,
                    const Initial& initial, float* out_BN, std::ptrdiff_t out_stride,
                    Space& space) const {
  const std::ptrdiff_t stride = spread(widest_);
  const std::size_t room = static_cast<std::size_t>(num_rows * stride);
  const bool bf16 = format_ == DenseFormat::bf16;
  const void* x = x_BK;
  if (bf16) {
    std::uint16_t* rounded = space.bf16[0].reserve(room);
    kernels_->to_bf16(x_BK, x_stride, num_rows, num_inputs(), rounded, stride);
    x = rounded;
    x_stride = stride;
  }
  for (std::size_t i = 0; i < layers_.size(); ++i) {
    const Initial& from = i == 0 ? initial : Initial{};
    if (i + 1 == layers_.size()) {
      layers_[i].run(num_rows, x, x_stride, from, out_BN, out_stride, nullptr, 0);
    } else if (bf16) {
      std::uint16_t* y = space.bf16[(i + 1) % 2].reserve(room);
      float* sums = space.floats[0].reserve(room);
      layers_[i].run(num_rows, x, x_stride, from, sums, stride, y, stride);
      x = y;
    } else {
      float* y = space.floats[i % 2].reserve(room);
      RowScale* row_scales = nullptr;
      if (format_ == DenseFormat::int8) {
        std::uint8_t* codes = space.codes.reserve(room);
        row_scales = space.row_scales.reserve(static_cast<std::size_t>(num_rows));
        kernels_->to_int8(static_cast<const float*>(x), x_stride, num_rows,
                          layers_[i].num_inputs(), codes, stride, row_scales);
        x = codes;
        x_stride = stride;
      }
      layers_[i].run(num_rows, x, x_stride, from, y, stride, nullptr, 0, row_scales);
      x = y;
      x_stride = stride;
    }
  }
}

}  // namespace tailrank
