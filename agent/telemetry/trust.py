"""Can what a sidecar says be believed? Silent, frozen and skewed telemetry is told from an idle sidecar.

No telemetry is never read as failure, and never as health: a sidecar that cannot be believed is *blind* and the loop acts
on nothing it says.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from agent.telemetry import metrics
from models.signals import Report
from models.telemetry import FLUSH_S

SILENT_S: Final = 1.5
"""Without a report for this long (fifteen flushes) a sidecar is blind."""
STUCK_S: Final = 3.0
"""Reports whose uptime (whole seconds) or clock stands still for this long are frozen."""
SKEW_S: Final = 2.0
"""A sidecar's clock may differ from ours by this much; more is a wrong clock or a report that was long on its way."""
RESET_S: Final = 2.0
"""How long a restart of a sidecar is told."""
IDLE_S: Final = 5.0
"""Without a request for this long a reporting sidecar is idle."""

LEAST_DRIFT_S: Final = 0.0001
"""By this much per report the least time on the way is allowed to grow: clocks drift apart, by far less."""

_MISSED_AFTER_S: Final = 2.5 * FLUSH_S


class Trust(StrEnum):
    """What is known of one sidecar's telemetry, worst first."""

    SILENT = "silent"  # registered, and no report
    FROZEN = "frozen"  # reports the same moment again and again
    SKEWED = "skewed"  # its clock is not ours, or its reports are old
    RESET = "reset"  # started anew a moment ago; counts are deltas and stay right
    IDLE = "idle"  # reports, and has no requests
    LIVE = "live"


BLIND: Final = frozenset({Trust.SILENT, Trust.FROZEN, Trust.SKEWED})
"""States in which a sidecar's telemetry must not lead to an action."""


class Witness:
    """What is remembered of one sidecar to judge its telemetry. Times are Unix seconds of our clock.

    `lag_s` is how much longer than the fastest of the last minutes its last report was on the way, whatever its clock says.
    """

    __slots__ = (
        "_busy_at",
        "_clock_moved_at",
        "_least_s",
        "_reset_at",
        "_sent_at",
        "_uptime",
        "_uptime_moved_at",
        "heard_at",
        "lag_s",
        "skew_s",
    )

    def __init__(self, report: Report) -> None:
        at = report.received_at
        self.heard_at = at
        self.skew_s = 0.0
        self.lag_s = 0.0
        self._least_s = float("inf")
        self._busy_at = float("-inf")
        self._reset_at = float("-inf")
        self._sent_at = report.sent_at
        self._uptime = report.uptime_s
        self._clock_moved_at = self._uptime_moved_at = at
        self._hear(report)

    def hear(self, report: Report) -> bool:
        """Take one report; return whether it is news.

        One that is dated to the moment of the one before is that one again (delivered twice, or frozen): its counts are known.
        """
        news = report.sent_at != self._sent_at
        self._hear(report)
        if not news:
            metrics.REPEATED.inc()
        return news

    def _hear(self, report: Report) -> None:
        at = report.received_at
        self.heard_at = at
        self.skew_s = report.sent_at - at
        self._least_s = min(at - report.sent_at, self._least_s + LEAST_DRIFT_S)
        self.lag_s = at - report.sent_at - self._least_s
        if report.outcomes:
            self._busy_at = at
        if report.uptime_s < self._uptime:
            self._reset_at = at
            metrics.RESETS.inc()
        elif (gap := report.sent_at - self._sent_at) > _MISSED_AFTER_S:
            metrics.MISSED.inc(round(gap / FLUSH_S) - 1)
        if report.uptime_s != self._uptime:
            self._uptime_moved_at = at
            self._uptime = report.uptime_s
        if report.sent_at != self._sent_at:
            self._clock_moved_at = at
            self._sent_at = report.sent_at

    def judge(self, now: float) -> Trust:
        """Return what to think of this sidecar at `now`."""
        if now - self.heard_at > SILENT_S:
            return Trust.SILENT
        if self.heard_at - min(self._clock_moved_at, self._uptime_moved_at) > STUCK_S:
            return Trust.FROZEN
        if abs(self.skew_s) > SKEW_S:
            return Trust.SKEWED
        if now - self._reset_at <= RESET_S:
            return Trust.RESET
        return Trust.IDLE if now - self._busy_at > IDLE_S else Trust.LIVE
