#include "attention.h"

#include <algorithm>
#include <cstddef>

namespace tailrank {
namespace {

// Behaviours whose shares of the first layer are kept at a time: they stay in the second cache.
constexpr std::int64_t kGroupRows = 1024;

void copy_first(const float* from, int count, Buffer<float>& to) {
  if (from) std::copy_n(from, count, to.get());
}

}  // namespace

Attention::Activation::Activation(const ActivationWeights& weights, int lanes)
    : width(weights.width), is_dice(weights.scale_M != nullptr) {
  const std::size_t padded = static_cast<std::size_t>((width + lanes - 1) / lanes * lanes);
  slope = Buffer<float>(padded);
  scale = Buffer<float>(padded);
  shift = Buffer<float>(padded);
  copy_first(weights.slope_M, width, slope);
  copy_first(weights.scale_M, width, scale);
  copy_first(weights.shift_M, width, shift);
}

Attention::Attention(const DenseKernels& kernels, const LayerWeights& of_row,
                     const LayerWeights& of_candidate, const LayerWeights& of_product,
                     const std::vector<ActivationWeights>& activations,
                     const std::vector<LayerWeights>& rest)
    : kernels_(&kernels),
      width_(of_row.num_inputs),
      of_row_(kernels, DenseFormat::fp32, of_row),
      of_candidate_(kernels, DenseFormat::fp32, of_candidate),
      of_product_(kernels, DenseFormat::fp32, of_product) {
  int widest = of_row.num_outputs;
  for (const ActivationWeights& activation : activations)
    activations_.emplace_back(activation, kernels.lanes);
  for (const LayerWeights& layer : rest) {
    rest_.emplace_back(kernels, DenseFormat::fp32, layer);
    widest = std::max(widest, layer.num_outputs);
  }
  stride_ = spread(widest);
}

bool Attention::fits(const AttentionCall& call) {
  for (std::int64_t user = 0; user < call.num_users; ++user) {
    const std::int64_t first = call.first_U[user], length = call.length_U[user];
    const std::int64_t before = user ? call.first_U[user - 1] + call.length_U[user - 1] : 0;
    if (first != before || length < 0 || length > call.num_rows - first) return false;
  }
  std::int64_t before = 0;
  for (std::int64_t item = 0; item < call.num_items; ++item) {
    const std::int64_t user = call.user_of_item_B[item];
    if (user < before || user >= call.num_users) return false;
    before = user;
  }
  return true;
}

bool Attention::run(const AttentionCall& call) const {
  if (!fits(call)) return false;
  const auto lease = spaces_.lease();
  Space& space = *lease;
  std::fill_n(call.out_BK, call.num_items * width_, 0.0f);
  const std::ptrdiff_t candidate_stride = of_candidate_.padded_outputs();
  float* candidate_shares = space.candidate_shares.reserve(
      static_cast<std::size_t>(call.num_items * candidate_stride));
  of_candidate_.run(call.num_items, call.candidate_BK, width_, {}, candidate_shares,
                    candidate_stride, nullptr, 0);
  std::int64_t item = 0;
  for (std::int64_t user = 0; user < call.num_users;) {
    const std::int64_t first_row = call.first_U[user];
    std::int64_t end_row = first_row + call.length_U[user];
    for (++user; user < call.num_users && end_row + call.length_U[user] - first_row <= kGroupRows;
         ++user)
      end_row += call.length_U[user];
    const std::ptrdiff_t row_stride = of_row_.padded_outputs();
    const std::int64_t count = end_row - first_row;
    float* row_shares = space.row_shares.reserve(static_cast<std::size_t>(count * row_stride));
    of_row_.run(count, call.rows_LK + first_row * width_, width_, {}, row_shares, row_stride,
                nullptr, 0);
    for (; item < call.num_items && call.user_of_item_B[item] < user; ++item) {
      const std::int64_t own = call.user_of_item_B[item];
      for (std::int64_t i = 0; i < call.length_U[own]; ++i) {
        space.row_P.push_back(call.first_U[own] + i - first_row);
        space.item_P.push_back(item);
        if (static_cast<std::int64_t>(space.row_P.size()) == kBlockRows)
          weigh(call, first_row, space);
      }
    }
    weigh(call, first_row, space);
  }
  return true;
}

// The pairs of a block, whose rows are counted from `first_row`, to the sums of their candidates.
void Attention::weigh(const AttentionCall& call, std::int64_t first_row, Space& space) const {
  const std::int64_t count = static_cast<std::int64_t>(space.row_P.size());
  const float* rows = call.rows_LK + first_row * width_;
  const std::ptrdiff_t product_stride = spread(width_);
  float* products = space.products.reserve(static_cast<std::size_t>(count * product_stride));
  for (std::int64_t p = 0; p < count; ++p) {
    const float* row = rows + space.row_P[p] * width_;
    const float* candidate = call.candidate_BK + space.item_P[p] * width_;
    float* product = products + p * product_stride;
    for (int k = 0; k < width_; ++k) product[k] = row[k] * candidate[k];
  }
  float* hidden = space.hidden[0].reserve(static_cast<std::size_t>(count * stride_));
  float* next = space.hidden[1].reserve(static_cast<std::size_t>(count * stride_));
  of_product_.run(count, products, product_stride,
                  {space.row_shares.get(), space.row_P.data(), of_row_.padded_outputs()}, hidden,
                  stride_, nullptr, 0);
  for (std::size_t i = 0; i < rest_.size(); ++i) {
    const Activation& own = activations_[i];
    ActivationCall activation;
    activation.x = hidden;
    activation.x_stride = stride_;
    activation.num_rows = count;
    activation.width = own.width;
    activation.added = i ? nullptr : space.candidate_shares.get();
    activation.added_row = space.item_P.data();
    activation.added_stride = of_candidate_.padded_outputs();
    activation.slope = own.slope.get();
    activation.scale = own.is_dice ? own.scale.get() : nullptr;
    activation.shift = own.shift.get();
    kernels_->activate(activation);
    rest_[i].run(count, hidden, stride_, {}, next, stride_, nullptr, 0);
    std::swap(hidden, next);
  }
  for (std::int64_t p = 0; p < count; ++p) {
    const float weight = hidden[p * stride_];
    const float* row = rows + space.row_P[p] * width_;
    float* out = call.out_BK + space.item_P[p] * width_;
    for (int k = 0; k < width_; ++k) out[k] += weight * row[k];
  }
  space.row_P.clear();
  space.item_P.clear();
}

}  // namespace tailrank
