#include "vectors_avx512.h"

#define TAILRANK_ISA avx512
#include "sparse_update.inl"
