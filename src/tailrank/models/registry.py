"""Which architectures there are, and how each is built and recorded.

To add one: a file beside this one, and a line in `_ARCHITECTURES`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import torch

from tailrank.core.errors import ConfigError, RequestError
from tailrank.features import FeatureSpec
from tailrank.models.dcn_v2 import DCNv2, DCNv2Config
from tailrank.models.deepfm import DeepFM, DeepFMConfig
from tailrank.models.dien import DIEN, DIENConfig
from tailrank.models.din import DIN, DINConfig
from tailrank.models.dlrm import DLRM, DLRMConfig
from tailrank.models.factorization_machine import FactorizationMachine, FactorizationMachineConfig
from tailrank.models.logistic_regression import LogisticRegression, LogisticRegressionConfig
from tailrank.models.matrix_factorization import MatrixFactorization, MatrixFactorizationConfig
from tailrank.models.mean_pooling import MeanPooling, MeanPoolingConfig
from tailrank.models.mt_wide_and_deep import MultiTaskWideAndDeep, MultiTaskWideAndDeepConfig
from tailrank.models.ncf import NCF, NCFConfig
from tailrank.models.ranking_model import ModelConfig, RankingModel
from tailrank.models.sizes import read_size, size_types
from tailrank.models.wide_and_deep import WideAndDeep, WideAndDeepConfig


class _Architecture(NamedTuple):
    """A config class and the model that it describes."""

    config: Any
    model: Callable[[Any, torch.Generator | None], RankingModel]


_ARCHITECTURES: dict[str, _Architecture] = {
    "logistic_regression": _Architecture(LogisticRegressionConfig, LogisticRegression),
    "matrix_factorization": _Architecture(MatrixFactorizationConfig, MatrixFactorization),
    "factorization_machine": _Architecture(FactorizationMachineConfig, FactorizationMachine),
    "wide_and_deep": _Architecture(WideAndDeepConfig, WideAndDeep),
    "mt_wide_and_deep": _Architecture(MultiTaskWideAndDeepConfig, MultiTaskWideAndDeep),
    "ncf": _Architecture(NCFConfig, NCF),
    "deepfm": _Architecture(DeepFMConfig, DeepFM),
    "dcn_v2": _Architecture(DCNv2Config, DCNv2),
    "dlrm": _Architecture(DLRMConfig, DLRM),
    "mean_pooling": _Architecture(MeanPoolingConfig, MeanPooling),
    "din": _Architecture(DINConfig, DIN),
    "dien": _Architecture(DIENConfig, DIEN),
}


def architecture_names() -> list[str]:
    """Names of all architectures."""
    return list(_ARCHITECTURES)


def size_names(architecture: str) -> list[str]:
    """The sizes of an architecture that a person chooses: the keywords of its `for_spec`.

    Raises:
        ConfigError: unknown architecture.
    """
    return list(size_types(_architecture(architecture).config.for_spec))


def size_from_text(architecture: str, name: str, text: str, flag: str) -> Any:
    """The size `name` of an architecture from what was given with `flag`.

    Raises:
        ConfigError: unknown architecture or size, or a value of another type.
    """
    _check_sizes(architecture, {name: text}, flag)
    return read_size(flag, text, size_types(_architecture(architecture).config.for_spec)[name])


def sizes_from_text(
    architecture: str, settings: Sequence[str] | None, **flags: str | None
) -> dict[str, Any]:
    """Sizes from `--size NAME=VALUE`, and from flags of their own, None where not given.

    Raises:
        ConfigError: unknown architecture or size, a value of another type, or a size given twice.
    """
    own = [(name, text) for name, text in flags.items() if text is not None]
    given = [(name, text, "--" + name.replace("_", "-")) for name, text in own]
    for setting in settings or ():
        name, equals, text = setting.partition("=")
        if not equals:
            raise ConfigError("--size", setting, "NAME=VALUE, as in top_mlp=512-256")
        given.append((name, text, f"--size {name}"))
    sizes: dict[str, Any] = {}
    for name, text, flag in given:
        if name in sizes:
            raise ConfigError(flag, text, "each size once")
        sizes[name] = size_from_text(architecture, name, text, flag)
    return sizes


def config_for(
    architecture: str,
    spec: FeatureSpec,
    sizes: Mapping[str, Any],
    tasks: tuple[str, ...] = ("label",),
) -> ModelConfig:
    """The config of an architecture for these features and tasks.

    Raises:
        ConfigError: unknown architecture or size, or features that it has no use for.
        RequestError: there are several tasks, and it predicts one.
    """
    _check_sizes(architecture, sizes)
    for_spec = _architecture(architecture).config.for_spec
    several = "tasks" in inspect.signature(for_spec).parameters
    if len(tasks) > 1 and not several:
        reason = f"{architecture} predicts one task, and the data have {', '.join(tasks)}; name one"
        raise RequestError("--tasks", reason)
    config: ModelConfig = for_spec(spec, *((tasks,) if several else ()), **sizes)
    return config


def _check_sizes(architecture: str, sizes: Mapping[str, Any], flag: str | None = None) -> None:
    """Refuse names that are no sizes of the architecture."""
    known = size_names(architecture)
    for name in sizes:
        if name not in known:
            allowed = f"sizes of {architecture}: {', '.join(known) or 'it has none'}"
            raise ConfigError(flag or "--" + name.replace("_", "-"), sizes[name], allowed)


def architecture_of(config: ModelConfig) -> str:
    """The registered name of a config's architecture."""
    return next(name for name, entry in _ARCHITECTURES.items() if type(config) is entry.config)


def build_model(config: ModelConfig, seed: int | None) -> RankingModel:
    """A model with weights drawn from `seed`, or zeros with `seed=None` (weights follow)."""
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    return _ARCHITECTURES[architecture_of(config)].model(config, generator)


def num_dense_parameters(config: ModelConfig) -> int:
    """Numbers outside the tables, counted without allocating any."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in build_model(config, None).dense_parameters())


def lookup_spec(config: ModelConfig) -> FeatureSpec:
    """Features and tables of the model, those that it derives itself included."""
    with torch.device("meta"):
        return build_model(config, None).tables.spec


def config_to_dict(config: ModelConfig) -> dict[str, Any]:
    """A JSON-ready record."""
    record: dict[str, Any] = asdict(config)  # type: ignore[call-overload]  # each is a dataclass
    return {"architecture": architecture_of(config), **record, "spec": config.spec.to_dict()}


def config_from_dict(record: dict[str, Any]) -> ModelConfig:
    """Read what `config_to_dict` wrote.

    Raises:
        ConfigError: unknown architecture, unknown or missing size.
    """
    sizes = dict(record)
    entry = _architecture(sizes.pop("architecture", None))
    try:
        spec = FeatureSpec.from_dict(sizes.pop("spec"))
        config: ModelConfig = entry.config(
            spec=spec, **{name: _as_tuples(value) for name, value in sizes.items()}
        )
    except (KeyError, TypeError) as error:
        raise ConfigError("model", str(error), "the fields of a recorded model") from None
    return config


def _as_tuples(value: Any) -> Any:
    """What JSON made lists of."""
    return tuple(map(_as_tuples, value)) if isinstance(value, list) else value


def _architecture(name: str | None) -> _Architecture:
    """The architecture of that name."""
    if name not in _ARCHITECTURES:
        raise ConfigError("architecture", name, f"one of {sorted(_ARCHITECTURES)}")
    return _ARCHITECTURES[name]
