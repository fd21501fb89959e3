"""What is searched over: a policy with its settings, and how the cores are dealt out."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any

from tailrank.core.errors import ConfigError, one_of
from tailrank.scheduling.policies import POLICIES, PolicyConfig
from tailrank.tuning.search import BATCH_LADDER


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One operating point that may be tried.

    Args:
        policy: a name in `POLICIES`.
        batch_items_max: most items of a batch, >= 1.
        offload_threshold_items: query size from which the whole query goes to the accelerator,
            >= 1; None: none does, or the policy has no such setting.
        num_workers: worker slots, >= 1.
        num_threads: threads of each worker, >= 1.

    Raises:
        ConfigError: a field is outside its range.
    """

    policy: str
    batch_items_max: int
    offload_threshold_items: int | None = None
    num_workers: int = 1
    num_threads: int = 1

    def __post_init__(self) -> None:
        _check_policy(self.policy)
        for name in ("batch_items_max", "num_workers", "num_threads"):
            if getattr(self, name) < 1:
                raise ConfigError(name, getattr(self, name), "a whole number from 1")

    def configure(self, **settings: Any) -> PolicyConfig:
        """The policy with its settings.

        Args:
            **settings: further fields of `PolicyConfig`, such as `sla`; those that this policy does
                not have are left out, so that one call serves the candidates of all policies.

        Raises:
            ConfigError: a field is outside its range, or the policy cannot honour it.
        """
        own = POLICIES[self.policy].settings
        return PolicyConfig(
            policy=self.policy,
            batch_items_max=self.batch_items_max,
            offload_threshold_items=self.offload_threshold_items,
            **{name: value for name, value in settings.items() if name in own},
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchSpace:
    """The candidates of a search: every combination that makes sense, once.

    Args:
        policies: names in `POLICIES`.
        batch_items_max: batch sizes.
        offload_threshold_items: for the policies that have a threshold; None: no offload.
        num_workers: worker slots.
        num_threads: threads of each worker.
        num_cores: combinations of more workers times threads are left out; None: no limit.

    Raises:
        ConfigError: an axis is empty, a policy unknown, or the cores hold no combination.
    """

    policies: tuple[str, ...]
    batch_items_max: tuple[int, ...] = BATCH_LADDER
    offload_threshold_items: tuple[int | None, ...] = (None,)
    num_workers: tuple[int, ...] = (1,)
    num_threads: tuple[int, ...] = (1,)
    num_cores: int | None = None

    def __post_init__(self) -> None:
        for name, choices in self.axes().items():
            if not choices:
                raise ConfigError(name, choices, "at least one choice")
        for policy in self.policies:
            _check_policy(policy)
        if not self.candidates():
            least = min(self.num_workers) * min(self.num_threads)
            raise ConfigError("num_cores", self.num_cores, f"at least {least}")

    def axes(self) -> dict[str, tuple[Any, ...]]:
        """The choices of each field of a candidate."""
        return {
            "policy": self.policies,
            "batch_items_max": self.batch_items_max,
            "offload_threshold_items": self.offload_threshold_items,
            "num_workers": self.num_workers,
            "num_threads": self.num_threads,
        }

    def candidate(self, choices: dict[str, Any]) -> Candidate | None:
        """The candidate of one choice for each axis; None where the cores do not hold it."""
        num_threads = choices["num_workers"] * choices["num_threads"]
        if self.num_cores is not None and num_threads > self.num_cores:
            return None
        if "offload_threshold_items" not in POLICIES[choices["policy"]].settings:
            choices = choices | {"offload_threshold_items": None}
        return Candidate(**choices)

    def candidates(self) -> tuple[Candidate, ...]:
        """All of them, in the order of the axes."""
        axes = self.axes()
        combined = [
            self.candidate(dict(zip(axes, choices, strict=True)))
            for choices in product(*axes.values())
        ]
        return tuple(dict.fromkeys(each for each in combined if each is not None))


def _check_policy(policy: str) -> None:
    if policy not in POLICIES:
        raise ConfigError("policy", policy, one_of(sorted(POLICIES), policy))
