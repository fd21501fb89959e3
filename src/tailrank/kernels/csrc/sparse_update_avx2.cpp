#include "vectors_avx2.h"

#define TAILRANK_ISA avx2
#include "sparse_update.inl"
