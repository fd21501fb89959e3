// Dense layers and the dot interaction, one source compiled once per instruction set: the including
// file names the namespace and its registers.

#include "dense_vectors.inl"
#include "dense_steps.inl"
#include "dense_linear.inl"
#include "dense_packing.inl"
#include "interaction.inl"

namespace tailrank::TAILRANK_ISA {

extern const DenseKernels kDense;
const DenseKernels kDense = {L, packed_bytes, pack_linear, linear, interact, to_bf16, to_int8};

}  // namespace tailrank::TAILRANK_ISA
