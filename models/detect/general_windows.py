"""What one series does at several time scales: sums over the last samples, updated in constant time.

Sums are kept by adding and subtracting; once per turn of the ring they are formed anew, so rounding never piles up and a
huge value leaves nothing behind.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

SCALES: Final = (4, 8, 16, 32, 64, 128)
"""Window lengths in samples, doubling: an episode of any length fits one of them within a factor of √2."""

COARSE: Final = (8, 32, 128)
"""Window lengths for what deviates from the daily profile."""

RING: Final = 2 * SCALES[-1]


@dataclass(slots=True)
class Windows:
    """Sums over the last `w` samples of one stream, and where wanted over the `w` samples before those.

    Samples before the first count as `pad`, so a young series has means, not gaps. The ring holds the last 256
    samples; memory is fixed.
    """

    scales: tuple[int, ...]
    ring: list[float] = field(default_factory=lambda: [0.0] * RING)
    at: int = 0
    sums: list[float] = field(default_factory=list)
    before: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not self.sums:
            self.sums = [0.0] * len(self.scales)
            self.before = [0.0] * len(self.scales)

    def fill(self, pad: float) -> None:
        """Let all samples before the first be `pad`."""
        self.ring = [pad] * RING
        self._sum_anew()

    def push(self, x: float) -> list[float]:
        """Take one sample; return the sums per scale (the live list: read it before the next call)."""
        ring, at, sums = self.ring, self.at, self.sums
        for k, w in enumerate(self.scales):
            sums[k] += x - ring[at - w]
        ring[at] = x
        self._step()
        return sums

    def push_pair(self, x: float) -> tuple[list[float], list[float]]:
        """As `push`, and also return the sums over the window before each window."""
        ring, at, sums, before = self.ring, self.at, self.sums, self.before
        for k, w in enumerate(self.scales):
            leaving = ring[at - w]
            sums[k] += x - leaving
            before[k] += leaving - ring[at - 2 * w]
        ring[at] = x
        self._step()
        return sums, before

    def _step(self) -> None:
        self.at += 1
        if self.at == RING:
            self.at = 0
            self._sum_anew()

    def _sum_anew(self) -> None:
        latest = self.ring[self.at :] + self.ring[: self.at]
        for k, w in enumerate(self.scales):
            self.sums[k] = sum(latest[RING - w :])
            self.before[k] = sum(latest[RING - 2 * w : RING - w])
