// Dense layers, the dot interaction and what takes an exponential, one source compiled once per instruction set: the including
// file names the namespace and its registers.

#include "dense_vectors.inl"
#include "dense_steps.inl"
#include "dense_linear.inl"
#include "dense_packing.inl"
#include "interaction.inl"
#include "gates.inl"
#include "product.inl"

namespace tailrank::TAILRANK_ISA {

extern const DenseKernels kDense;
const DenseKernels kDense = {L,       packed_bytes, pack_linear, linear,  interact,
                             to_bf16, to_int8,      gru_step,    activate, product};

}  // namespace tailrank::TAILRANK_ISA
