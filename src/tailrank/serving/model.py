"""What is served: a ranker, how requests become its features, and which version it is.

Knows no protocol and no queue.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import median

import torch

from tailrank.characterization.payloads import ids_per_item, random_side
from tailrank.characterization.target import (
    PRESET_PREFIX,
    LoadedModel,
    TargetConfig,
    load_rankers,
    profile_label,
)
from tailrank.core.errors import DataError, RequestError
from tailrank.data.fitted_encoder import open_encoder
from tailrank.data.row_encoder import CategoryColumn, NumberColumns, RowEncoder, row_ids
from tailrank.features import SIDES, FeatureBatch, FeatureSpec, Side
from tailrank.inference import Ranker
from tailrank.inference.artifact import MODEL_FILE, read_record
from tailrank.inference.precision import Precision
from tailrank.inference.table_file import ByteProgress
from tailrank.models.registry import config_to_dict
from tailrank.serving.feature_files import open_feature_table
from tailrank.serving.feature_tables import FeatureTable

Source = CategoryColumn | NumberColumns
_VERSION_DIGITS = 12
_TIMED_CALLS = 7
_TRIAL_ITEMS = 64


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ServedModel:
    """A model that can be asked.

    Args:
        name: of the preset or the artifact's folder.
        version: digest of the artifact; of a preset, of what its weights are drawn from.
        spec: its features.
        tasks: what it predicts, in the order of its scores.
        ranker: scores.
        encoder: makes features of raw values.
        table_bytes: memory of the embedding tables.
        tables: features of known users or items, by side.

    Attributes:
        ids_per_item: ids of a query per item, as service-time tables count them.
    """

    name: str
    version: str
    spec: FeatureSpec
    tasks: tuple[str, ...]
    ranker: Ranker
    encoder: RowEncoder
    table_bytes: int
    tables: Mapping[Side, FeatureTable] = field(default_factory=dict)
    ids_per_item: float = field(init=False)

    def __post_init__(self) -> None:
        # Once: every query needs it.
        object.__setattr__(self, "ids_per_item", ids_per_item(self.spec))

    @property
    def profile_label(self) -> str:
        """What a service-time table of this model says that it is of."""
        return profile_label(self.name, self.spec, self.ranker)

    def random_query(self, num_items: int, seed: int) -> FeatureBatch:
        """Features of one user and so many items, drawn at random."""
        generator = torch.Generator().manual_seed(seed)
        return FeatureBatch(
            user=random_side(self.spec, "user", 1, generator),
            item=random_side(self.spec, "item", num_items, generator),
            item_to_user_B=torch.zeros(num_items, dtype=torch.int64),
        )

    def time_ns(self, num_items: int) -> int:
        """Median service time of so many items on the calling thread; warms the ranker up, too."""
        times = []
        for seed in range(_TIMED_CALLS):
            query = self.random_query(num_items, seed)
            started = time.perf_counter_ns()
            self.ranker.rank(query)
            times.append(time.perf_counter_ns() - started)
        return round(median(times[1:]))


def open_model(
    config: TargetConfig,
    announce: Callable[[str], None],
    progress: ByteProgress = lambda done, total: None,
) -> ServedModel:
    """Load what `config` names, ready to be asked.

    Args:
        config: an artifact or a preset, whose weights are random.
        announce: told the memory needed, before it is allocated.
        progress: told the bytes of an artifact's tables read so far, and all.

    Raises:
        ConfigError: unknown preset.
        RequestError: it does not fit into memory, or does not score with numbers.
        DataError: missing or damaged artifact.
        BackendUnavailable: this host cannot run its precision.
    """
    loaded = load_rankers(config, announce, progress)
    (ranker,) = loaded.rankers.values()
    spec = loaded.config.spec
    if loaded.record is None:
        encoder = row_ids(spec)
    else:
        encoder = open_encoder(Path(config.target), spec, loaded.record.training)
    table_bytes = ranker.describe().get("table_bytes")
    model = ServedModel(
        name=loaded.name,
        version=_version(config, loaded),
        spec=spec,
        tasks=tuple(getattr(loaded.config, "tasks", ("label",))),
        ranker=ranker,
        encoder=encoder,
        table_bytes=table_bytes if isinstance(table_bytes, int) else spec.table_bytes,
    )
    check_scores(model)
    return model


def check_scores(model: ServedModel) -> None:
    """Refuse a model that cannot score: of features that are sound, scores are numbers.

    Raises:
        RequestError: those of random items are none.
        Exception: what the ranker raised.
    """
    scores = model.ranker.rank(model.random_query(_TRIAL_ITEMS, seed=0))
    if not bool(torch.isfinite(scores).all()):
        raise RequestError(model.name, "scores random items with what is no number")


def check_takes_over(new: ServedModel, served: ServedModel) -> None:
    """Refuse a model that could not answer all that another is asked.

    Raises:
        RequestError: it has other features or tasks, or takes fewer values; or it scores random
            items with what is no number.
    """
    if new.tasks != served.tasks:
        reason = f"predicts {', '.join(new.tasks)}; what serves predicts {', '.join(served.tasks)}"
        raise RequestError(served.name, reason)
    for side in SIDES:
        wanted, had = new.encoder.columns[side], served.encoder.columns[side]
        changes = [
            f"{what} {', '.join(map(repr, sorted(names)))}"
            for what, names in (("lacks", had.keys() - wanted), ("asks for", wanted.keys() - had))
            if names
        ]
        if changes:
            reason = f"of the {side} features that serve, it {' and '.join(changes)}"
            raise RequestError(served.name, reason)
        for name, source in wanted.items():
            if not _takes_all_of(source, had[name]):
                reason = f"takes {source.allowed}; what serves takes {had[name].allowed}"
                raise RequestError(f"{served.name}: {side} feature {name!r}", reason)
    check_scores(new)


def _takes_all_of(new: Source, served: Source) -> bool:
    """Whether every value that one column takes is a value of another one."""
    if isinstance(new, NumberColumns) and isinstance(served, NumberColumns):
        widths = [one.width if len(one.columns) < one.width else None for one in (new, served)]
        return widths[0] == widths[1] and (new.optional or not served.optional)
    if isinstance(new, NumberColumns) or isinstance(served, NumberColumns):
        return False
    if (new.takes_arrays, new.separator) != (served.takes_arrays, served.separator):
        return False
    if new.num_values is None or served.num_values is None:
        return new.num_values is None
    return new.num_values >= served.num_values


def check_gate(path: Path) -> None:
    """Refuse an artifact of reduced precision that passed no quality gate.

    Raises:
        DataError: so it is, or there is no artifact.
    """
    record = read_record(path)
    if record.precision == Precision():
        return
    drop, allowed = (record.quality_gate.get(key) for key in ("auc_drop_fraction", "max_auc_drop"))
    if drop is None or allowed is None:
        reason = f"in {record.precision} without a quality gate; tailrank export has one"
        raise DataError(path / MODEL_FILE, reason)
    if not drop <= allowed:
        reason = f"its quality gate allows an AUC drop of {allowed:.4%}, and it drops {drop:.4%}"
        raise DataError(path / MODEL_FILE, reason)


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureFile:
    """A Parquet file of features.

    Args:
        side: of users or of items.
        path: where it is.
        id_column: its column of ids; None: the first.
    """

    side: Side
    path: Path
    id_column: str | None = None


def with_tables(
    models: Mapping[str, ServedModel],
    files: Sequence[FeatureFile],
    announce: Callable[[str], None],
) -> list[ServedModel]:
    """Models with the features of known users and items; see `open_feature_table`.

    Args:
        models: by what they were loaded from. The encoded files are kept beside that; those of a
            preset beside the Parquet file.
        files: at most one of a side.
        announce: told what takes a while.

    Raises:
        RequestError: no model has features of that side.
        ConfigError, DataError: a file cannot be used.
    """
    for file in files:
        if not any(model.encoder.columns[file.side] for model in models.values()):
            reason = f"the model has no {file.side} features; leave it out"
            raise RequestError(f"--{file.side}-features", reason)
    return [
        replace(
            model,
            tables={
                file.side: open_feature_table(
                    file.path,
                    file.side,
                    spec=model.spec,
                    encoder=model.encoder,
                    version=model.version,
                    cache=_cache(target, file.path),
                    id_column=file.id_column,
                    announce=announce,
                )
                for file in files
                if model.encoder.columns[file.side]
            },
        )
        for target, model in models.items()
    ]


def _cache(target: str, file: Path) -> Path:
    """The folder for the encoded rows of a file."""
    beside = file if target.startswith(PRESET_PREFIX) else Path(target).resolve()
    return beside.with_name(f"{beside.name}.tables")


def _version(config: TargetConfig, loaded: LoadedModel) -> str:
    """The first digits of a digest: same version, same scores."""
    if loaded.record is not None:
        # It holds the digests of all other files.
        content = (Path(config.target) / MODEL_FILE).read_bytes()
    else:
        precision = None if config.precision is None else asdict(config.precision)
        record = [config_to_dict(loaded.config), precision, config.seed]
        content = json.dumps(record).encode()
    return hashlib.sha256(content).hexdigest()[:_VERSION_DIGITS]
