#define TAILRANK_ISA avx512_vnni
#define TAILRANK_AVX512_VNNI
#define TAILRANK_LANES 16
#define TAILRANK_PANEL 4
#define TAILRANK_SUMS 24
#include "dense.inl"
