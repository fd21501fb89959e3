"""Finished stages of the way to an operating point: who keeps them can have it taken up again."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from tailrank.characterization.operating_point import Bracket
from tailrank.core.service_time import ServiceTimeTable
from tailrank.runtime.record import RunResult
from tailrank.tuning.candidate import Candidate


@dataclass(frozen=True, slots=True)
class SimulatedStage:
    """A contender's finished search.

    Args:
        best: its best settings, in runs as long as the live ones.
        seen: all that were simulated, as last seen.
    """

    best: Bracket
    seen: tuple[Bracket, ...]


@dataclass(frozen=True, slots=True)
class LiveRun:
    """One live run.

    Args:
        qps: offered load.
        run: its rows.
        queries_per_joule: as metered; None where nothing was.
    """

    qps: float
    run: RunResult = field(repr=False)
    queries_per_joule: float | None = None


@dataclass(frozen=True, slots=True)
class LiveStage:
    """A candidate's finished verification.

    Args:
        bracket: what it kept the SLA at, and what it missed it at.
        ends: the runs at the capacity and at the smallest load that missed, if one did.
    """

    bracket: Bracket
    ends: tuple[LiveRun, ...]


class Stages(Protocol):
    """Keeps what is finished, so that an interrupted search can be taken up again."""

    def profile(self, device: str) -> ServiceTimeTable | None:
        """The service times of a device, if they were measured."""
        ...

    def keep_profile(self, device: str, table: ServiceTimeTable) -> None:
        """They were measured now."""
        ...

    def simulated(self, prefix: str) -> SimulatedStage | None:
        """The search of the contender whose metrics have this prefix, if it was finished."""
        ...

    def keep_simulated(self, prefix: str, stage: SimulatedStage) -> None:
        """It is finished now."""
        ...

    def live(self, candidate: Candidate) -> LiveStage | None:
        """A candidate's verification, if it was finished."""
        ...

    def keep_live(self, stage: LiveStage) -> None:
        """It is finished now."""
        ...


class NoStages:
    """Keeps nothing, and nothing was finished before."""

    def profile(self, device: str) -> None:
        """None."""

    def keep_profile(self, device: str, table: ServiceTimeTable) -> None:
        """Nobody will ask for it."""

    def simulated(self, prefix: str) -> None:
        """None."""

    def keep_simulated(self, prefix: str, stage: SimulatedStage) -> None:
        """Nobody will ask for it."""

    def live(self, candidate: Candidate) -> None:
        """None."""

    def keep_live(self, stage: LiveStage) -> None:
        """Nobody will ask for it."""
