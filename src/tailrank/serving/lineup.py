"""The models that serve together, from one change of models to the next.

Knows no queue and no protocol.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Self

from tailrank.core.fleet import Fleet
from tailrank.serving.admission import Predict
from tailrank.serving.engine_config import EngineConfig
from tailrank.serving.executors import Executor, Placed, place
from tailrank.serving.model import ServedModel
from tailrank.serving.prediction import predictor
from tailrank.serving.stages import Filter, check_names


class Lineup:
    """Models in the order of their stages, where they compute, and how many queries hold them.

    Args:
        opened: as they were loaded; the last one scores the answer.
        keeps: of each of the others, how many candidates it passes on.
        fleet: has the service times of the last one; None: a few calls are timed.

    Attributes:
        placed: where they compute; threads, before `place`.
        filters: all but the last, as they are placed.
        model: the last, as it is placed.
        predict_ns: of each, how long a batch takes; none before `place`.
        num_users: queries that are being ranked by them. Whoever changes it holds a lock.
        slowness: how many times as long the last one takes as the fleet says.

    Raises:
        ConfigError: two have one name.
    """

    def __init__(
        self, opened: Sequence[ServedModel], keeps: Sequence[int], fleet: Fleet | None = None
    ) -> None:
        check_names(opened)
        self.opened, self.keeps = tuple(opened), tuple(keeps)
        self.num_users, self.fleet, self.slowness = 0, fleet, 1.0
        self.predict_ns: list[Predict] = []
        self._put(Placed(self.opened, "threads", {}))

    def place(self, config: EngineConfig, executor: Executor | None) -> Self:
        """Put them where they are to compute, and see how long they take; returns itself.

        Args:
            config: how they will serve.
            executor: where they compute; None: as measured, see `executors.place`.

        Raises:
            ConfigError, WorkerDied: see `executors.place` and `prediction.predictor`.
            Exception: what a ranker raised. Nobody computes for them then.
        """
        num_workers, batch_items_max = config.num_workers, config.policy.batch_items_max
        self._put(
            place(
                self.opened,
                executor,
                num_workers=num_workers,
                batch_items_max=batch_items_max,
                live=config.live,
            )
        )
        try:
            self.predict_ns = [
                predictor(model, self.fleet, num_workers, batch_items_max) for model in self.models
            ]
        except BaseException:
            self.close()
            raise
        return self

    @property
    def models(self) -> tuple[ServedModel, ...]:
        """All of them, as they are placed."""
        return self.placed.models

    def with_models(self, opened: Sequence[ServedModel]) -> Lineup:
        """Others in their places and under their names."""
        models = [
            new if new.name == old.name else replace(new, name=old.name)
            for new, old in zip(opened, self.opened, strict=True)
        ]
        return Lineup(models, self.keeps)

    def close(self) -> None:
        """End their processes, if there are any; a second time does nothing."""
        self.placed.close()

    def _put(self, placed: Placed) -> None:
        self.placed = placed
        *others, self.model = placed.models
        self.filters = tuple(
            Filter(model=model, keep=keep) for model, keep in zip(others, self.keeps, strict=True)
        )
