"""What is profiled, tuned and served: an artifact or a preset, loaded, with queries to ask it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch

from tailrank.characterization.payloads import (
    UNIFORM_IDS,
    QueryPool,
    batch_runner,
    ids_per_item,
)
from tailrank.core.errors import ConfigError, RequestError
from tailrank.core.fleet import CPU
from tailrank.data.dataset import Dataset
from tailrank.features import FeatureSpec
from tailrank.inference import Ranker, load
from tailrank.inference.artifact import ArtifactRecord, read_record
from tailrank.inference.precision import Precision
from tailrank.inference.ranker import DEVICES, bytes_needed, random_rankers
from tailrank.inference.table_file import ByteProgress
from tailrank.models import ModelConfig
from tailrank.models.memory import format_bytes
from tailrank.models.presets import load_preset
from tailrank.runtime.ports import RunBatch
from tailrank.workload.index_traces import parse_index_trace

PRESET_PREFIX = "preset:"


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetConfig:
    """Which model to load, and how.

    Args:
        target: folder of an artifact, or `preset:NAME`.
        scale: factor on a preset's rows.
        user_tables: a preset's tables on the user side; None: as the preset says.
        precision: a preset's number formats; an artifact brings its own, so None there.
        data: the data set whose rows are the queries; None: random rows.
        ids: locality of the ids of random rows, see `parse_index_trace`.
        seed: of a preset's weights and of the query pool.
        devices: what is to score, from `inference.DEVICES`, each once.
    """

    target: str
    scale: float = 1.0
    user_tables: int | None = None
    precision: Precision | None = None
    data: str | None = None
    ids: str = UNIFORM_IDS.spec
    seed: int = 0
    devices: tuple[str, ...] = (CPU,)

    def __post_init__(self) -> None:
        if not self.devices or len(set(self.devices)) < len(self.devices):
            raise ConfigError("devices", self.devices, f"{', '.join(DEVICES)}, each once")
        parse_index_trace(self.ids)
        if self.data is not None and self.ids != UNIFORM_IDS.spec:
            raise RequestError("--ids", "the rows of --data bring their own ids; leave one out")
        if self.target.startswith(PRESET_PREFIX):
            if self.data is not None:
                raise RequestError("--data", "a preset was trained on no data; leave it out")
            return
        for name, value, default in (
            ("--scale", self.scale, 1.0),
            ("--user-tables", self.user_tables, None),
            ("--precision", self.precision, None),
        ):
            if value != default:
                raise RequestError(name, "a trained model brings its own; leave it out")


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A loaded model and the queries to ask it.

    Args:
        name: of the preset or the artifact's folder.
        spec: its features.
        ranker: the model, on the device that computes where no other is asked for.
        pool: rows to make queries of.
        queries: where they come from: `random`, with the ids if not uniform, or the text that names
            a data set.
        rows_label: stands for those rows in `profile_label`; None: random rows of uniform ids.
        others: the same model on further devices, by name.
    """

    name: str
    spec: FeatureSpec
    ranker: Ranker
    pool: QueryPool
    queries: str = "random"
    rows_label: str | None = None
    others: Mapping[str, Ranker] = field(default_factory=dict)

    @property
    def rankers(self) -> dict[str, Ranker]:
        """The model by device."""
        return {self.ranker.device: self.ranker, **self.others}

    @property
    def run_batch(self) -> RunBatch:
        """What a worker does with a batch."""
        return batch_runner(self.ranker, self.pool)

    def run_batch_on(self, devices: Sequence[str]) -> RunBatch:
        """What workers do whose slots are of these devices.

        Raises:
            ConfigError: the model was not loaded for one of them.
        """
        rankers = self.rankers
        for device in devices:
            if device not in rankers:
                raise ConfigError("devices", device, f"those of {self.name}: {', '.join(rankers)}")
        runners = [batch_runner(rankers[device], self.pool) for device in devices]
        return lambda batch: runners[batch.slot](batch)

    @property
    def ids_per_item(self) -> float:
        """Ids of a query per item."""
        return ids_per_item(self.spec)

    @property
    def profile_label(self) -> str:
        """What a service-time table of this target is good for, on its first device."""
        return self.profile_label_on(self.ranker.device)

    def profile_label_on(self, device: str) -> str:
        """What a service-time table of this target on one of its devices is good for.

        This model, sizes, precision and queries: popular ids are in cache, and histories vary.
        """
        label = profile_label(self.name, self.spec, self.rankers[device])
        return label if self.rows_label is None else f"{label} queries={self.rows_label}"

    def describe(self) -> dict[str, object]:
        """What was chosen, for the result file; the papers' setting is no user table."""
        num_user = len(self.spec.sparse("user"))
        return {
            "name": self.name,
            "user_tables": num_user,
            "queries": self.queries,
            **self.ranker.describe(),
        }


class LoadedModel(NamedTuple):
    """What `config.target` names, loaded.

    Args:
        name: of the preset or the artifact's folder.
        config: architecture and sizes.
        record: what the artifact says of itself; None: a preset.
        rankers: by device.
    """

    name: str
    config: ModelConfig
    record: ArtifactRecord | None
    rankers: Mapping[str, Ranker]


def load_rankers(
    config: TargetConfig,
    announce: Callable[[str], None],
    progress: ByteProgress = lambda done, total: None,
) -> LoadedModel:
    """Load what is to be asked, onto huge pages; see `open_target`."""
    if config.target.startswith(PRESET_PREFIX):
        name = config.target.removeprefix(PRESET_PREFIX)
        model: ModelConfig = load_preset(name, scale=config.scale, user_tables=config.user_tables)
        precision = config.precision or Precision()
        announce(_memory_line(name, bytes_needed(model, precision), precision))
        rankers = random_rankers(model, config.devices, seed=config.seed, precision=precision)
        return LoadedModel(name, model, None, rankers)
    path = Path(config.target)
    record = read_record(path)
    name, model, precision = path.name, record.config, record.precision
    announce(_memory_line(name, bytes_needed(model, precision), precision))
    rankers = {at: load(path, device=at, progress=progress)[0] for at in config.devices}
    return LoadedModel(name, model, record, rankers)


def profile_label(name: str, spec: FeatureSpec, ranker: Ranker) -> str:
    """What a service-time table of this model is good for, whatever its queries."""
    rows = sum(table.num_embeddings for table in spec.tables)
    return (
        f"{ranker.device} {name} rows={rows} user_tables={len(spec.sparse('user'))} "
        f"precision={ranker.describe().get('precision', 'fp32')}"
    )


def open_target(
    config: TargetConfig,
    announce: Callable[[str], None],
    dataset: Dataset | None = None,
    progress: ByteProgress = lambda done, total: None,
) -> Target:
    """Load a target onto huge pages.

    Args:
        config: which one.
        announce: told the memory needed, before it is allocated.
        dataset: what `config.data` names, read as the artifact was trained on it.
        progress: told the bytes of an artifact's tables read so far, and all.

    Raises:
        ConfigError: unknown preset.
        RequestError: it does not fit into memory.
        DataError: missing or damaged artifact.
        BackendUnavailable: this host has no such device, or cannot run its precision.
    """
    loaded = load_rankers(config, announce, progress)
    spec, rankers = loaded.config.spec, loaded.rankers
    assert (dataset is None) == (config.data is None), "the data set that the config names"
    if dataset is None:
        ids = parse_index_trace(config.ids)
        pool = QueryPool.random(spec, config.seed, ids)
        uniform = ids.spec == UNIFORM_IDS.spec
        queries, label = ("random", None) if uniform else (f"random, ids {ids.spec}", ids.spec)
    else:
        pool = QueryPool.from_dataset(dataset, config.seed)
        queries, label = str(config.data), f"{dataset.name}-{dataset.fingerprint[:8]}"
    first, *others = config.devices
    return Target(
        name=loaded.name,
        spec=spec,
        ranker=rankers[first],
        others={device: rankers[device] for device in others},
        pool=pool,
        queries=queries,
        rows_label=label,
    )


def initialise_worker(slot: int) -> None:
    """Set up a worker thread: one core runs one worker, and takes subnormal numbers for 0.

    Both are settings of a thread. Operations with subnormal numbers take Intel's cores 150 cycles.
    """
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)


def _memory_line(name: str, num_bytes: int, precision: Precision) -> str:
    """The line that tells what is about to be allocated."""
    return f"{name}: {format_bytes(num_bytes)} of tables in {precision.rows}, on huge pages"
