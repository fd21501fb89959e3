"""A batch and its scores at fixed places: sizes rounded up to buckets, one block each way.

A CUDA graph reads and writes the same addresses in every run, so a batch is copied to where its
graph looks, in one transfer, and so are its scores back. Rows that fill a bucket up have empty bags
and belong to user 0; their scores are thrown away. Works on any device; knows no stream, no graph
and no model.

Legend: U user rows, B item rows, R rows of a side, F sparse features, N dense width, L ids of both
sides, the user's first.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from tailrank.core.errors import ConfigError
from tailrank.features import SIDES, FeatureBatch, FeatureSpec, Side, SideFeatures
from tailrank.kernels.cuda import NO_FAULT

_ALIGNMENT_BYTES = 128
_FAULT_BYTES = 4 * torch.int64.itemsize
# From here on a bucket may be 1.25, 1.5 or 1.75 times a power of two: dense layers work on the
# rows that fill it up too.
_FINE_BUCKETS_FROM = 32


def bucket(count: int) -> int:
    """The smallest power of two that holds `count`; 1 for 0."""
    return 1 << max(count - 1, 0).bit_length()


def fine_bucket(count: int) -> int:
    """As `bucket`, with quarters of a power of two from 32 on: at most a fifth is filled up."""
    if count <= _FINE_BUCKETS_FROM:
        return bucket(count)
    quarter = bucket(count) // 8
    return -(-count // quarter) * quarter


@dataclass(frozen=True, slots=True)
class BatchShape:
    """What batches that share one graph have in common: room for so many, and whether weighted."""

    users: int
    items: int
    ids: int
    weighted: bool = False

    @classmethod
    def holding(cls, batch: FeatureBatch) -> BatchShape:
        """The smallest shape with room for `batch`, and for one of each at least."""
        weighted = batch.user.weights_L is not None or batch.item.weights_L is not None
        users, items = bucket(batch.num_users), fine_bucket(batch.num_items)
        return cls(users, items, bucket(batch.num_ids), weighted)

    def rows(self, side: Side) -> int:
        """U or B."""
        return self.users if side == "user" else self.items


class _Section(NamedTuple):
    """Where in a block some numbers are."""

    dtype: torch.dtype
    size: tuple[int, ...]
    first_byte: int

    @property
    def num_bytes(self) -> int:
        """Of the numbers alone."""
        return self.dtype.itemsize * math.prod(self.size)

    def view(self, block: Tensor) -> Tensor:
        """The numbers."""
        end = self.first_byte + self.num_bytes
        return block[self.first_byte : end].view(self.dtype).view(self.size)


class Faults(NamedTuple):
    """What a run found wrong with one side of its batch; None where nothing was.

    Args:
        bag: the first whose offsets do not rise.
        position: of the first id outside its table, among the ids of both sides.
    """

    bag: int | None
    position: int | None


class StaticBatch:
    """Room for batches of one shape on `device`, and the memory that they are sent from.

    It starts as a sound batch: of zeros, with empty bags.

    Args:
        spec: the features.
        shape: how much room.
        device: where the batch is scored.

    Attributes:
        features: the batch on the device. Its sides share `ids_L`, into which the offsets of both
            point; values behind the last bag mean nothing.
    """

    def __init__(self, spec: FeatureSpec, shape: BatchShape, device: torch.device) -> None:
        self._spec, self._sections = spec, _layout(spec, shape)
        last = list(self._sections.values())[-1]
        self._host_block = _block(last.first_byte + last.num_bytes, torch.device("cpu"), device)
        self._device_block = _block(len(self._host_block), device)
        self._host = {name: s.view(self._host_block) for name, s in self._sections.items()}
        on_device = {name: s.view(self._device_block) for name, s in self._sections.items()}
        user, item = (
            SideFeatures(
                dense_RN=on_device[f"{side} dense_RN"],
                values_L=on_device["ids_L"],
                offsets=on_device[f"{side} offsets"],
                weights_L=on_device.get("weights_L"),
            )
            for side in SIDES
        )
        to_user_B = on_device["item_to_user_B"]
        self.features = FeatureBatch(user=user, item=item, item_to_user_B=to_user_B)

    @property
    def num_bytes(self) -> int:
        """On the host, and as many on the device."""
        return len(self._host_block)

    def send(self, batch: FeatureBatch) -> None:
        """Pack `batch`, which fits the shape, and start its transfer on the current stream.

        Raises:
            ConfigError: tensors that do not fit the features; ids and the offsets between the first
                and the last are not looked at.
        """
        self._fill_side(batch.user, "user", 0)
        self._fill_side(batch.item, "item", batch.user.num_ids)
        to_user_B = self._host["item_to_user_B"]
        to_user_B[: batch.num_items] = _checked_users(batch)
        to_user_B[batch.num_items :] = 0
        used = self._sections["ids_L"].first_byte + batch.num_ids * torch.int64.itemsize
        if "weights_L" in self._host:
            used = len(self._host_block)
        self._device_block[:used].copy_(self._host_block[:used], non_blocking=True)

    def _fill_side(self, features: SideFeatures, side: Side, first_id: int) -> None:
        """Pack one side, whose ids begin at `first_id`."""
        _check_side(features, side, self._spec)
        host, last_id = self._host, first_id + features.num_ids
        host[f"{side} dense_RN"][: features.num_rows] = features.dense_RN
        offsets, count = host[f"{side} offsets"], features.offsets.shape[0]
        torch.add(features.offsets, first_id, out=offsets[:count])
        offsets[count:] = last_id
        host["ids_L"][first_id:last_id] = features.values_L
        if "weights_L" in host:
            given = features.weights_L
            host["weights_L"][first_id:last_id] = 1.0 if given is None else given


class StaticScores:
    """Where the scores and the faults of one run are written, and where they are fetched to.

    Args:
        items: room for the scores of so many (B).
        tasks: scores of each item (T).
        device: where the batch is scored.

    Attributes:
        scores_BT: float32 on the device.
        faults: on the device, for each side int64 (2,) as `triton_lookup.pooled_lookup` takes them.
    """

    def __init__(self, items: int, tasks: int, device: torch.device) -> None:
        num_bytes = _FAULT_BYTES + items * tasks * torch.float32.itemsize
        self._device_block = _block(num_bytes, device)
        self._host_block = _block(num_bytes, torch.device("cpu"), device)
        self._shape_BT = (items, tasks)
        self.scores_BT = self._device_block[_FAULT_BYTES:].view(torch.float32).view(self._shape_BT)
        self._faults_22 = self._device_block[:_FAULT_BYTES].view(torch.int64).view(2, 2)
        self.faults: dict[Side, Tensor] = dict(zip(SIDES, self._faults_22, strict=True))

    def clear_faults(self) -> None:
        """Nothing is wrong yet."""
        self._faults_22.fill_(NO_FAULT)

    def fetch(self) -> None:
        """Start the transfer of all of it on the current stream."""
        self._host_block.copy_(self._device_block, non_blocking=True)

    def fetched(self, num_items: int) -> tuple[Tensor, dict[Side, Faults]]:
        """Scores of the first so many items, and the faults, once the transfer is done."""
        room_BT = self._host_block[_FAULT_BYTES:].view(torch.float32).view(self._shape_BT)
        scores_BT = room_BT[:num_items].clone()
        words = self._host_block[:_FAULT_BYTES].view(torch.int64).tolist()
        position, bag, item_position, item_bag = (None if w == NO_FAULT else w for w in words)
        return scores_BT, {"user": Faults(bag, position), "item": Faults(item_bag, item_position)}


def _layout(spec: FeatureSpec, shape: BatchShape) -> dict[str, _Section]:
    """What lies where in a block. Ids are the last that every batch has: those unused stay here."""
    wanted: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {}
    for side in SIDES:
        rows = shape.rows(side)
        wanted[f"{side} dense_RN"] = torch.float32, (rows, spec.dense_width(side))
        wanted[f"{side} offsets"] = torch.int64, (rows * len(spec.sparse(side)) + 1,)
    wanted["item_to_user_B"] = torch.int64, (shape.items,)
    wanted["ids_L"] = torch.int64, (shape.ids,)
    if shape.weighted:
        wanted["weights_L"] = torch.float32, (shape.ids,)
    sections, end = {}, 0
    for name, (dtype, size) in wanted.items():
        sections[name] = _Section(dtype, size, -(-end // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES)
        end = sections[name].first_byte + sections[name].num_bytes
    return sections


def _block(num_bytes: int, device: torch.device, other: torch.device | None = None) -> Tensor:
    """Zeros; on the host in pinned memory if the other end of the transfer is a GPU."""
    pinned = other is not None and other.type == "cuda"
    return torch.zeros(num_bytes, dtype=torch.uint8, device=device, pin_memory=pinned)


def _check_side(features: SideFeatures, side: Side, spec: FeatureSpec) -> None:
    """Refuse tensors that packing would convert, repeat or cut off in silence."""
    rows, num_ids, offsets = features.num_rows, features.num_ids, features.offsets
    num_offsets = rows * len(spec.sparse(side)) + 1
    for name, tensor, dtype, shape in (
        ("dense_RN", features.dense_RN, torch.float32, (rows, spec.dense_width(side))),
        ("values_L", features.values_L, torch.int64, (num_ids,)),
        ("offsets", offsets, torch.int64, (num_offsets,)),
        ("weights_L", features.weights_L, torch.float32, (num_ids,)),
    ):
        if tensor is not None and (tensor.dtype is not dtype or tensor.shape != shape):
            given = f"{tensor.dtype} {tuple(tensor.shape)}"
            raise ConfigError(f"{side}.{name}", given, f"{dtype} {shape}")
    for place, right in ((0, 0), (num_offsets - 1, num_ids)):
        if (value := int(offsets[place])) != right:
            raise ConfigError(f"{side}.offsets[{place}]", value, f"rising from 0 to {num_ids}")


def _checked_users(batch: FeatureBatch) -> Tensor:
    """`item_to_user_B`, each of them a row of the user's side: the GPU would stop at another."""
    to_user_B, items, users = batch.item_to_user_B, batch.num_items, batch.num_users
    if to_user_B.dtype is not torch.int64 or to_user_B.shape != (items,):
        given = f"{to_user_B.dtype} {tuple(to_user_B.shape)}"
        raise ConfigError("item_to_user_B", given, f"int64 ({items},)")
    if items:
        low, high = torch.aminmax(to_user_B)
        if int(low) < 0 or int(high) >= users:
            place = int(((to_user_B < 0) | (to_user_B >= users)).nonzero()[0])
            allowed = f"0 to {users - 1}"
            raise ConfigError(f"item_to_user_B[{place}]", int(to_user_B[place]), allowed)
    return to_user_B
