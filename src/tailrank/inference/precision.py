"""Number formats of an artifact, chosen at export and nowhere else."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, get_args

from tailrank.core.errors import ConfigError
from tailrank.kernels.dense import DenseFormat
from tailrank.kernels.row_formats import ROW_FORMATS, RowFormat

DENSE_FORMATS: tuple[DenseFormat, ...] = get_args(DenseFormat)


@dataclass(frozen=True, slots=True, kw_only=True)
class Precision:
    """Formats of the embedding rows and of the dense layers."""

    rows: RowFormat = "fp32"
    dense: DenseFormat = "fp32"

    def __post_init__(self) -> None:
        for field, formats in (("rows", ROW_FORMATS), ("dense", DENSE_FORMATS)):
            if getattr(self, field) not in formats:
                raise ConfigError(f"precision.{field}", getattr(self, field), " or ".join(formats))

    @classmethod
    def parse(cls, text: str, *, also: str = "") -> Precision:
        """Read `bf16` (both) or `rows=int8,dense=bf16` (either may be left out: fp32).

        Args:
            text: what the user asked for.
            also: what else the setting takes and its verb reads itself, for the error.

        Raises:
            ConfigError: another form, or an unknown format.
        """
        if text in ROW_FORMATS and text in DENSE_FORMATS:
            return cls(rows=text, dense=text)
        allowed = {"rows": ROW_FORMATS, "dense": DENSE_FORMATS}
        found: dict[str, Any] = {}
        for item in text.split(","):
            field, _, value = item.partition("=")
            if field in found or value not in allowed.get(field, ()):
                both = [name for name in ROW_FORMATS if name in DENSE_FORMATS]
                mixes = ", ".join(f"{field}={'|'.join(names)}" for field, names in allowed.items())
                raise ConfigError(
                    "--precision", text, f"{', '.join(both)}, or a mix of {mixes}{also}"
                )
            found[field] = value
        return cls(**found)

    def to_dict(self) -> dict[str, str]:
        """A JSON-ready record."""
        return asdict(self)

    def __str__(self) -> str:
        return self.rows if self.rows == self.dense else f"rows={self.rows},dense={self.dense}"
