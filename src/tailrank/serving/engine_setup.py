"""What an engine is made of, as a value: the same one makes it here, or on another machine.

Knows no protocol and no flags.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tailrank.characterization.target import TargetConfig
from tailrank.core.errors import RequestError
from tailrank.core.fleet import Fleet
from tailrank.core.service_time import ServiceTimeTable
from tailrank.inference.table_file import ByteProgress
from tailrank.scheduling.policies import POLICIES, PolicyConfig
from tailrank.serving.engine import Engine
from tailrank.serving.engine_config import EngineConfig
from tailrank.serving.model import FeatureFile, ServedModel, open_model, with_tables
from tailrank.serving.stages import Filter


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownTimes:
    """Service times that a policy predicts with, and the door.

    Args:
        table: of one model on one worker.
        file: where it was read.
        is_asked_for: a table of another model is refused; else a few calls are timed in its place.
    """

    table: ServiceTimeTable
    file: Path
    is_asked_for: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSetup:
    """What to serve, and how.

    Args:
        targets: the models of all stages, in their order; the last one scores the answer.
        keeps: of each of the others, how many candidates it passes on.
        files: features of known users and items.
        config: policy, workers, SLA.
        times: of the only model; None: a few calls are timed.
    """

    targets: Sequence[TargetConfig]
    keeps: Sequence[int] = ()
    files: Sequence[FeatureFile] = ()
    config: EngineConfig
    times: KnownTimes | None = None


def open_engine(
    setup: EngineSetup,
    announce: Callable[[str], None] = lambda line: None,
    progress: ByteProgress = lambda done, total: None,
    begin_features: Callable[[], None] = lambda: None,
) -> Engine:
    """Load all models and features; the engine is to be started.

    Args:
        setup: what and how.
        announce: told the memory needed, and what takes a while.
        progress: told the bytes of an artifact's tables read so far, and all.
        begin_features: called when the models are there.

    Raises:
        ConfigError, RequestError, DataError, BackendUnavailable: see `open_model`, `with_tables`.
        RequestError: the service times are those of another model, or missing.
    """
    opened = {each.target: open_model(each, announce, progress) for each in setup.targets}
    begin_features()
    *others, model = with_tables(opened, setup.files, announce)
    filters = [
        Filter(model=each, keep=keep) for each, keep in zip(others, setup.keeps, strict=True)
    ]
    fleet = None
    if setup.times is not None:
        fleet = _fleet(setup.times, model, setup.config.num_workers, announce)
    if not filters:
        check_has_times(setup.config.policy, fleet)
    return Engine(model, setup.config, fleet, filters)


def check_has_times(policy: PolicyConfig, found: object) -> None:
    """Refuse a policy that looks ahead where there is nothing to predict with.

    Raises:
        RequestError: so it is.
    """
    if found is None and POLICIES[policy.policy].needs_sla:
        reason = f"missing; `{policy.policy}` predicts by a table that tailrank profile writes"
        raise RequestError("--profile", reason)


def shown(engine: Engine) -> str:
    """What an engine serves, in words."""
    through = "".join(
        f"{each.model.name} (keeps {each.keep}) and " for each in engine.lineup.filters
    )
    return f"{through}{engine.model.name}, version {engine.model.version}"


def _fleet(
    times: KnownTimes, model: ServedModel, num_workers: int, announce: Callable[[str], None]
) -> Fleet | None:
    """Workers that take as long as is known, if it is known of this model."""
    # Which queries were timed is part of a label; those of clients are not known beforehand.
    if times.table.device.partition(" queries=")[0] == model.profile_label:
        return Fleet.uniform(times.table, num_workers, model=model.name)
    found = f"{times.file} is of {times.table.device}"
    if times.is_asked_for:
        reason = f"{found}; this model needs a profile of {model.profile_label}"
        raise RequestError("--profile", reason)
    announce(f"{found}, not of this model: a few calls are timed instead")
    return None
