"""A search by Optuna's tree-structured Parzen estimator, for spaces too large for a grid."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from tailrank.core.errors import BackendUnavailable, ConfigError
from tailrank.tuning.candidate import Candidate, SearchSpace
from tailrank.tuning.capacity import Capacity, SecondsLeft, unlimited
from tailrank.tuning.search import OnPoint, SearchResult, Visit, merit, run_search

if TYPE_CHECKING:
    import optuna


def optuna_search(
    evaluate: Callable[[Candidate], Capacity],
    space: SearchSpace,
    *,
    num_trials: int,
    seed: int,
    seconds_left: SecondsLeft = unlimited,
    on_point: OnPoint[Candidate] | None = None,
) -> SearchResult[Candidate]:
    """Let Optuna choose what to evaluate next.

    Source: Bergstra et al., NeurIPS 2011 (the estimator); Akiba et al., KDD 2019 (Optuna).

    Args:
        evaluate: the capacity of a candidate; asked once for each.
        space: the candidates.
        num_trials: choices to make, >= 1; one that was made before, or that the cores do not hold,
            costs no evaluation.
        seed: of Optuna's sampler; the same seed gives the same search.
        seconds_left: time until the search must end; asked between points.
        on_point: told of each point as soon as it is known.

    Returns:
        The best point and all others. A keyboard interrupt keeps what is known so far.

    Raises:
        BackendUnavailable: Optuna is not installed.
        ConfigError: `num_trials` is below 1.
    """
    if num_trials < 1:
        raise ConfigError("num_trials", num_trials, "a whole number from 1")
    study = _make_study(seed)
    axes = space.axes()
    scores: dict[Candidate, float] = {}

    def walk(visit: Visit[Candidate]) -> None:
        import optuna

        for _ in range(num_trials):
            trial = study.ask()
            chosen = {}
            for name, choices in axes.items():
                last = len(choices) - 1
                # Batches and workers have an order that is worth knowing; policies have none.
                unordered = name == "policy"
                index = (
                    trial.suggest_categorical(name, range(last + 1))
                    if unordered
                    else trial.suggest_int(name, 0, last)
                )
                chosen[name] = choices[index]
            candidate = space.candidate(chosen)
            if candidate is None:
                study.tell(trial, state=optuna.trial.TrialState.PRUNED)
                continue
            if candidate not in scores:
                capacity_qps, minus_mean_ns = merit(visit(candidate))
                scores[candidate] = capacity_qps or minus_mean_ns
            study.tell(trial, scores[candidate])

    return run_search(walk, evaluate, seconds_left=seconds_left, on_point=on_point)


def _make_study(seed: int) -> optuna.Study:
    try:
        import optuna
    except ImportError as error:
        raise BackendUnavailable(f"{error}; pip install 'tailrank[tune]'") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.TPESampler(seed=seed)
    return optuna.create_study(direction="maximize", sampler=sampler)
