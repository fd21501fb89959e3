#include "dlrm.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <stdexcept>

namespace tailrank {
namespace {

constexpr int kLineBytes = 64;

std::size_t room(std::int64_t rows, std::ptrdiff_t stride) {
  return static_cast<std::size_t>(rows * stride);
}

int num_products(int vectors) { return vectors * (vectors - 1) / 2; }

// Adds its own lifetime to a part of a call's time; a call that nobody times asks for no clock.
class Stopwatch {
 public:
  Stopwatch(DlrmTimes* times, std::int64_t DlrmTimes::*part) : times_(times), part_(part) {
    if (times_) start_ = Clock::now();
  }
  ~Stopwatch() {
    if (times_)
      times_->*part_ +=
          std::chrono::duration_cast<std::chrono::nanoseconds>(Clock::now() - start_).count();
  }
  Stopwatch(const Stopwatch&) = delete;
  Stopwatch& operator=(const Stopwatch&) = delete;

 private:
  using Clock = std::chrono::steady_clock;
  DlrmTimes* times_;
  std::int64_t DlrmTimes::*part_;
  Clock::time_point start_;
};

std::vector<LayerWeights> item_share(const SplitMlp& mlp) {
  std::vector<LayerWeights> layers = mlp.layers;
  if (mlp.num_user_inputs) {
    layers[0].weight_NK += mlp.num_user_inputs;
    layers[0].num_inputs -= mlp.num_user_inputs;
    layers[0].bias_N = nullptr;  // it is in the user's share
  }
  return layers;
}

}  // namespace

Dlrm::Split::Split(const DenseKernels& kernels, DenseFormat format, const SplitMlp& mlp)
    : rest(kernels, format, item_share(mlp)) {
  if (!mlp.num_user_inputs) return;
  LayerWeights share = mlp.layers[0];
  share.num_inputs = mlp.num_user_inputs;
  share.rectify = false;
  user.emplace(kernels, unless_int8(format), share);
}

Dlrm::Dlrm(const DenseKernels& kernels, DenseFormat format, LookupKernel lookup,
           const DlrmConfig& config)
    : kernels_(&kernels),
      format_(format),
      lookup_kernel_(lookup),
      config_(config),
      bottom_(kernels, format, config.bottom),
      top_(kernels, format, config.top),
      user_(layout(Side::user)),
      item_(layout(Side::item)) {
  const int bottom_inputs = config.sides[0].dense_width + config.sides[1].dense_width;
  int found_bottom = 0;
  if (!config.bottom.layers.empty()) found_bottom = config.bottom.layers[0].num_inputs;
  if (bottom_inputs != found_bottom || config.top.num_user_inputs != user_.width ||
      config.top.layers.empty() || config.top.layers[0].num_inputs != user_.width + item_.width)
    throw std::invalid_argument("layers and features do not fit each other");
  for (DlrmSide& side : config_.sides) {
    side.straddles = row_bytes(config.lookup.format, config.lookup.dim) % kLineBytes != 0;
    for (const Table& table : side.tables)
      side.straddles |= reinterpret_cast<std::uintptr_t>(table.rows) % kLineBytes != 0;
  }
  // The copies that were packed are all that is needed.
  config_.bottom.layers.clear();
  config_.top.layers.clear();
}

Dlrm::Layout Dlrm::layout(Side side) const {
  const DlrmSide& own = config_.sides[static_cast<int>(side)];
  const bool items_are_dense = config_.sides[static_cast<int>(Side::item)].dense_width > 0;
  const int num_sparse = static_cast<int>(own.tables.size());
  Layout result;
  result.has_bottom = !bottom_.rest.empty() && items_are_dense == (side == Side::item);
  result.num_vectors = num_sparse + result.has_bottom;
  result.first_product = result.has_bottom ? bottom_.rest.num_outputs() : 0;
  int added = num_sparse * config_.lookup.dim;
  result.vector_stride = config_.dot ? spread(result.num_vectors * config_.lookup.dim) : 0;
  if (config_.dot) {
    added = num_products(result.num_vectors);
    if (side == Side::item) added += result.num_vectors * layout(Side::user).num_vectors;
  }
  result.width = result.first_product + added;
  const int bottom_room = result.has_bottom ? bottom_.rest.padded_outputs() : 0;
  result.stride = spread(std::max(result.width, bottom_room));
  return result;
}

DlrmFault Dlrm::score(const SideRows& user, const SideRows& item,
                      const std::int64_t* user_of_item_B, float* probabilities_B,
                      DlrmTimes* times) const {
  const auto lease = spaces_.lease();
  WorkSpace& space = *lease;
  space.times = times;
  // A single vector gives the block nothing, but the items' products read it.
  if (user_.num_vectors || bottom_.user) {
    for (std::int64_t b = 0; b < item.num_rows; ++b)
      if (user_of_item_B[b] < 0 || user_of_item_B[b] >= user.num_rows)
        return {DlrmFault::bad_user, Side::item, b, 0};
    const DlrmFault fault = user_rows(user, space);
    if (fault.kind != DlrmFault::none) return fault;
  }
  for (std::int64_t first = 0; first < item.num_rows; first += kBlockRows) {
    const std::int64_t count = std::min(kBlockRows, item.num_rows - first);
    const DlrmFault fault = item_rows(item, user_of_item_B, first, count, probabilities_B, space);
    if (fault.kind != DlrmFault::none) return fault;
  }
  return {};
}

DlrmFault Dlrm::user_rows(const SideRows& user, WorkSpace& space) const {
  const int width = config_.sides[static_cast<int>(Side::user)].dense_width;
  const std::ptrdiff_t bottom_stride = bottom_.user ? bottom_.user->padded_outputs() : 0;
  const std::ptrdiff_t top_stride = top_.user ? top_.user->padded_outputs() : 0;
  float* bottom_shares = space.bottom_shares.reserve(room(user.num_rows, bottom_stride));
  float* top_shares = space.top_shares.reserve(room(user.num_rows, top_stride));
  float* all_vectors = space.user_vectors.reserve(room(user.num_rows, user_.vector_stride));
  for (std::int64_t first = 0; first < user.num_rows; first += kBlockRows) {
    const std::int64_t count = std::min(kBlockRows, user.num_rows - first);
    const float* dense = user.dense_RN + first * width;
    float* block = space.user_block.reserve(room(count, user_.stride));
    float* vectors = all_vectors + first * user_.vector_stride;
    if (bottom_.user)
      share(*bottom_.user, count, dense, width, bottom_shares + first * bottom_stride, space);
    if (user_.has_bottom) {
      const Stopwatch running(space.times, &DlrmTimes::dense_ns);
      bottom_.rest.run(count, dense, width, {}, block, user_.stride, space);
    }
    const DlrmFault fault = gather(Side::user, user, first, count, block, vectors, space);
    if (fault.kind != DlrmFault::none) return fault;
    if (config_.dot)
      for (std::int64_t row = 0; row < count; ++row)
        multiply(vectors + row * user_.vector_stride, nullptr,
                 block + row * user_.stride + user_.first_product, space);
    if (top_.user)
      share(*top_.user, count, block, user_.stride, top_shares + first * top_stride, space);
  }
  return {};
}

DlrmFault Dlrm::item_rows(const SideRows& item, const std::int64_t* user_of_item_B,
                          std::int64_t first, std::int64_t count, float* probabilities_B,
                          WorkSpace& space) const {
  const int width = config_.sides[static_cast<int>(Side::item)].dense_width;
  user_of_item_B += first;
  const auto initial = [user_of_item_B](const Split& mlp, const Buffer<float>& shares) {
    if (!mlp.user) return Initial{};
    return Initial{shares.get(), user_of_item_B, mlp.user->padded_outputs()};
  };
  float* block = space.item_block.reserve(room(count, item_.stride));
  float* vectors = space.item_vectors.reserve(room(count, item_.vector_stride));
  if (item_.has_bottom) {
    const Stopwatch running(space.times, &DlrmTimes::dense_ns);
    bottom_.rest.run(count, item.dense_RN + first * width, width,
                     initial(bottom_, space.bottom_shares), block, item_.stride, space);
  }
  const DlrmFault fault = gather(Side::item, item, first, count, block, vectors, space);
  if (fault.kind != DlrmFault::none) return fault;
  if (config_.dot)
    for (std::int64_t row = 0; row < count; ++row) {
      const float* own = user_.num_vectors
                             ? space.user_vectors.get() + user_of_item_B[row] * user_.vector_stride
                             : nullptr;
      multiply(own, vectors + row * item_.vector_stride,
               block + row * item_.stride + item_.first_product, space);
    }
  const std::ptrdiff_t stride = top_.rest.padded_outputs();
  float* logits = space.logits.reserve(room(count, stride));
  {
    const Stopwatch running(space.times, &DlrmTimes::dense_ns);
    const Initial shares = initial(top_, space.top_shares);
    top_.rest.run(count, block, item_.stride, shares, logits, stride, space);
  }
  for (std::int64_t row = 0; row < count; ++row)
    probabilities_B[first + row] = 1.0f / (1.0f + std::exp(-logits[row * stride]));
  return {};
}

// The pooled rows of one side, into the block or, where they are multiplied, behind the bottom
// output among the vectors.
DlrmFault Dlrm::gather(Side side, const SideRows& rows, std::int64_t first, std::int64_t count,
                       float* block, float* vectors, WorkSpace& space) const {
  const Layout& own = side == Side::user ? user_ : item_;
  const int dim = config_.lookup.dim;
  float* out = block + own.first_product;
  std::ptrdiff_t stride = own.stride;
  if (config_.dot) {
    out = vectors + (own.has_bottom ? dim : 0);
    stride = own.vector_stride;
    if (own.has_bottom)
      for (std::int64_t row = 0; row < count; ++row)
        std::copy_n(block + row * own.stride, dim, vectors + row * stride);
  }
  const DlrmSide& features = config_.sides[static_cast<int>(side)];
  const std::vector<Table>& tables = features.tables;
  if (tables.empty()) return {};
  const Stopwatch running(space.times, &DlrmTimes::lookup_ns);
  const std::int64_t num_features = static_cast<std::int64_t>(tables.size());
  const std::int64_t* offsets = rows.offsets + first * num_features;
  const std::int64_t start = offsets[0], end = offsets[count * num_features];
  const bool last = first + count == rows.num_rows;
  if (start < 0 || end < start || (last ? end != rows.num_ids : end > rows.num_ids))
    return {DlrmFault::bad_offsets, side, (first + count) * num_features, 0};
  Lookup call = config_.lookup;
  call.straddles = features.straddles;
  call.tables = tables.data();
  call.num_features = num_features;
  call.num_rows = count;
  call.ids = rows.ids + start;
  call.num_ids = end - start;
  call.weights = rows.weights ? rows.weights + start : nullptr;
  call.offsets = offsets;
  if (first) {  // the kernel's offsets rise from 0
    std::int64_t* moved = space.offsets.reserve(room(kBlockRows, num_features) + 1);
    for (std::int64_t bag = 0; bag <= count * num_features; ++bag) {
      if (offsets[bag] < start)  // the difference may not fit
        return {DlrmFault::bad_offsets, side, first * num_features + bag, 0};
      moved[bag] = offsets[bag] - start;
    }
    call.offsets = moved;
  }
  call.out = out;
  call.out_stride = stride;
  call.scratch = space.lookup.reserve(static_cast<std::size_t>(dim) + 16);
  const Fault fault = lookup_kernel_(call);
  if (fault.kind == Fault::none) return {};
  return {fault.kind == Fault::bad_id ? DlrmFault::bad_id : DlrmFault::bad_offsets, side,
          fault.bag + first * num_features, fault.position + start};
}

// A user's share of a layer.
void Dlrm::share(const PackedLayer& layer, std::int64_t num_rows, const float* x,
                 std::ptrdiff_t x_stride, float* out, WorkSpace& space) const {
  const Stopwatch running(space.times, &DlrmTimes::dense_ns);
  const std::ptrdiff_t stride = layer.padded_outputs();
  if (format_ != DenseFormat::bf16)
    return layer.run(num_rows, x, x_stride, {}, out, stride, nullptr, 0);
  const std::ptrdiff_t rounded_stride = spread(layer.num_inputs());
  std::uint16_t* rounded = space.rounded.reserve(room(num_rows, rounded_stride));
  kernels_->to_bf16(x, x_stride, num_rows, layer.num_inputs(), rounded, rounded_stride);
  layer.run(num_rows, rounded, rounded_stride, {}, out, stride, nullptr, 0);
}

// Products of a user's vectors with one another, or of an item's vectors with those of its user and
// with one another.
void Dlrm::multiply(const float* user_vectors, const float* item_vectors, float* out,
                    WorkSpace& space) const {
  const int dim = config_.lookup.dim;
  const int num_item = item_vectors ? item_.num_vectors : 0;
  space.vectors.clear();
  for (int i = 0; i < user_.num_vectors; ++i) space.vectors.push_back(user_vectors + i * dim);
  for (int i = 0; i < num_item; ++i) space.vectors.push_back(item_vectors + i * dim);
  InteractionCall call;
  call.vectors_F = space.vectors.data();
  call.count = user_.num_vectors + num_item;
  call.first = item_vectors ? user_.num_vectors : 0;
  call.dim = dim;
  call.work = space.products.reserve(room(dim + 8, spread(call.count)));
  call.out = out;
  kernels_->interact(call);
}

}  // namespace tailrank
