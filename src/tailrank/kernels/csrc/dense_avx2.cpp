#define TAILRANK_ISA avx2
#define TAILRANK_LANES 8
#define TAILRANK_PANEL 2
#define TAILRANK_SUMS 12
#include "dense.inl"
