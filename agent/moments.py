"""Waiting by a clock that people may set back."""

from __future__ import annotations


def passed(seconds: float, since: float, now: float) -> bool:
    """Tell whether `seconds` have passed since a moment (Unix s); true as well when it lies ahead, for then the clock went back."""
    return not 0 <= now - since < seconds
