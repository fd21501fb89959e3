#include "vectors_avx512.h"

#define TAILRANK_ISA avx512
#include "pooled_lookup.inl"
