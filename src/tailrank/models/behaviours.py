"""What a user did, item by item, beside the candidate: shared by models that read sequences.

A behaviour is one place of all the sequences that tell of the same events (the item, its category,
…); its vector is their rows side by side. A user's sequence is one of them if an item feature
shares its table; that feature is the candidate's part.

Legend: U user rows, B item rows, L behaviours of all users, P pairs of a candidate and a behaviour
of its user, F sparse features, D dim, K = D times the number of sequences.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from tailrank.core.errors import ConfigError
from tailrank.embeddings import Pooled
from tailrank.features import FeatureBatch, FeatureSpec


def matches(spec: FeatureSpec) -> dict[str, int]:
    """The sequences that behaviours are made of, each with the item column that shares its table.

    Raises:
        ConfigError: there are none, or it is not clear which item feature is the candidate's.
    """
    item_tables = [feature.table for feature in spec.sparse("item")]
    found: dict[str, int] = {}
    for feature in spec.sparse("user"):
        if feature.kind != "sequence" or feature.table not in item_tables:
            continue
        if item_tables.count(feature.table) > 1:
            names = [f.name for f in spec.sparse("item") if f.table == feature.table]
            allowed = f"one item feature of {feature.table}, the candidate for {feature.name}"
            raise ConfigError("features", names, allowed)
        found[feature.name] = item_tables.index(feature.table)
    if not found:
        names = [f"{f.name} ({f.side} {f.kind})" for f in spec.features]
        allowed = "a sequence of the user's side that shares its table with an item feature"
        raise ConfigError("features", names, allowed)
    return found


class Behaviours(NamedTuple):
    """Behaviours of all users, and what they are compared with.

    Args:
        rows_LK: oldest first.
        first_U: of each user's behaviours, int64.
        length_U: their numbers, int64.
        candidate_BK: the candidate items' own vectors.
    """

    rows_LK: Tensor
    first_U: Tensor
    length_U: Tensor
    candidate_BK: Tensor


def behaviours(spec: FeatureSpec, pooled: Pooled, columns: list[int]) -> Behaviours:
    """What a model reads of users and candidates.

    Args:
        spec: the features.
        pooled: holds the sequences of `matches(spec)`, in its order.
        columns: the item columns of `matches(spec)`.

    Raises:
        ConfigError: sequences of one user are not of one length.
    """
    first, *others = pooled.user_sequences
    for number, other in enumerate(others, start=1):
        # An exported graph cannot refuse them: there, whoever makes its inputs has to see to it.
        if not torch.compiler.is_exporting() and not torch.equal(other.offsets, first.offsets):
            user = int((other.offsets.diff() != first.offsets.diff()).nonzero()[0])
            names = list(matches(spec))
            lengths = [int(s.offsets[user + 1] - s.offsets[user]) for s in (first, other)]
            field = f"{names[number]} (user row {user}).length"
            raise ConfigError(field, lengths[1], f"{lengths[0]}, as {names[0]} has there")
    return Behaviours(
        rows_LK=torch.cat([sequence.rows_LD for sequence in pooled.user_sequences], dim=1),
        first_U=first.offsets[:-1],
        length_U=first.offsets.diff(),
        candidate_BK=torch.cat([pooled.item_BFD[:, column] for column in columns], dim=1),
    )


def top_inputs(batch: FeatureBatch, pooled: Pooled, *interests_BN: Tensor) -> tuple[Tensor, Tensor]:
    """What an MLP on top takes of users, (U, N), and of items, (B, N), side by side.

    Args:
        batch: its dense features come last.
        pooled: embeddings.
        interests_BN: what was made of the behaviours for each candidate.
    """
    user_UN = torch.cat([pooled.user_UFD.flatten(1), batch.user.dense_RN], dim=1)
    parts = (*interests_BN, pooled.item_BFD.flatten(1), batch.item.dense_RN)
    return user_UN, torch.cat(parts, dim=1)


def top_widths(spec: FeatureSpec, unpooled: int, interest: int) -> tuple[int, int]:
    """The widths of `top_inputs`.

    Args:
        spec: the features.
        unpooled: how many of the user's sequences are not pooled.
        interest: numbers made of the behaviours for each candidate.
    """
    dim = spec.tables[0].embedding_dim
    return (
        dim * (len(spec.sparse("user")) - unpooled) + spec.dense_width("user"),
        dim * len(spec.sparse("item")) + spec.dense_width("item") + interest,
    )
