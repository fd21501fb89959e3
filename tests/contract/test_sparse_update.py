"""Updates of table rows: every implementation against formulas in NumPy, a row at a time."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
import torch
from tests.contract.sparse_cases import (
    INT64_MAX,
    INT64_MIN,
    RULES,
    Statement,
    bags_of,
    close,
    random_table,
    summed,
)
from torch import Tensor, nn

from tailrank.core.errors import ConfigError
from tailrank.kernels import native
from tailrank.kernels.native import ISAS
from tailrank.kernels.sparse_reference import Bags, RowRule, TorchUpdate, new_state
from tailrank.kernels.sparse_update import NativeUpdate, SparseUpdate, kernels_for, sparse_update

DIMS = (1, 7, 16, 33, 64, 128)


class Kernels(NamedTuple):
    """An implementation, and where its tensors lie."""

    name: str
    device: torch.device

    def update(self, rule: RowRule, weight_VD: Tensor, state: dict[str, Tensor]) -> SparseUpdate:
        if self.name == "torch":
            return TorchUpdate(rule, weight_VD, state)
        return NativeUpdate(rule, weight_VD, state, isa=self.name)


@pytest.fixture(params=["torch", "torch-cuda", *ISAS])
def kernels(request: pytest.FixtureRequest) -> Kernels:
    if request.param == "torch-cuda":
        if not torch.cuda.is_available():
            pytest.skip("no GPU here: updates on one are NOT TESTED")
        return Kernels("torch", torch.device("cuda"))
    if request.param != "torch":
        if native.why_unavailable() is not None:
            pytest.skip(str(native.why_unavailable()))
        if request.param not in native.runnable_isas():
            pytest.skip(f"this CPU does not run {request.param}")
    return Kernels(request.param, torch.device("cpu"))


@pytest.fixture(params=ISAS)
def isa(request: pytest.FixtureRequest) -> str:
    if native.why_unavailable() is not None:
        pytest.skip(str(native.why_unavailable()))
    if request.param not in native.runnable_isas():
        pytest.skip(f"this CPU does not run {request.param}")
    return request.param


def on(device: torch.device, lookups: list[Bags]) -> list[Bags]:
    return [Bags(*(None if x is None else x.to(device) for x in bags)) for bags in lookups]


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("rule", RULES)
def test_steps_are_the_formula_and_touch_nothing_else(
    kernels: Kernels, rule: RowRule, dim: int
) -> None:
    weight_VD = random_table(30, dim).to(kernels.device)
    before, statement = weight_VD.clone(), Statement(rule, weight_VD.cpu())
    state = new_state(rule, weight_VD)
    update = kernels.update(rule, weight_VD, state)
    for seed in range(6):
        lookups = [bags_of(seed, dim=dim, weighted=seed % 2 == 1)]
        if seed % 3 == 2:  # two lookups of one table, one of them weighted
            lookups.append(bags_of(seed + 50, dim=dim, weighted=seed % 2 == 0, num_bags=7))
        settings = {"scale": 0.5, "l2": 0.01} if seed > 2 else {}
        update.read(on(kernels.device, lookups)).update(0.1, **settings)
        statement.step(summed(lookups), 0.1, **settings)
    close(weight_VD, statement)
    assert torch.equal(weight_VD[9:], before[9:])
    assert not any(tensor[9:].any() for tensor in state.values() if tensor.dim())


@pytest.mark.parametrize("weighted", [False, True])
def test_rows_and_norm_are_those_of_added_up_gradients(kernels: Kernels, weighted: bool) -> None:
    lookups = [bags_of(1, dim=7, weighted=weighted), bags_of(2, dim=7, ids_max=20)]
    update = kernels.update("sgd", random_table(30, 7).to(kernels.device), {})
    found, expected = update.read(on(kernels.device, lookups)), summed(lookups)
    assert found.rows().tolist() == sorted(expected)
    norm = sum(float((gradient**2).sum()) for gradient in expected.values())
    assert found.squared_norm() == pytest.approx(norm, rel=1e-5)
    assert found.rows().dtype == torch.int64


@pytest.mark.parametrize("rule", RULES)
def test_one_id_no_ids_and_no_lookup(kernels: Kernels, rule: RowRule) -> None:
    weight_VD = torch.ones(3, 4, device=kernels.device)
    update = kernels.update(rule, weight_VD, new_state(rule, weight_VD))
    no_ids = torch.zeros(0, dtype=torch.int64)
    two_bags = Bags(no_ids, torch.zeros(3).long(), torch.ones(2, 4))
    no_bag = Bags(no_ids, torch.zeros(1).long(), torch.ones(0, 4))
    for lookups in ([], [no_bag], [two_bags], [two_bags, no_bag]):
        nothing = update.read(on(kernels.device, lookups))
        assert nothing.rows().shape == (0,)
        assert nothing.squared_norm() == 0.0
        nothing.update(0.1, l2=0.1)
    assert torch.equal(weight_VD, torch.ones(3, 4, device=kernels.device))
    one = Bags(torch.tensor([1]), torch.tensor([0, 0, 1]), torch.ones(2, 4))
    update.read(on(kernels.device, [one])).update(0.1)
    assert weight_VD[:, 0].ne(1).tolist() == [False, True, False]


@pytest.mark.parametrize("rule", RULES)
def test_a_row_whose_gradient_is_zero_stays_at_first(kernels: Kernels, rule: RowRule) -> None:
    weight_VD = torch.ones(3, 4, device=kernels.device)
    zero = Bags(torch.tensor([1, 1]), torch.tensor([0, 2]), torch.zeros(1, 4))
    update = kernels.update(rule, weight_VD, new_state(rule, weight_VD))
    update.read(on(kernels.device, [zero])).update(0.1)
    assert torch.equal(weight_VD, torch.ones(3, 4, device=kernels.device))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("rule", RULES)
def test_a_gradient_that_is_no_number_reaches_its_rows_only(
    kernels: Kernels, rule: RowRule, value: float
) -> None:
    weight_VD = random_table(30, 16).to(kernels.device)
    state = new_state(rule, weight_VD)
    update = kernels.update(rule, weight_VD, state)
    update.read(on(kernels.device, [bags_of(3, dim=16)])).update(0.1)
    bags = bags_of(0, dim=16)
    bags.grad_GD[int(bags.offsets.diff().argmax())] = value
    reached = {row for row, gradient in summed([bags]).items() if not np.isfinite(gradient).all()}
    assert 0 < len(reached) < len(set(bags.ids_L.tolist()))
    update.read(on(kernels.device, [bags])).update(0.1)
    touched = {int(row) for row in (~weight_VD.isfinite()).any(dim=1).nonzero()}
    assert touched == reached
    for tensor in state.values():  # which does not hide it either
        if tensor.dim():
            broken_V = ~tensor.view(30, -1).isfinite().all(dim=1)
            assert set(broken_V.nonzero().flatten().tolist()) == reached


def test_weights_that_are_infinite_stay_so_without_l2(kernels: Kernels) -> None:
    weight_VD = torch.full((3, 4), float("inf"), device=kernels.device)
    kernels.update("sgd", weight_VD, {}).read(
        on(kernels.device, [Bags(torch.tensor([1]), torch.tensor([0, 1]), torch.ones(1, 4))])
    ).update(0.1)
    assert weight_VD.isposinf().all()


@pytest.mark.parametrize("rule", ["adagrad", "adam"])
def test_steps_are_those_of_torch_on_sparse_gradients(kernels: Kernels, rule: RowRule) -> None:
    weight_VD = random_table(30, 4).to(kernels.device)
    bag = nn.EmbeddingBag.from_pretrained(
        weight_VD.clone(), freeze=False, mode="sum", sparse=True, include_last_offset=True
    )
    kinds = {"adagrad": torch.optim.Adagrad, "adam": torch.optim.SparseAdam}
    optimizer = kinds[rule](bag.parameters(), lr=0.1)
    update = kernels.update(rule, weight_VD, new_state(rule, weight_VD))
    for seed in range(6):
        lookups = on(kernels.device, [bags_of(seed, dim=4)])
        update.read(lookups).update(0.1)
        optimizer.zero_grad()
        with torch.sparse.check_sparse_tensor_invariants():
            bag(lookups[0].ids_L, lookups[0].offsets).backward(lookups[0].grad_GD)
            optimizer.step()
    torch.testing.assert_close(weight_VD, bag.weight.detach(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rule", RULES)
def test_the_same_steps_give_the_same_bits(kernels: Kernels, rule: RowRule) -> None:
    ends = []
    for _ in range(2):
        weight_VD = random_table(500, 32).to(kernels.device)
        state = new_state(rule, weight_VD)
        update = kernels.update(rule, weight_VD, state)
        for seed in range(3):
            bags = bags_of(seed, dim=32, ids_max=500, num_bags=900)
            update.read(on(kernels.device, [bags])).update(0.1, l2=0.001)
        ends.append([weight_VD, *state.values()])
    assert all(map(torch.equal, *ends))


@pytest.mark.parametrize("rule", RULES)
def test_many_rows_and_many_steps_are_the_reference(isa: native.IsaName, rule: RowRule) -> None:
    """Ids of one, two and three passes of the sort; some rows read by most bags."""
    for num_rows, dim in ((700, 16), (70_000, 5), *([(5_000_000, 1)] if rule == "sgd" else [])):
        tables = [random_table(num_rows, dim) for _ in range(2)]
        states = [new_state(rule, table) for table in tables]
        mine = NativeUpdate(rule, tables[0], states[0], isa=isa)
        theirs = TorchUpdate(rule, tables[1], states[1])
        for seed in range(8):
            generator = torch.Generator().manual_seed(seed)
            bags = bags_of(seed, dim=dim, ids_max=num_rows, num_bags=600)
            hot = torch.rand(len(bags.ids_L), generator=generator) < 0.3
            bags.ids_L[hot] = bags.ids_L[hot] % 3 * ((num_rows - 1) // 2)
            found = [update.read([bags]) for update in (mine, theirs)]
            assert torch.equal(found[0].rows(), found[1].rows())
            for rows in found:
                rows.update(0.05, l2=0.001)
        for got, expected in zip(
            [tables[0], *states[0].values()], [tables[1], *states[1].values()], strict=True
        ):
            torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_sums_are_added_in_the_order_of_the_batch(isa: native.IsaName) -> None:
    """Then nothing but rounding of products can differ from the reference: sums are its bits."""
    tables = [torch.zeros(9, 33) for _ in range(2)]
    for weighted in (False, True):
        lookups = [bags_of(1, dim=33, num_bags=500), bags_of(2, dim=33, weighted=weighted)]
        NativeUpdate("sgd", tables[0], {}, isa=isa).read(lookups).update(1.0)
        TorchUpdate("sgd", tables[1], {}).read(lookups).update(1.0)
        if weighted:
            torch.testing.assert_close(tables[0], tables[1], rtol=1e-5, atol=1e-5)
        else:
            assert torch.equal(tables[0], tables[1])


@pytest.mark.parametrize("value", [-1, 30, 1 << 40, INT64_MIN, INT64_MAX])
def test_an_id_outside_the_table_is_refused_before_anything_is_written(
    isa: native.IsaName, value: int
) -> None:
    weight_VD = random_table(30, 8)
    before = weight_VD.clone()
    update = NativeUpdate("sgd", weight_VD, {}, isa=isa)
    sound, wrong = bags_of(0, dim=8), bags_of(1, dim=8)
    wrong.ids_L[-1] = value
    with pytest.raises(ConfigError) as error:
        update.read([sound, wrong])
    assert error.value.field == f"lookups[1].ids_L[{len(wrong.ids_L) - 1}]"
    assert error.value.value == value
    assert error.value.allowed == "0 to 29"
    assert torch.equal(weight_VD, before)


@pytest.mark.parametrize(
    ("offsets", "index"),
    [([1, 2, 4], 0), ([0, 3, 2], 2), ([0, 5, 4], 1), ([0, 2, 3], 2), ([0, INT64_MIN, 4], 1)],
)
def test_offsets_that_do_not_rise_to_all_ids_are_refused(
    isa: native.IsaName, offsets: list[int], index: int
) -> None:
    update = NativeUpdate("sgd", random_table(3, 2), {}, isa=isa)
    with pytest.raises(ConfigError, match=rf"lookups\[0\]\.offsets\[{index}\].*rising from 0 to 4"):
        update.read([Bags(torch.tensor([0, 1, 2, 0]), torch.tensor(offsets), torch.ones(2, 2))])


def test_tensors_of_another_kind_are_refused(isa: native.IsaName) -> None:
    weight_VD = random_table(5, 4)
    update = NativeUpdate("adagrad", weight_VD, new_state("adagrad", weight_VD), isa=isa)
    sound = Bags(torch.tensor([0, 1, 2]), torch.tensor([0, 1, 3]), torch.ones(2, 4), torch.ones(3))
    update.read([sound])
    for wrong in (
        {"ids_L": sound.ids_L.int()},
        {"ids_L": torch.arange(6)[::2]},
        {"offsets": sound.offsets.int()},
        {"offsets": sound.offsets[:0]},
        {"grad_GD": sound.grad_GD.double()},
        {"grad_GD": sound.grad_GD[:1]},
        {"grad_GD": sound.grad_GD[:, :3]},
        {"weights_L": sound.weights_L[:2]},
        {"weights_L": sound.weights_L.double()},
    ):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            update.read([sound._replace(**wrong)])
    for weight, state in (
        (weight_VD.double(), new_state("adagrad", weight_VD)),
        (weight_VD.t(), new_state("adagrad", weight_VD.t())),
        (weight_VD[0], {}),
        (weight_VD, {}),
        (weight_VD, {"sum_VD": torch.zeros(5, 3)}),
        (weight_VD, new_state("adam", weight_VD)),
    ):
        with pytest.raises(ConfigError, match=r"weight_VD|state"):
            NativeUpdate("adagrad", weight, state, isa=isa)


def test_rows_of_an_earlier_batch_are_not_taken_for_the_last_ones(isa: native.IsaName) -> None:
    update = NativeUpdate("sgd", random_table(9, 4), {}, isa=isa)
    earlier = update.read([bags_of(0, dim=4)])
    update.read([bags_of(1, dim=4)])
    for use in (earlier.rows, earlier.squared_norm, lambda: earlier.update(0.1)):
        with pytest.raises(AssertionError, match="another batch"):
            use()


def test_gradients_with_gaps_are_read_as_they_are(kernels: Kernels) -> None:
    """As autograd gives them for a sum: one number expanded to all elements."""
    weight_VD = torch.zeros(5, 4, device=kernels.device)
    lookup = Bags(torch.tensor([0, 3]), torch.tensor([0, 1, 2]), torch.ones(1).expand(2, 4))
    kernels.update("sgd", weight_VD, {}).read(on(kernels.device, [lookup])).update(1.0)
    assert weight_VD.sum(dim=1).tolist() == [-4, 0, 0, -4, 0]


def test_the_widest_kernels_of_this_machine_are_chosen() -> None:
    weight_VD = random_table(3, 2)
    chosen = sparse_update("sgd", weight_VD, {})
    if native.why_unavailable() is not None:
        assert isinstance(chosen, TorchUpdate)
        assert kernels_for(weight_VD) == "torch"
    else:
        assert isinstance(chosen, NativeUpdate)
        assert kernels_for(weight_VD) == f"native {native.runnable_isas()[0]}"
    for other in (weight_VD.to("meta"), weight_VD.double(), weight_VD.t()):
        assert kernels_for(other) == "torch"
