"""Saturation: is an instance near the limit of requests in flight that it declared?

Thin on purpose: a share of the limit above `FULL` in every report for `MIN_S` seconds. No limit, no statement.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from models.signals import Fills, Saturation

FULL: Final = 0.9
BACK: Final = 0.7
MIN_S: Final = 2.0


@dataclass(slots=True)
class Fullness:
    """One instance: Unix s since when it is full (0: it is not), its latest share of the limit, whether it alarmed."""

    since: float = 0.0
    share: float = 0.0
    reports: int = 0
    alarmed: bool = False


class SaturationDetector:
    """Share of the declared limit, per instance id."""

    def __init__(self) -> None:
        self.instances: dict[str, Fullness] = {}
        self._full: set[str] = set()  # of these, those that are full or were and alarmed
        self._place: dict[str, int] = {}
        self._names: tuple[str, ...] = ()

    def update(self, at: float, saturations: Iterable[Saturation]) -> tuple[str, ...]:
        """Take the reports of one tick; return the instance ids that alarm in this tick."""
        alarms: list[str] = []
        for report in self._telling(saturations) if isinstance(saturations, Fills) else saturations:
            if not report.limit > 0:
                continue
            state = self.instances.get(report.instance)
            if state is None:
                state = self.instances[report.instance] = Fullness()
            state.share = report.active / report.limit
            if state.share >= FULL:
                state.since = state.since or at
                state.reports += 1
                self._full.add(report.instance)
                if not state.alarmed and at - state.since >= MIN_S:
                    state.alarmed = True
                    alarms.append(report.instance)
            elif state.reports and (state.share < BACK or not state.alarmed):
                self.instances[report.instance] = Fullness(share=state.share)
                self._full.discard(report.instance)
        return tuple(alarms)

    def alarmed(self) -> tuple[str, ...]:
        """Return the instance ids that alarm."""
        return tuple(name for name in self._full if self.instances[name].alarmed)

    def forget(self, instances: Iterable[str]) -> None:
        """Drop what is known of `instances`."""
        for name in instances:
            del self.instances[name]
            self._full.discard(name)

    def restore(self, instances: Mapping[str, Fullness]) -> None:
        """Take over saved states."""
        self.instances.update(instances)
        self._full.update(name for name, state in instances.items() if state.reports)

    def _telling(self, fills: Fills) -> Iterable[Saturation]:
        """Return those that are full, were full, or were never heard of: what the others report changes nothing."""
        if fills.instances is not self._names:
            self._names = fills.instances
            self._place = {name: k for k, name in enumerate(fills.instances)}
            return fills
        full = np.flatnonzero(fills.active >= BACK * fills.limit).tolist()
        were = map(self._place.get, self._full)
        return [fills.at(k) for k in sorted({*full, *(k for k in were if k is not None)})]
