#include "vectors_portable.h"

#define TAILRANK_ISA portable
#include "pooled_lookup.inl"
