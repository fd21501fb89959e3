"""Number formats of an artifact, chosen at export and nowhere else."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

import torch

from tailrank.core.errors import ConfigError
from tailrank.models import RankingModel

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True, slots=True, kw_only=True)
class Precision:
    """Formats of the embedding rows and of the dense layers: `fp32` or `bf16` each."""

    rows: str = "fp32"
    dense: str = "fp32"

    def __post_init__(self) -> None:
        for field in ("rows", "dense"):
            if getattr(self, field) not in DTYPES:
                raise ConfigError(f"precision.{field}", getattr(self, field), "fp32 or bf16")

    @classmethod
    def parse(cls, text: str) -> Precision:
        """Read `bf16` (both) or `rows=bf16,dense=fp32` (either may be left out: fp32).

        Raises:
            ConfigError: another form, or an unknown format.
        """
        if text in DTYPES:
            return cls(rows=text, dense=text)
        result = cls()
        for item in text.split(","):
            field, _, value = item.partition("=")
            if field not in ("rows", "dense") or value not in DTYPES:
                allowed = "fp32, bf16, or a mix such as rows=bf16,dense=fp32"
                raise ConfigError("--precision", text, allowed)
            result = replace(result, **{field: value})
        return result

    @property
    def row_bytes_fraction(self) -> float:
        """Bytes of a row as a fraction of its fp32 bytes."""
        return DTYPES[self.rows].itemsize / 4

    def to_dict(self) -> dict[str, str]:
        """A JSON-ready record."""
        return asdict(self)

    def __str__(self) -> str:
        return self.rows if self.rows == self.dense else f"rows={self.rows},dense={self.dense}"


def round_weights(model: RankingModel, precision: Precision) -> None:
    """Give the fp32 weights of `model`, in place, the values that `precision` can hold."""
    for parameter in model.dense_parameters():
        parameter.data.copy_(parameter.data.to(DTYPES[precision.dense]))
    rows_VD = model.tables.weight_VD.data
    rows_VD.copy_(rows_VD.to(DTYPES[precision.rows]))
