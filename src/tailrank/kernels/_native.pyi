import enum

class Isa(enum.Enum):
    portable = 0
    avx2 = 1
    avx512 = 2

def can_run(isa: Isa) -> bool: ...

class RowRule(enum.Enum):
    sgd = 0
    rowwise_adagrad = 1
    adagrad = 2
    adam = 3
    amsgrad = 4

class DenseIsa(enum.Enum):
    portable = 0
    avx2 = 1
    avx512 = 2
    avx512_vnni = 3
    avx512_bf16 = 4

def can_run_dense(isa: DenseIsa) -> bool: ...
def product(
    isa: DenseIsa,
    num_rows: int,
    num_inner: int,
    num_columns: int,
    a: tuple[int, int, int],
    b: tuple[int, int, int],
    initial: int,
    c: int,
) -> None: ...

class Attention:
    def __init__(
        self,
        isa: DenseIsa,
        first: list[tuple[int, int, int, int, bool]],
        activations: list[tuple[int, int, int, int]],
        rest: list[tuple[int, int, int, int, bool]],
    ) -> None: ...
    def __call__(
        self,
        rows_LK: int,
        num_rows: int,
        first_U: int,
        length_U: int,
        num_users: int,
        candidate_BK: int,
        user_of_item_B: int,
        num_items: int,
        out_BK: int,
    ) -> bool: ...

class Gru:
    def __init__(self, isa: DenseIsa, weight_GH: int, hidden: int) -> None: ...
    def __call__(
        self,
        x_LG: int,
        num_places: int,
        place_P: int,
        scale_P: int,
        sizes_T: int,
        num_times: int,
        num_rows: int,
        states_PH: int,
        last_RH: int,
    ) -> bool: ...
