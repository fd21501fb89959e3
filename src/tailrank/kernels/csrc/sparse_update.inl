// The update of the rows that a batch read, compiled once per instruction set: the including file
// names the namespace and brings that set's vectors.
//
// Rows come in rising order, which the TLB likes, and a cursor runs ahead of the changes and asks
// for the lines of weights and state. A row's gradient is summed in registers, in the order of the
// batch.

#include "prefetch.h"
#include "sparse_update.h"

namespace tailrank::TAILRANK_ISA {
namespace {

constexpr int kLineBytes = 64;
// Gradients lie closer than rows: those of a batch often fit into the second cache.
constexpr int kGradientsAhead = 8;

TAILRANK_INLINE V load(const float* from) {
  return load_fp32(reinterpret_cast<const std::uint8_t*>(from));
}
TAILRANK_INLINE V load(const float* from, int count) {
  return load_fp32(reinterpret_cast<const std::uint8_t*>(from), count);
}

// `visit(v)` for each whole vector of a row, `visit(v, count)` for what is left of it.
template <typename Visit>
TAILRANK_INLINE void each_vector(int dim, Visit visit) {
#pragma GCC unroll 16
  for (int v = 0; v < dim / kWidth; ++v) visit(v);
  if (const int rest = dim % kWidth) visit(dim / kWidth, rest);
}

TAILRANK_INLINE void prefetch_row(const SparseStep& a, const float* row, int dim) {
  const auto* bytes = reinterpret_cast<const std::uint8_t*>(row);
#pragma GCC unroll 16
  for (int byte = 0; byte < 4 * dim; byte += kLineBytes) prefetch(bytes + byte);
  if (a.straddles) prefetch(bytes + 4 * dim - 1);
}

TAILRANK_INLINE const float* gradient_of(const SparseStep& a, std::uint32_t place, int dim) {
  const std::uint32_t bag = a.bags ? a.bags[place] : place;
  const BagGradients* lookup = a.gradients;
  while (bag >= lookup->end) ++lookup;
  return lookup->rows + static_cast<std::int64_t>(bag - lookup->first) * dim;
}

// The occurrences of one row after the other, and what will be needed soon.
template <RowRule R, int D>
class Rows {
 public:
  TAILRANK_INLINE Rows(const SparseStep& a, int dim) : a_(a), dim_(dim) {
    const int first = a.prefetch_rows;
    for (int i = 0; i < first && i < a.num_occurrences; ++i) ask_for_row(i);
  }

  TAILRANK_INLINE bool any_left() const { return next_ < a_.num_occurrences; }

  // The next row; its gradient's sum into `sum`, as the bags have it.
  TAILRANK_INLINE std::uint64_t sum_gradient(V* sum) {
    const std::uint64_t row = row_of(a_.occurrences[next_]);
    each_vector(dim_, [&](int v, auto...) { sum[v] = broadcast(0.0f); });
    do {
      if (next_ + a_.prefetch_rows < a_.num_occurrences) ask_for_row(next_ + a_.prefetch_rows);
      if (next_ + kGradientsAhead < a_.num_occurrences) ask_for_gradient(next_ + kGradientsAhead);
      const std::uint32_t place = place_of(a_.occurrences[next_]);
      const float* gradient = gradient_of(a_, place, dim_);
      const V factor = broadcast(a_.factors ? a_.factors[place] : 1.0f);
      each_vector(dim_, [&](int v, auto... count) {
        sum[v] = multiply_add(factor, load(gradient + v * kWidth, count...), sum[v]);
      });
    } while (++next_ < a_.num_occurrences && row_of(a_.occurrences[next_]) == row);
    return row;
  }

 private:
  TAILRANK_INLINE void ask_for_row(std::int64_t at) const {
    const std::uint64_t row = row_of(a_.occurrences[at]);
    prefetch_row(a_, a_.weight + row * static_cast<std::uint64_t>(dim_), dim_);
    if constexpr (R == RowRule::rowwise_adagrad) {
      prefetch(a_.state[0] + row);
    } else {
      constexpr int kStates = R == RowRule::sgd      ? 0
                              : R == RowRule::adagrad ? 1
                              : R == RowRule::adam    ? 2
                                                      : 3;
      for (int i = 0; i < kStates; ++i)
        prefetch_row(a_, a_.state[i] + row * static_cast<std::uint64_t>(dim_), dim_);
    }
  }

  TAILRANK_INLINE void ask_for_gradient(std::int64_t at) const {
    prefetch_row(a_, gradient_of(a_, place_of(a_.occurrences[at]), dim_), dim_);
  }

  const SparseStep& a_;
  const int dim_;
  std::int64_t next_ = 0;
};

// Changes one row by its gradient.
template <RowRule R>
TAILRANK_INLINE void change_row(const SparseStep& a, std::uint64_t row, V* gradient, int dim) {
  const std::uint64_t at = row * static_cast<std::uint64_t>(dim);
  float* weight = a.weight + at;
  const V scale = broadcast(a.scale), l2 = broadcast(a.l2), eps = broadcast(a.eps);
  V squares = broadcast(0.0f);
  each_vector(dim, [&](int v, auto... count) {
    gradient[v] = multiply(scale, gradient[v]);
    // Not always: zero times a weight that is infinite is no number.
    if (a.l2 != 0.0f)
      gradient[v] = multiply_add(l2, load(weight + v * kWidth, count...), gradient[v]);
    if constexpr (R == RowRule::rowwise_adagrad)
      squares = multiply_add(gradient[v], gradient[v], squares);
  });
  V rate = broadcast(-a.lr);
  if constexpr (R == RowRule::rowwise_adagrad) {
    float* state = a.state[0] + row;
    *state += sum(squares) / static_cast<float>(dim);
    rate = divide(rate, add(square_root(broadcast(*state)), eps));
  }
  each_vector(dim, [&](int v, auto... count) {
    const int first = v * kWidth;
    V change = gradient[v];
    if constexpr (R == RowRule::adagrad) {
      float* state = a.state[0] + at + first;
      const V total = multiply_add(change, change, load(state, count...));
      store(state, total, count...);
      change = divide(change, add(square_root(total), eps));
    }
    if constexpr (R == RowRule::adam || R == RowRule::amsgrad) {
      float *mean_at = a.state[0] + at + first, *square_at = a.state[1] + at + first;
      V mean = load(mean_at, count...), square = load(square_at, count...);
      mean = multiply_add(broadcast(a.new_mean), subtract(change, mean), mean);
      const V excess = subtract(multiply(change, change), square);
      square = multiply_add(broadcast(a.new_square), excess, square);
      store(mean_at, mean, count...);
      store(square_at, square, count...);
      if constexpr (R == RowRule::amsgrad) {
        float* largest = a.state[2] + at + first;
        square = maximum(load(largest, count...), square);
        store(largest, square, count...);
      }
      change = divide(mean, add(square_root(square), eps));
    }
    store(weight + first, multiply_add(rate, change, load(weight + first, count...)), count...);
  });
}

// D = 0: any dim, with the gradient in memory instead of registers.
template <RowRule R, int D>
void run(const SparseStep& a) {
  const int dim = D ? D : a.dim;
  V registers[D ? D / kWidth : 1];
  V* gradient = D ? registers : reinterpret_cast<V*>(a.scratch);
  Rows<R, D> rows(a, dim);
  while (rows.any_left()) {
    const std::uint64_t row = rows.sum_gradient(gradient);
    change_row<R>(a, row, gradient, dim);
  }
}

template <RowRule R>
void by_dim(const SparseStep& a) {
  switch (a.dim) {  // the dims of the models in the literature
    case 16: return run<R, 16>(a);
    case 32: return run<R, 32>(a);
    case 64: return run<R, 64>(a);
    case 128: return run<R, 128>(a);
    default: return run<R, 0>(a);
  }
}

}  // namespace

void sparse_step(const SparseStep& a) {
  switch (a.rule) {
    case RowRule::sgd: return by_dim<RowRule::sgd>(a);
    case RowRule::rowwise_adagrad: return by_dim<RowRule::rowwise_adagrad>(a);
    case RowRule::adagrad: return by_dim<RowRule::adagrad>(a);
    case RowRule::adam: return by_dim<RowRule::adam>(a);
    case RowRule::amsgrad: return by_dim<RowRule::amsgrad>(a);
  }
}

double squared_norm(const SparseStep& a) {
  V* gradient = reinterpret_cast<V*>(a.scratch);
  double total = 0.0;
  Rows<RowRule::sgd, 0> rows(a, a.dim);
  while (rows.any_left()) {
    rows.sum_gradient(gradient);
    V squares = broadcast(0.0f);
    each_vector(a.dim, [&](int v, auto...) {
      squares = multiply_add(gradient[v], gradient[v], squares);
    });
    total += static_cast<double>(sum(squares));
  }
  return total;
}

}  // namespace tailrank::TAILRANK_ISA
