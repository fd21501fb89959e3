#define TAILRANK_ISA portable
#define TAILRANK_LANES 4
#define TAILRANK_PANEL 2
#define TAILRANK_SUMS 8
#include "dense.inl"
