#define TAILRANK_ISA avx512_bf16
#define TAILRANK_AVX512_BF16
#define TAILRANK_LANES 16
#define TAILRANK_PANEL 4
#define TAILRANK_SUMS 24
#include "dense.inl"
