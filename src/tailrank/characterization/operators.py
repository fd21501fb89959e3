"""Where the time of a ranker's call goes: lookups, dense layers, attention, recurrences, the rest.

A layer is timed around its call and belongs to the outermost operator that it is part of: the
layers of an attention unit are attention. A DLRM that runs whole in one native call counts for
itself. What is left of a call is interactions, joining, repeating users, and Python. Knows no
preset and no file.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Literal, Protocol, get_args

from torch import Tensor, nn

from tailrank.features import FeatureBatch
from tailrank.inference.attention_blocks import BlockedAttention
from tailrank.inference.cpu import CpuRanker
from tailrank.inference.dense_layers import PackedMLP
from tailrank.inference.native_attention import NativeAttention
from tailrank.inference.native_gru import NativeGRU
from tailrank.models import RankingModel
from tailrank.models.dien import StateAttention
from tailrank.models.din import AttentionUnit
from tailrank.models.layers import SidedMlp
from tailrank.models.recurrent import GRU

Operator = Literal["lookup", "dense", "attention", "recurrent"]
OPERATORS: tuple[Operator, ...] = get_args(Operator)
TimedCall = Callable[[FeatureBatch], dict[Operator, int]]
_OF_MODULE: dict[type[nn.Module], Operator] = {
    AttentionUnit: "attention",
    BlockedAttention: "attention",
    NativeAttention: "attention",
    StateAttention: "attention",
    SidedMlp: "dense",
    PackedMLP: "dense",
    nn.Linear: "dense",
    GRU: "recurrent",
    NativeGRU: "recurrent",
}


class Watchable(Protocol):
    """A ranker of a model in parts: all but those that run whole in one native call."""

    model: RankingModel

    def rank(self, batch: FeatureBatch) -> Tensor:
        """Probabilities of a batch."""
        ...


@contextmanager
def timed_operators(ranker: Watchable) -> Iterator[TimedCall]:
    """A call that scores a batch and gives the nanoseconds of each operator.

    Watching costs some 3 µs a layer, outside of the operators' own times: for what is left of a
    call, time it while nobody watches. Meanwhile the ranker must not be used otherwise.
    """
    if isinstance(ranker, CpuRanker) and ranker.fused is not None:
        yield _of_native_call(ranker.fused.timed)
        return
    clock = _Clock()

    def call(batch: FeatureBatch) -> dict[Operator, int]:
        clock.spent_ns = dict.fromkeys(OPERATORS, 0)
        ranker.rank(batch)
        return clock.spent_ns

    with ExitStack() as stack:
        if isinstance(ranker, CpuRanker):
            stack.enter_context(_watched_lookups(ranker, clock))
        else:
            _watch(ranker.model.tables, "lookup", clock, stack)
        for name, module in ranker.model.named_children():
            if name != "tables":
                _watch_inside(module, clock, stack)
        yield call


class _Clock:
    """Adds up the time of operators; only one is at work at a time."""

    def __init__(self) -> None:
        self.spent_ns: dict[Operator, int] = dict.fromkeys(OPERATORS, 0)
        self._started_ns = 0

    def start(self) -> None:
        self._started_ns = time.perf_counter_ns()

    def stop(self, operator: Operator) -> None:
        self.spent_ns[operator] += time.perf_counter_ns() - self._started_ns


def operator_of(module: nn.Module) -> Operator | None:
    """What a module is as a whole; None for a mere container."""
    if isinstance(module, nn.Sequential):
        return "dense" if any(isinstance(m, nn.Linear | PackedMLP) for m in module) else None
    return next((name for kind, name in _OF_MODULE.items() if isinstance(module, kind)), None)


def _watch_inside(module: nn.Module, clock: _Clock, stack: ExitStack) -> None:
    """Watch the module, or the operators inside it."""
    operator = operator_of(module)
    if operator is not None:
        _watch(module, operator, clock, stack)
        return
    for child in module.children():
        _watch_inside(child, clock, stack)


def _watch(module: nn.Module, operator: Operator, clock: _Clock, stack: ExitStack) -> None:
    """Time each call of the module until the stack is left."""

    def before(*_: Any) -> None:
        clock.start()

    def after(*_: Any) -> None:
        clock.stop(operator)

    stack.callback(module.register_forward_pre_hook(before).remove)
    stack.callback(module.register_forward_hook(after).remove)


@contextmanager
def _watched_lookups(ranker: CpuRanker, clock: _Clock) -> Iterator[None]:
    """Time the lookups of the cpu ranker, which are no module."""
    embed = ranker.embed

    class Watched:
        backend = embed.backend

        def __call__(self, batch: FeatureBatch) -> Any:
            clock.start()
            pooled = embed(batch)
            clock.stop("lookup")
            return pooled

    ranker.embed = Watched()
    try:
        yield
    finally:
        ranker.embed = embed


def _of_native_call(timed: Callable[[FeatureBatch], Any]) -> TimedCall:
    """The counters of a native call as times of operators."""

    def call(batch: FeatureBatch) -> dict[Operator, int]:
        _, times = timed(batch)
        return dict.fromkeys(OPERATORS, 0) | {"lookup": times.lookup_ns, "dense": times.dense_ns}

    return call
