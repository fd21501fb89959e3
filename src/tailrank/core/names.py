"""Names that metrics and features can have, made of what people call things."""

from __future__ import annotations

import re
from collections.abc import Iterable


def percentile_name(percentile: float) -> str:
    """A percentile inside a metric's name: `p95`, `p99_9`; a dot there ends a subject."""
    return f"p{percentile:g}".replace(".", "_")


def plain_names(texts: Iterable[str], kind: str) -> dict[str, str]:
    """A name for each text: lower case letters, digits and _, each name once.

    Args:
        texts: all different.
        kind: what a text without a letter or digit is called, with its number.
    """
    names: dict[str, str] = {}
    for index, text in enumerate(texts, start=1):
        plain = re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_") or f"{kind}_{index}"
        name, number = plain, index
        while name in names.values():
            name, number = f"{plain}_{number}", number + 1
        names[text] = name
    return names
