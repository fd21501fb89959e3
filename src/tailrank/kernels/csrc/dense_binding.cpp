// The dense layers and the whole DLRM as Python calls them. Weights are copied when they are packed;
// features come as addresses that `kernels/dense.py` has checked.
#include "dense_binding.h"

#include <nanobind/nanobind.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cstdint>
#include <tuple>
#include <utility>
#include <vector>

#include "attention.h"
#include "computing.h"
#include "dense.h"
#include "dlrm.h"
#include "gru.h"
#include "isa.h"
#include "packed_mlp.h"
#include "pooled_lookup.h"

namespace nb = nanobind;

namespace tailrank {
namespace {

// Weight (N, K), bias (N): addresses; K, N, and whether a ReLU follows.
using LayerTuple = std::tuple<std::uintptr_t, std::uintptr_t, int, int, bool>;
// Rows; addresses of dense features and ids; number of ids; addresses of offsets and weights.
using SideTuple = std::tuple<std::int64_t, std::uintptr_t, std::uintptr_t, std::int64_t,
                             std::uintptr_t, std::uintptr_t>;
using TableTuple = std::pair<std::uintptr_t, std::uint64_t>;

template <typename T>
T* pointer(std::uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

const DenseKernels& kernels_for([[maybe_unused]] DenseIsa isa) {
#if defined(__x86_64__)
  if (isa == DenseIsa::avx512_bf16) return avx512_bf16::kDense;
  if (isa == DenseIsa::avx512_vnni) return avx512_vnni::kDense;
  if (isa == DenseIsa::avx512) return avx512::kDense;
  if (isa == DenseIsa::avx2) return avx2::kDense;
#endif
  return portable::kDense;
}

LookupKernel lookup_for([[maybe_unused]] DenseIsa isa) {
#if defined(__x86_64__)
  if (isa >= DenseIsa::avx512) return avx512::pooled_lookup;
  if (isa == DenseIsa::avx2) return avx2::pooled_lookup;
#endif
  return portable::pooled_lookup;
}

bool can_run_dense(DenseIsa isa) {
  if (isa == DenseIsa::portable) return true;
  if (isa == DenseIsa::avx2) return can_run(Isa::avx2);
  if (!can_run(Isa::avx512)) return false;
#if defined(__x86_64__)
  if (isa == DenseIsa::avx512) return true;
  if (!__builtin_cpu_supports("avx512vnni")) return false;
  return isa == DenseIsa::avx512_vnni || __builtin_cpu_supports("avx512bf16");
#else
  return false;
#endif
}

std::vector<LayerWeights> layers_of(const std::vector<LayerTuple>& tuples) {
  std::vector<LayerWeights> layers;
  for (const auto& [weight, bias, num_inputs, num_outputs, rectify] : tuples)
    layers.push_back({pointer<const float>(weight), num_inputs, pointer<const float>(bias),
                      num_inputs, num_outputs, rectify});
  return layers;
}

// A stack of layers for the models whose `score` stays in Python.
class Mlp {
 public:
  Mlp(DenseIsa isa, DenseFormat format, const std::vector<LayerTuple>& layers)
      : mlp_(kernels_for(isa), format, layers_of(layers)) {}

  void operator()(std::int64_t num_rows, std::uintptr_t x_BK, std::uintptr_t out_BN) const {
    const Computing computing;
    const auto lease = spaces_.lease();
    OwnSpace& space = *lease;
    const float* x = pointer<const float>(x_BK);
    float* out = pointer<float>(out_BN);
    const std::ptrdiff_t stride = mlp_.padded_outputs(), width = mlp_.num_outputs();
    float* padded = space.out.reserve(static_cast<std::size_t>(kBlockRows * stride));
    for (std::int64_t first = 0; first < num_rows; first += kBlockRows) {
      const std::int64_t count = std::min(kBlockRows, num_rows - first);
      mlp_.run(count, x + first * mlp_.num_inputs(), mlp_.num_inputs(), {}, padded, stride, space);
      for (std::int64_t row = 0; row < count; ++row)
        std::copy_n(padded + row * stride, width, out + (first + row) * width);
    }
  }

 private:
  struct OwnSpace : Space {
    Buffer<float> out;
  };
  PackedMlp mlp_;
  mutable Pool<OwnSpace> spaces_;
};

// Slope, scale and shift: addresses; width. See `ActivationWeights`.
using ActivationTuple = std::tuple<std::uintptr_t, std::uintptr_t, std::uintptr_t, int>;

// `first`: the shares of row, candidate and product. Addresses; see `AttentionCall`.
class BoundAttention {
 public:
  BoundAttention(DenseIsa isa, const std::vector<LayerTuple>& first,
                 const std::vector<ActivationTuple>& activations,
                 const std::vector<LayerTuple>& rest)
      : attention_(kernels_for(isa), layers_of(first).at(0), layers_of(first).at(1),
                   layers_of(first).at(2), activations_of(activations), layers_of(rest)) {}

  bool operator()(std::uintptr_t rows_LK, std::int64_t num_rows, std::uintptr_t first_U,
                  std::uintptr_t length_U, std::int64_t num_users, std::uintptr_t candidate_BK,
                  std::uintptr_t user_of_item_B, std::int64_t num_items,
                  std::uintptr_t out_BK) const {
    const Computing computing;
    return attention_.run({pointer<const float>(rows_LK), num_rows,
                           pointer<const std::int64_t>(first_U),
                           pointer<const std::int64_t>(length_U), num_users,
                           pointer<const float>(candidate_BK),
                           pointer<const std::int64_t>(user_of_item_B), num_items,
                           pointer<float>(out_BK)});
  }

 private:
  static std::vector<ActivationWeights> activations_of(const std::vector<ActivationTuple>& tuples) {
    std::vector<ActivationWeights> weights;
    for (const auto& [slope, scale, shift, width] : tuples)
      weights.push_back({pointer<const float>(slope), pointer<const float>(scale),
                         pointer<const float>(shift), width});
    return weights;
  }

  Attention attention_;
};

// Addresses; see `GruCall`.
class BoundGru {
 public:
  BoundGru(DenseIsa isa, std::uintptr_t weight_GH, int hidden)
      : gru_(kernels_for(isa), pointer<const float>(weight_GH), hidden) {}

  bool operator()(std::uintptr_t x_LG, std::int64_t num_places, std::uintptr_t place_P,
                  std::uintptr_t scale_P, std::uintptr_t sizes_T, std::int64_t num_times,
                  std::int64_t num_rows, std::uintptr_t states_PH, std::uintptr_t last_RH) const {
    const Computing computing;
    return gru_.run({pointer<const float>(x_LG), num_places, pointer<const std::int64_t>(place_P),
                     pointer<const float>(scale_P), pointer<const std::int64_t>(sizes_T), num_times,
                     num_rows, pointer<float>(states_PH), pointer<float>(last_RH)});
  }

 private:
  Gru gru_;
};

// Address, stride of rows, stride of columns.
using MatrixTuple = std::tuple<std::uintptr_t, std::ptrdiff_t, std::ptrdiff_t>;

// In squares, so that neither side leaves the first cache between two numbers of a line.
void copy_matrix(const float* from, std::ptrdiff_t row_stride, std::ptrdiff_t column_stride,
                 std::int64_t num_rows, std::int64_t num_columns, float* to,
                 std::ptrdiff_t to_stride) {
  constexpr std::int64_t kSquare = 16;
  for (std::int64_t row = 0; row < num_rows; row += kSquare)
    for (std::int64_t column = 0; column < num_columns; column += kSquare)
      for (std::int64_t r = row; r < std::min(row + kSquare, num_rows); ++r)
        for (std::int64_t c = column; c < std::min(column + kSquare, num_columns); ++c)
          to[r * to_stride + c] = from[r * row_stride + c * column_stride];
}

// C (M, N) = A (M, K) . B (K, N) + initial (N). B is copied where its rows are not contiguous or do
// not end with whole registers.
void product(DenseIsa isa, std::int64_t num_rows, std::int64_t num_inner, int num_columns,
             const MatrixTuple& a, const MatrixTuple& b, std::uintptr_t initial,
             std::uintptr_t c) {
  const Computing computing;
  const DenseKernels& kernels = kernels_for(isa);
  ProductCall call;
  std::uintptr_t a_address, b_address;
  std::ptrdiff_t b_column_stride;
  std::tie(a_address, call.a_row_stride, call.a_inner_stride) = a;
  std::tie(b_address, call.b_stride, b_column_stride) = b;
  call.a = pointer<const float>(a_address);
  call.b = pointer<const float>(b_address);
  call.initial = pointer<const float>(initial);
  call.c = pointer<float>(c);
  call.c_stride = num_columns;
  call.num_rows = num_rows;
  call.num_inner = num_inner;
  call.num_columns = num_columns;
  static Pool<Buffer<float>> copies;
  const auto lease = copies.lease();
  if (b_column_stride != 1 || num_columns % kernels.lanes) {
    const std::ptrdiff_t width = spread(num_columns);
    float* copy = (*lease).reserve(static_cast<std::size_t>(num_inner * width));
    copy_matrix(call.b, call.b_stride, b_column_stride, num_inner, num_columns, copy, width);
    call.b = copy;
    call.b_stride = width;
  }
  kernels.product(call);
}

void dot_interaction(DenseIsa isa, std::int64_t num_rows, int count, int first, int dim,
                     std::uintptr_t vectors_BFD, std::uintptr_t out_BP) {
  const Computing computing;
  const DenseKernels& kernels = kernels_for(isa);
  Buffer<float> work(static_cast<std::size_t>((count + 16) * (dim + 8)));
  std::vector<const float*> vectors(static_cast<std::size_t>(count));
  const std::ptrdiff_t products = (count * (count - 1) - first * (first - 1)) / 2;
  for (std::int64_t row = 0; row < num_rows; ++row) {
    const float* base = pointer<const float>(vectors_BFD) + row * count * dim;
    for (int i = 0; i < count; ++i) vectors[static_cast<std::size_t>(i)] = base + i * dim;
    kernels.interact({vectors.data(), count, first, dim, work.get(),
                      pointer<float>(out_BP) + row * products});
  }
}

DlrmSide side_of(int dense_width, const std::vector<TableTuple>& tables) {
  DlrmSide side;
  side.dense_width = dense_width;
  for (const auto& [address, num_rows] : tables)
    side.tables.push_back({pointer<const std::uint8_t>(address), num_rows});
  return side;
}

SideRows rows_of(const SideTuple& tuple) {
  const auto& [num_rows, dense, ids, num_ids, offsets, weights] = tuple;
  return {num_rows, pointer<const float>(dense), pointer<const std::int64_t>(ids), num_ids,
          pointer<const std::int64_t>(offsets), pointer<const float>(weights)};
}

// `user` and `item`: dense width and, per sparse feature, address and rows of its table.
// `bottom` and `top`: layers, and how many of the first one's inputs are the user's.
class BoundDlrm {
 public:
  using SideSetup = std::pair<int, std::vector<TableTuple>>;
  using MlpSetup = std::pair<std::vector<LayerTuple>, int>;

  BoundDlrm(DenseIsa isa, DenseFormat format, bool dot, RowFormat rows, int dim, int prefetch_rows,
            const SideSetup& user, const SideSetup& item, const MlpSetup& bottom,
            const MlpSetup& top)
      : dlrm_(kernels_for(isa), format, lookup_for(isa),
              config(dot, rows, dim, prefetch_rows, user, item, bottom, top)) {}

  // None, or what is wrong: (kind, side, bag, position of the id).
  nb::object operator()(const SideTuple& user, const SideTuple& item,
                        std::uintptr_t user_of_item_B, std::uintptr_t probabilities_B) const {
    return score(user, item, user_of_item_B, probabilities_B, nullptr);
  }

  // The same, and the nanoseconds of lookups and of dense layers.
  nb::tuple timed(const SideTuple& user, const SideTuple& item, std::uintptr_t user_of_item_B,
                  std::uintptr_t probabilities_B) const {
    DlrmTimes times;
    const nb::object fault = score(user, item, user_of_item_B, probabilities_B, &times);
    return nb::make_tuple(fault, times.lookup_ns, times.dense_ns);
  }

 private:
  nb::object score(const SideTuple& user, const SideTuple& item, std::uintptr_t user_of_item_B,
                   std::uintptr_t probabilities_B, DlrmTimes* times) const {
    DlrmFault fault;
    {
      const Computing computing;
      fault = dlrm_.score(rows_of(user), rows_of(item), pointer<const std::int64_t>(user_of_item_B),
                          pointer<float>(probabilities_B), times);
    }
    if (fault.kind == DlrmFault::none) return nb::none();
    return nb::make_tuple(static_cast<int>(fault.kind), static_cast<int>(fault.side), fault.bag,
                          fault.position);
  }

  static DlrmConfig config(bool dot, RowFormat rows, int dim, int prefetch_rows,
                           const SideSetup& user, const SideSetup& item, const MlpSetup& bottom,
                           const MlpSetup& top) {
    DlrmConfig result;
    result.sides[0] = side_of(user.first, user.second);
    result.sides[1] = side_of(item.first, item.second);
    result.bottom = {layers_of(bottom.first), bottom.second};
    result.top = {layers_of(top.first), top.second};
    result.dot = dot;
    result.lookup.format = rows;
    result.lookup.dim = dim;
    result.lookup.prefetch_rows = prefetch_rows;
    return result;
  }

  Dlrm dlrm_;
};

}  // namespace

void bind_dense(nb::module_& module) {
  nb::enum_<DenseIsa>(module, "DenseIsa")
      .value("portable", DenseIsa::portable)
      .value("avx2", DenseIsa::avx2)
      .value("avx512", DenseIsa::avx512)
      .value("avx512_vnni", DenseIsa::avx512_vnni)
      .value("avx512_bf16", DenseIsa::avx512_bf16);
  nb::enum_<DenseFormat>(module, "DenseFormat")
      .value("fp32", DenseFormat::fp32)
      .value("bf16", DenseFormat::bf16)
      .value("int8", DenseFormat::int8);
  module.def("can_run_dense", &can_run_dense);
  nb::class_<Mlp>(module, "Mlp")
      .def(nb::init<DenseIsa, DenseFormat, const std::vector<LayerTuple>&>())
      .def("__call__", &Mlp::operator());
  module.def("dot_interaction", &dot_interaction);
  module.def("product", &product);
  nb::class_<BoundAttention>(module, "Attention")
      .def(nb::init<DenseIsa, const std::vector<LayerTuple>&, const std::vector<ActivationTuple>&,
                    const std::vector<LayerTuple>&>())
      .def("__call__", &BoundAttention::operator());
  nb::class_<BoundGru>(module, "Gru")
      .def(nb::init<DenseIsa, std::uintptr_t, int>())
      .def("__call__", &BoundGru::operator());
  nb::class_<BoundDlrm>(module, "Dlrm")
      .def(nb::init<DenseIsa, DenseFormat, bool, RowFormat, int, int, const BoundDlrm::SideSetup&,
                    const BoundDlrm::SideSetup&, const BoundDlrm::MlpSetup&,
                    const BoundDlrm::MlpSetup&>())
      .def("__call__", &BoundDlrm::operator())
      .def("timed", &BoundDlrm::timed);
  module.attr("DLRM_BAD_OFFSETS") = static_cast<int>(DlrmFault::bad_offsets);
  module.attr("DLRM_BAD_ID") = static_cast<int>(DlrmFault::bad_id);
  module.attr("DLRM_BAD_USER") = static_cast<int>(DlrmFault::bad_user);
}

}  // namespace tailrank
