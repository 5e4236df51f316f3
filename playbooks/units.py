"""Durations and shares as people write them: `500ms`, `10s`, `1m30s`; `20%` or `0.2`.

A bare number of unknown unit is refused: `10` of what? Inside, durations are seconds and shares lie in 0–1.
"""

from __future__ import annotations

import math
import re
from typing import Annotated, Final

from pydantic import BeforeValidator, Field, WithJsonSchema

_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_PART: Final = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)(ms|s|m|h|d)")
_WHOLE: Final = re.compile(rf"(?:{_PART.pattern})+")
_PERCENT: Final = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)\s?%")


def seconds(value: object) -> float:
    """Return a duration in seconds.

    Raises:
        ValueError: not text, or not a duration with its unit.
    """
    if not isinstance(value, str) or not _WHOLE.fullmatch(value):
        raise ValueError(f"`{value}` is not a duration: write a number and its unit, like `500ms`, `10s`, `1m30s`")
    return math.fsum(float(number) * _UNITS[unit] for number, unit in _PART.findall(value))


def share(value: object) -> float:
    """Return a share in 0–1 from `20%` or `0.2`.

    Raises:
        ValueError: neither of the two, or outside 0–100 %.
    """
    if isinstance(value, str) and (match := _PERCENT.fullmatch(value)):
        number = float(match.group(1)) / 100
    elif isinstance(value, int | float) and not isinstance(value, bool):
        number = float(value)
    else:
        raise ValueError(f"`{value}` is not a share: write `20%` or `0.2`")
    if not 0 <= number <= 1:
        raise ValueError(f"`{value}` is not a share: it must lie between 0% and 100% (0 and 1)")
    return number


def span(duration_s: float) -> str:
    """Write a duration in seconds for people: `0.2 s`, `45 s`, `10 min`."""
    if duration_s >= 120:  # noqa: PLR2004 - two minutes
        return f"{duration_s / 60:.3g} min"
    return f"{duration_s:.3g} s"


def percent(ratio: float) -> str:
    """Write a share for people: `33%`, `0.5%`."""
    return f"{ratio * 100:.3g}%"


Duration = Annotated[
    float,
    BeforeValidator(seconds),
    WithJsonSchema({"type": "string", "pattern": f"^{_WHOLE.pattern}$", "examples": ["500ms", "10s", "1m30s"]}),
]
"""Seconds, written with a unit."""

Share = Annotated[
    float,
    BeforeValidator(share),
    Field(ge=0, le=1),
    WithJsonSchema(
        {"anyOf": [{"type": "string", "pattern": r"^[0-9.]+\s?%$"}, {"type": "number", "minimum": 0, "maximum": 1}]}
    ),
]
"""A ratio in 0–1, written as `20%` or `0.2`."""
