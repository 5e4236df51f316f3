"""The agent's eyes on a simulated mesh: reports as they arrive, on their way lost, repeated, late or misdated.

Whether a sidecar can be believed is judged by the agent's own code. Sidecars with whom all is well are not looked at one by one: their
reports come in time and are dated rightly, so nothing but trust can come of it.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, assert_never

from agent.ports import Clock
from agent.telemetry.trust import BLIND
from agent.telemetry.trust import Witness as Reports
from models.frame import EMPTY, Frame
from models.signals import Fills, Outcomes, Report, Saturation, Series
from simulations.simulator.meshfaults import Spoiling, TelemetrySpoiled
from simulations.simulator.plant import Ended, Plant
from simulations.simulator.telemetry import Telemetry

FRESH_S: Final = 2.0
"""How full an instance is, is known for so long."""

LAG_OF_S: Final = 0.5
"""Who was heard of within this time tells how late reports come."""

FORGET_S: Final = 20.0
"""So long after all is well again a sidecar is looked at no more."""


@dataclass(slots=True)
class _Spoilt:
    """A fault of telemetry, whom it strikes, since when and until when (times of the agent's clock), and their last reports."""

    fault: TelemetrySpoiled
    reporters: frozenset[str]
    since: float
    last: Mapping[Series, Outcomes]
    until: float = math.inf


class SimulatedSight:
    """What the plant reported, as it arrives. `clock` is the agent's. At most one fault of telemetry at a time."""

    def __init__(self, telemetry: Telemetry, plant: Plant, clock: Clock) -> None:
        self._telemetry = telemetry
        self._plant = plant
        self._clock = clock
        self._all = telemetry.reporters()
        self._spoilt: _Spoilt | None = None
        self._reports: dict[str, Reports] = {}
        self._coming: deque[tuple[float, Frame]] = deque()
        self._before: Frame = EMPTY
        self._next: Mapping[Series, Outcomes] = EMPTY
        self._fills: Fills | None = None

    def restart(self) -> None:
        """Begin as a new process: it has heard of nobody yet."""
        self._next = EMPTY
        self._reports = {}
        if self._spoilt is not None and self._spoilt.fault.how in {Spoiling.DROPPED, Spoiling.LATE}:
            self._expect(self._spoilt.reporters)

    # --- faults ------------------------------------------------------------------------------------------------

    def spoil(self, fault: TelemetrySpoiled) -> None:
        """Spoil reports from now on."""
        layout = self._plant.layout
        struck = {layout.instances[k] for k in layout.members(fault.service).tolist()} if fault.service else self._all
        last = {series: found for series, found in self._before.items() if series.reporter in struck}
        self._spoilt = _Spoilt(fault, frozenset(struck), self._clock(), last)
        self._fills = None
        self._reports = {name: known for name, known in self._reports.items() if name in struck}
        self._coming.clear()
        self._expect(self._spoilt.reporters)

    def mend(self) -> None:
        """Let reports come as they should; what is under way still arrives."""
        if self._spoilt is not None:
            self._spoilt.until = self._clock()

    def _expect(self, reporters: Iterable[str]) -> None:
        now = self._clock()
        for name in reporters:
            self._reports.setdefault(name, Reports(_report(name, now, now)))

    # --- reports -----------------------------------------------------------------------------------------------

    def hear(self, ended: Ended) -> None:
        """Take what one tick reported."""
        spoilt, now = self._spoilt, self._clock()
        if spoilt is None:
            self._before = self._telemetry.report(ended)
            self._next = self._before
            return
        if now > spoilt.until + FORGET_S:
            self._spoilt, self._reports = None, {}
            self._coming.clear()
            self._next = self._before = self._telemetry.report(ended)
            return
        news = self._tell(spoilt, now)
        if spoilt.until <= now:
            self._before = self._telemetry.report(ended)
            self._next = _together(self._before, self._arrived(now))
        else:
            self._next = self._spoiled(spoilt, ended, now, news)

    def _spoiled(self, spoilt: _Spoilt, ended: Ended, now: float, news: frozenset[str]) -> Mapping[Series, Outcomes]:
        """Return what arrives; of reports that are no `news` to the agent it counts nothing."""
        others = self._telemetry.report(ended, without=spoilt.reporters)
        match spoilt.fault.how:
            case Spoiling.MISDATED:
                return self._telemetry.report(ended)
            case Spoiling.DROPPED:
                return others
            case Spoiling.FROZEN:
                return _together(others, {s: found for s, found in spoilt.last.items() if s.reporter in news})
            case Spoiling.LATE:
                mine = self._telemetry.report(ended, without=self._all - spoilt.reporters)
                self._coming.append((now + spoilt.fault.by_s, mine))
                return _together(others, self._arrived(now))
            case _:
                assert_never(spoilt.fault.how)

    def _arrived(self, now: float) -> Frame | None:
        late = None
        while self._coming and self._coming[0][0] <= now + self._plant.tick_s / 2:
            frame = self._coming.popleft()[1]
            late = frame if late is None else Frame.of(_together(late, frame))
        return late

    def _tell(self, spoilt: _Spoilt, now: float) -> frozenset[str]:
        """Let the agent's own judgement of each struck sidecar hear what it sends; return those from whom that was news."""
        fault, over = spoilt.fault, now >= spoilt.until
        sent: list[float] = []
        match fault.how:
            case Spoiling.DROPPED:
                sent = []
            case Spoiling.FROZEN:
                sent = [] if over else [spoilt.since]
            case Spoiling.LATE:
                of = now - fault.by_s
                sent = [of] if spoilt.since <= of < spoilt.until else []
            case Spoiling.MISDATED:
                sent = [] if over else [now + fault.by_s]
            case _:
                assert_never(fault.how)
        if over:  # of a late report and one of now either may come last
            sent = [now, *sent] if int(now / self._plant.tick_s) % 2 else [*sent, now]
        news = set()
        for name in spoilt.reporters:
            for at in sent:
                report = _report(name, at, now)
                if name not in self._reports:
                    self._reports[name] = Reports(report)
                elif not self._reports[name].hear(report):
                    continue
                news.add(name)
        return frozenset(news)

    # --- what the agent asks -----------------------------------------------------------------------------------

    def take_tick(self, now: float) -> Mapping[Series, Outcomes]:
        """Return and forget the outcomes of the tick."""
        del now
        taken, self._next = self._next, EMPTY
        return taken

    def blind(self, now: float) -> frozenset[str]:
        """Return the reporters whose telemetry is missing or cannot be trusted."""
        return frozenset(name for name, reports in self._reports.items() if reports.judge(now) in BLIND)

    def saturation(self, now: float) -> Iterable[Saturation]:
        """Return how full each instance is."""
        found = self._telemetry.saturation(self._plant.now)
        spoilt = self._spoilt
        if spoilt is None or now >= spoilt.until or spoilt.fault.how is Spoiling.MISDATED:
            return found
        if self._fills is None:
            self._fills = found
        kept = spoilt.fault.how is Spoiling.FROZEN or now - spoilt.since <= FRESH_S
        old = {one.instance: one for one in self._fills}
        return tuple(
            old[one.instance] if one.instance in spoilt.reporters else one
            for one in found
            if kept or one.instance not in spoilt.reporters
        )

    def lag(self, now: float) -> float:
        """Return by how many seconds the last reports came later than usual (median over sidecars)."""
        late = sorted(one.lag_s for one in self._reports.values() if now - one.heard_at <= LAG_OF_S)
        in_time = len(self._all) - len(self._reports)
        middle = (len(late) + in_time) // 2 - in_time
        return late[middle] if late and middle >= 0 else 0.0

    def reporters(self) -> int:
        """Return how many sidecars report."""
        return len(self._all)


def _report(name: str, sent: float, received: float) -> Report:
    return Report(name, "", sent, received, math.floor(sent), live=True)


def _together(one: Mapping[Series, Outcomes], other: Mapping[Series, Outcomes] | None) -> Mapping[Series, Outcomes]:
    """Return the sums of both."""
    if not other:
        return one
    sums = dict(one.items())
    for series, found in other.items():
        if series in sums:
            sums[series] += found
        else:
            sums[series] = found
    return sums
