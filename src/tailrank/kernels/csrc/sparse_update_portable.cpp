#include "vectors_portable.h"

#define TAILRANK_ISA portable
#include "sparse_update.inl"
