import enum

class Isa(enum.Enum):
    portable = 0
    avx2 = 1
    avx512 = 2

def can_run(isa: Isa) -> bool: ...

class DenseIsa(enum.Enum):
    portable = 0
    avx2 = 1
    avx512 = 2
    avx512_vnni = 3
    avx512_bf16 = 4

def can_run_dense(isa: DenseIsa) -> bool: ...
