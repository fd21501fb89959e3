"""A query on its way through models: each filter passes its best candidates on to the next model.

Every stage is a query of its own to the scheduler, with the time that is left. Knows no queue.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from tailrank.core.errors import ConfigError
from tailrank.features import FeatureBatch
from tailrank.inference.cascade import best_items
from tailrank.serving.candidates import Candidates, FoundItems
from tailrank.serving.model import ServedModel
from tailrank.serving.ranking import Ranked, StageTiming, Timing


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """A model that chooses candidates for the next one.

    Args:
        model: scores all that come.
        keep: how many of the best go on.
    """

    model: ServedModel
    keep: int

    def __post_init__(self) -> None:
        if self.keep < 1:
            raise ConfigError(f"{self.model.name}.keep", self.keep, "at least 1")


def check_names(models: Sequence[ServedModel]) -> None:
    """Refuse models that schedulers could not tell apart.

    Raises:
        ConfigError: two have one name.
    """
    names = [model.name for model in models]
    if len(set(names)) < len(names):
        raise ConfigError("stages", names, "models with a name each; rename a folder")


@dataclass(slots=True, eq=False, kw_only=True)
class Cascade:
    """One query between its stages.

    Args:
        candidates: the user and all items that came.
        filters: those that are still to choose, this stage's first.
        model: ranks those that are left.
        began_ns: when the query came.
        limit_ns: when it is to be answered.
        places: of the items of this stage among all that came; None: all.
        stages: those that are done.
    """

    candidates: Candidates
    filters: list[Filter]
    model: ServedModel
    began_ns: int = 0
    limit_ns: int = 0
    places: list[int] | None = None
    stages: list[StageTiming] = field(default_factory=list)

    @property
    def now_asked(self) -> ServedModel:
        """The model of this stage."""
        return self.filters[0].model if self.filters else self.model

    @property
    def features(self) -> FeatureBatch | FoundItems:
        """What it reads, or where that is.

        Raises:
            ConfigError, RequestError: see `Candidates.found`.
        """
        return self.candidates.found(self.now_asked, self.places)

    def sizes(self) -> Iterator[int]:
        """Items of each filter, and then of the model."""
        num_items = self.candidates.num_items
        for stage in self.filters:
            yield num_items
            num_items = min(num_items, stage.keep)
        yield num_items

    def take(self, ranked: Ranked, done_ns: int) -> Ranked | None:
        """Take this stage's scores: the answer, or None if there is a next stage, then begun.

        Args:
            ranked: its scores and timing.
            done_ns: now, on the clock of `began_ns`.
        """
        num_items = ranked.scores.shape[0]
        self.stages.append(StageTiming(ranked.model, num_items, ranked.timing))
        if self.filters:
            best = best_items(ranked.scores, self.filters.pop(0).keep).tolist()
            places = self.places
            self.places = best if places is None else [places[place] for place in best]
            return None
        compute_ns = sum(stage.timing.compute_ns for stage in self.stages)
        total_ns = done_ns - self.began_ns
        timing = Timing(total_ns - compute_ns, compute_ns, total_ns)
        return ranked._replace(timing=timing, places=self.places, stages=tuple(self.stages))
