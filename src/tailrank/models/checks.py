"""What several architectures ask of features and sizes. Knows no architecture."""

from __future__ import annotations

from collections.abc import Sequence

from tailrank.core.errors import ConfigError
from tailrank.features import FeatureSpec


def check_bags(spec: FeatureSpec) -> None:
    """Refuse features without categories.

    Raises:
        ConfigError: all are dense.
    """
    if not spec.tables:
        names = [feature.name for feature in spec.features]
        raise ConfigError("features", names, "one or more of categories: these are all dense")


def check_factors(spec: FeatureSpec, num_linear: int = 1) -> None:
    """Refuse tables without room for linear weights, the first columns, and a vector beside them.

    Raises:
        ConfigError: all features are dense, or a table has no column for a vector.
    """
    check_bags(spec)
    for table in spec.tables:
        if table.embedding_dim <= num_linear:
            weights = "a linear weight" if num_linear == 1 else f"{num_linear} linear weights"
            allowed = f"at least {num_linear + 1}: {weights} and one factor"
            raise ConfigError("embedding_dim", table.embedding_dim, allowed)


def check_item_side(spec: FeatureSpec) -> None:
    """Refuse features of users alone, which tell no candidate from another.

    Raises:
        ConfigError: no feature is the item's.
    """
    if not any(feature.side == "item" for feature in spec.features):
        names = [feature.name for feature in spec.features]
        raise ConfigError("features", names, "one or more of the item: these are all the user's")


def check_widths(field: str, widths: Sequence[int], *, last: int) -> None:
    """Refuse widths that are no layers, or end in another width than `last`.

    Raises:
        ConfigError: says so with the name of the field.
    """
    if not widths or widths[-1] != last or min(widths) < 1:
        raise ConfigError(field, widths, f"positive widths of which the last is {last}")
