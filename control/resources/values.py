"""Durations, percentages and ranges as people write them in YAML, read into seconds and shares."""

from __future__ import annotations

import re
from typing import Annotated, Final

from pydantic import BeforeValidator, Field

_PART: Final = re.compile(r"(\d+(?:\.\d+)?)(h|ms|us|m|s)")
_SECONDS: Final = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001, "us": 0.000001}
_PERCENT: Final = re.compile(r"(\d+(?:\.\d+)?)\s*%")
_LONGEST_S: Final = 24 * 3600.0
_WINDOW: Final = re.compile(r"(\d{1,4})(d|h)")
_SHORTEST_WINDOW_S: Final = 3600.0
_LONGEST_WINDOW_S: Final = 90 * 24 * 3600.0


def seconds(value: object) -> float:
    """Read a duration such as `250ms`, `1.5s` or `1m30s` into seconds.

    Raises:
        ValueError: it is not text, has no unit, or is longer than a day.
    """
    if not isinstance(value, str):
        raise ValueError(f"must be a duration with its unit, such as 250ms or 1s, found {value!r}")  # noqa: TRY004 - pydantic reports ValueError
    parts = _PART.findall(value)
    if not parts or "".join(number + unit for number, unit in parts) != value:
        raise ValueError(f"`{value}` is not a duration; write such as 250ms, 1s or 1m30s")
    total = round(sum(float(number) * _SECONDS[unit] for number, unit in parts), 9)
    if total > _LONGEST_S:
        raise ValueError(f"`{value}` is longer than the 24h accepted")
    return total


def share(text: str) -> float:
    """Read a percentage such as `20%` into a share of 0–1.

    Raises:
        ValueError: it is not a percentage from 0 % to 100 %.
    """
    found = _PERCENT.fullmatch(text.strip())
    if found is None or float(found[1]) > 100:  # noqa: PLR2004 - per cent
        raise ValueError(f"`{text}` is not a percentage from 0% to 100%, such as 20%")
    return float(found[1]) / 100


def interval(text: str) -> tuple[float, float]:
    """Read `25ms..250ms` into two durations in seconds, the first above zero and not above the second.

    Raises:
        ValueError: it is none.
    """
    low, dots, high = text.partition("..")
    if not dots:
        raise ValueError(f"`{text}` is not a range of durations, such as 25ms..250ms")
    first, second = seconds(low.strip()), seconds(high.strip())
    if not 0 < first <= second:
        raise ValueError(f"`{text}`: the first duration must be above zero and not above the second")
    return first, second


def window(value: object) -> float:
    """Read the window of an objective, such as `30d` or `6h`, into seconds.

    Raises:
        ValueError: it is none, or not between 1h and 90d.
    """
    found = _WINDOW.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise ValueError(f"must be whole days or hours such as 30d, 7d or 6h, found {value!r}")
    total = int(found[1]) * (86_400.0 if found[2] == "d" else 3600.0)
    if not _SHORTEST_WINDOW_S <= total <= _LONGEST_WINDOW_S:
        raise ValueError(f"`{value}` is not between 1h and 90d")
    return total


def _positive(value: object) -> float:
    if (found := seconds(value)) <= 0:
        raise ValueError(f"`{value}` must be longer than zero")
    return found


Duration = Annotated[float, BeforeValidator(seconds)]
PositiveDuration = Annotated[float, BeforeValidator(_positive)]
Window = Annotated[float, BeforeValidator(window)]
Percent = Annotated[float, Field(ge=0, le=100)]
