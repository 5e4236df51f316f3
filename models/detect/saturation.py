"""Saturation: is an instance near the limit of requests in flight that it declared?

Thin on purpose: a share of the limit above `FULL` in every report for `MIN_S` seconds. No limit, no statement.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from models.signals import Saturation

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

    def update(self, at: float, saturations: Iterable[Saturation]) -> tuple[str, ...]:
        """Take the reports of one tick; return the instance ids that alarm in this tick."""
        alarms: list[str] = []
        for report in saturations:
            if not report.limit > 0:
                continue
            state = self.instances.get(report.instance)
            if state is None:
                state = self.instances[report.instance] = Fullness()
            state.share = report.active / report.limit
            if state.share >= FULL:
                state.since = state.since or at
                state.reports += 1
                if not state.alarmed and at - state.since >= MIN_S:
                    state.alarmed = True
                    alarms.append(report.instance)
            elif state.reports and (state.share < BACK or not state.alarmed):
                self.instances[report.instance] = Fullness(share=state.share)
        return tuple(alarms)
