// A stack of linear layers with packed weights, run on blocks of rows. In int8 its last layer, which
// is small and whose output nothing rounds any more, stays fp32.
//
// Legend: B rows, K inputs, N outputs, U user rows.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "dense.h"
#include "memory.h"

namespace tailrank {

// Rows that go through all layers before the next do, so that the memory in between is bounded and
// large weights are read once for this many. Blocks of 64 and 128 were not faster (docs/lab-notes.md).
constexpr std::int64_t kBlockRows = 256;

// The distance of rows of that width: whole registers, and one more, for rows whose distance is a
// power of two, as widths are, fall onto few sets of the cache.
inline std::ptrdiff_t spread(int width) { return (width + 15) / 16 * 16 + 16; }

// The format of layers that stay fp32 where others are int8.
inline DenseFormat unless_int8(DenseFormat format) {
  return format == DenseFormat::int8 ? DenseFormat::fp32 : format;
}

struct LayerWeights {
  const float* weight_NK;
  std::ptrdiff_t weight_stride;
  const float* bias_N;
  int num_inputs;
  int num_outputs;
  bool rectify;
};

// What a layer adds to: one row for all, or row `row_B[b]` of `rows`.
struct Initial {
  const float* rows = nullptr;  // null: the layer's own bias
  const std::int64_t* row_B = nullptr;
  std::ptrdiff_t stride = 0;
};

struct Space {
  Buffer<std::uint16_t> bf16[2];
  Buffer<std::uint8_t> codes;
  Buffer<RowScale> row_scales;
  Buffer<float> floats[2];
};

class PackedLayer {
 public:
  PackedLayer(const DenseKernels& kernels, DenseFormat format, const LayerWeights& weights);

  int num_inputs() const { return num_inputs_; }
  int num_outputs() const { return num_outputs_; }
  // Floats that the layer writes for each row.
  int padded_outputs() const { return padded_outputs_; }

  // `x` in the layer's format; the result as floats in `sums_BN`, or as bf16 where `y` is not null.
  void run(std::int64_t num_rows, const void* x, std::ptrdiff_t x_stride, const Initial& initial,
           float* sums_BN, std::ptrdiff_t sums_stride, std::uint16_t* y_bf16,
           std::ptrdiff_t y_bf16_stride, const RowScale* row_scales = nullptr) const;

 private:
  const DenseKernels* kernels_;
  DenseFormat format_;
  int num_inputs_, num_outputs_, padded_outputs_;
  bool rectify_;
  Buffer<std::uint8_t> packed_;
  Buffer<float> bias_;
};

// Safe from several threads, each with its own space.
class PackedMlp {
 public:
  PackedMlp(const DenseKernels& kernels, DenseFormat format,
            const std::vector<LayerWeights>& layers);

  bool empty() const { return layers_.empty(); }
  int num_inputs() const { return layers_.front().num_inputs(); }
  int num_outputs() const { return layers_.back().num_outputs(); }
  int padded_outputs() const { return layers_.back().padded_outputs(); }

  // At most kBlockRows rows; `out_BN` has room for `padded_outputs` floats in each row.
  void run(std::int64_t num_rows, const float* x_BK, std::ptrdiff_t x_stride,
           const Initial& initial, float* out_BN, std::ptrdiff_t out_stride, Space& space) const;

 private:
  const DenseKernels* kernels_;
  DenseFormat format_;
  std::vector<PackedLayer> layers_;
  int widest_ = 0;
};

}  // namespace tailrank
