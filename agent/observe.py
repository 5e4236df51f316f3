"""The agent's eyes: takes reports in, gives detectors their ticks, people their golden signals, and says who is blind.

Everything here is bounded: windows hold two minutes per series, series that were idle for five minutes are dropped, and
beyond `MAX_SERIES` new ones are refused and counted. All times are Unix seconds and come as arguments; the arrival time
of a report, on our clock, decides in which window its outcomes lie.
"""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Iterable, Mapping
from typing import Final

import structlog

from agent.telemetry import metrics
from agent.telemetry.exposition import GoldenSignals
from agent.telemetry.trust import BLIND, SILENT_S, Trust, Witness
from agent.telemetry.views import SignalsView, view
from agent.telemetry.windows import FINE_S, REACH_S, Window
from models.signals import Outcomes, Report, Saturation, Series

RuleKey = tuple[str, str, str]
"""Service, rule of its route table, and the reporter that saw the requests."""

MAX_SERIES: Final = 20_000
SERIES_IDLE_S: Final = 300.0
REPORTER_GONE_S: Final = 300.0
"""A sidecar nobody expects any more is forgotten after this long."""
_SWEEP_EVERY_S: Final = 10.0
_GAUGE_FRESH_S: Final = 2.0
_LAG_OF_S: Final = 0.5

_log = structlog.get_logger(__name__)


class Observer:
    """State of the mesh's telemetry. Not thread-safe: everything is called from the agent's event loop.

    `exposition` is the Prometheus collector of the mesh's golden signals; register it once.
    """

    def __init__(self, max_series: int = MAX_SERIES) -> None:
        self.exposition = GoldenSignals()
        self._max_series = max_series
        self._tick: dict[Series, Outcomes] = {}
        self._rules: dict[RuleKey, Outcomes] = {}
        self._windows: dict[Series, Window] = {}
        self._witnesses: dict[str, Witness] = {}
        self._saturation: dict[str, tuple[float, Saturation]] = {}
        self._expected: dict[str, float] | None = None
        self._began_at: float | None = None
        self._swept_at = float("-inf")
        self._last_trust: dict[str, Trust] = {}

    def receive(self, report: Report) -> None:
        """Take one report in (the receiver's `on_report`)."""
        at = report.received_at
        if self._began_at is None:
            self._began_at = at
        witness = self._witnesses.get(report.reporter)
        if witness is None:
            self._witnesses[report.reporter] = Witness(report)
        elif not witness.hear(report):
            return
        for one in report.saturation:
            self._saturation[one.instance] = (at, one)
        if report.outcomes:
            kept = {series: found for series, found in report.outcomes.items() if self._keep(at, series, found)}
            self.exposition.add(kept)
        for (service, rule), outcomes in report.rules.items():
            self._count_rule((service, rule, report.reporter), outcomes)
        if at - self._swept_at >= _SWEEP_EVERY_S:
            self._sweep(at)

    def expect(self, reporters: Iterable[str], now: float) -> None:
        """Say which sidecars are registered now. Until this was called, each that ever reported is expected.

        A newly registered sidecar gets `SILENT_S` for its first report.
        """
        before = self._expected or {}
        self._expected = {name: before.get(name, now) for name in reporters}

    def take_tick(self, now: float) -> dict[Series, Outcomes]:
        """Return and forget the outcomes that arrived since the last call (empty when nothing did)."""
        self._note_trust(now)
        taken, self._tick = self._tick, {}
        return taken

    def take_rules(self) -> dict[RuleKey, Outcomes]:
        """Return and forget what callers got since the last call, by rule of the route tables."""
        taken, self._rules = self._rules, {}
        return taken

    def since(self, start: float, now: float) -> dict[Series, Outcomes]:
        """Return the outcomes per series that arrived from `start` to `now`; series without any are left out.

        Never contains anything from before `start`, which is rounded up to 0.2 s (1 s if 12 s ago or more). `start`
        may lie 120 s back; what is older is forgotten.
        """
        sums = {
            series: window.since(max(start, now - REACH_S), now)
            for series, window in self._windows.items()
            if window.last_at >= start
        }
        return {series: found for series, found in sums.items() if found.requests or found.latency.any()}

    def signals(self, now: float, window_s: float = 10.0) -> SignalsView:
        """Return the golden signals of the last `window_s` (> 0, ≤ 120) seconds.

        Rates divide by the time there was telemetry, if that is shorter than the window.
        """
        age = window_s if self._began_at is None else min(window_s, max(FINE_S, now - self._began_at))
        fresh = [one for at, one in self._saturation.values() if now - at <= _GAUGE_FRESH_S]
        return view(self.since(now - window_s, now), fresh, at=now, window_s=age)

    def saturation(self, now: float) -> tuple[Saturation, ...]:
        """Return how full each instance is, from reports of the last two seconds, sorted by instance."""
        fresh = (one for at, one in self._saturation.values() if now - at <= _GAUGE_FRESH_S)
        return tuple(sorted(fresh, key=lambda one: one.instance))

    def lag(self, now: float) -> float:
        """Return by how many seconds the last reports came later than usual (median over sidecars, 0 without any).

        All of them late at once means that this machine, or all of them, are held up.
        """
        late = sorted(w.lag_s for w in self._witnesses.values() if now - w.heard_at <= _LAG_OF_S)
        return late[len(late) // 2] if late else 0.0

    def trust(self, now: float) -> Mapping[str, Trust]:
        """Return what to think of each expected sidecar's telemetry."""
        expected = self._expected if self._expected is not None else {n: w.heard_at for n, w in self._witnesses.items()}
        found: dict[str, Trust] = {}
        for name, since in expected.items():
            witness = self._witnesses.get(name)
            if witness is not None and witness.heard_at >= since - SILENT_S:
                found[name] = witness.judge(now)
            else:  # registered, not heard since
                found[name] = Trust.SILENT if now - since > SILENT_S else Trust.IDLE
        return found

    def blind(self, now: float) -> frozenset[str]:
        """Return the expected sidecars that are silent, frozen or skewed: nothing they say, or do not say, counts."""
        return frozenset(name for name, trust in self.trust(now).items() if trust in BLIND)

    def idle(self, now: float) -> frozenset[str]:
        """Return the expected sidecars that report and have had no request for a while."""
        return frozenset(name for name, trust in self.trust(now).items() if trust is Trust.IDLE)

    def reporters(self) -> int:
        """Return how many sidecars have ever reported and are still expected to."""
        if self._expected is None:
            return len(self._witnesses)
        return sum(name in self._witnesses for name in self._expected)

    def _keep(self, at: float, series: Series, found: Outcomes) -> bool:
        window = self._windows.get(series)
        if window is None:
            if len(self._windows) >= self._max_series:
                metrics.SERIES_DROPPED.inc()
                return False
            window = self._windows[series] = Window()
        window.add(at, found)
        if (pending := self._tick.get(series)) is None:
            pending = self._tick[series] = Outcomes()
        pending += found
        return True

    def _count_rule(self, key: RuleKey, found: Outcomes) -> None:
        pending = self._rules.get(key)
        if pending is None:
            if len(self._rules) >= self._max_series:  # nobody takes them
                metrics.SERIES_DROPPED.inc()
                return
            pending = self._rules[key] = Outcomes()
        pending += found

    def _sweep(self, now: float) -> None:
        """Forget series, gauges and sidecars that are long gone."""
        self._swept_at = now
        for series in [s for s, w in self._windows.items() if now - w.last_at > SERIES_IDLE_S]:
            del self._windows[series]
        for name in [n for n, (at, _) in self._saturation.items() if now - at > REPORTER_GONE_S]:
            del self._saturation[name]
        expected = self._expected or {}
        gone = [n for n, w in self._witnesses.items() if n not in expected and now - w.heard_at > REPORTER_GONE_S]
        for name in gone:
            del self._witnesses[name]
        metrics.SERIES.set(len(self._windows))

    def _note_trust(self, now: float) -> None:
        """Log each change for the worse or back, and keep the gauges."""
        trust = dict(self.trust(now))
        for name, state in trust.items():
            was_blind = self._last_trust.get(name) in BLIND
            if state in BLIND and not was_blind:
                _log.warning("telemetry.blind", reporter=name, trust=state.value)
            elif was_blind and state not in BLIND:
                _log.info("telemetry.sighted", reporter=name)
        if trust != self._last_trust:
            tally = Tally(trust.values())
            for state in Trust:
                metrics.REPORTERS.labels(state.value).set(tally[state])
            self._last_trust = trust
