"""Whether users feel an incident: nobody is called at night for what nobody but the mesh notices.

Users' requests enter through a few services, and the sidecars there report them like all others. An incident hurts users when an alarm
about their requests follows from its cause; they are well when their requests since its onset are proven to end as they used to. Without
either nothing is claimed, and a person is called as if they were hurt.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Final

from agent.correlate import upstream
from agent.history import History
from agent.incidents import Incident, Users
from agent.senses import Senses
from models.detect.views import views
from models.domain import Edge
from models.incident import Anomaly, CauseKind, Signal
from models.signals import Outcomes, Series, Side
from models.verify import Verdict, judge

LOOK_S: Final = 5.0
"""Alarms about users come later than those about the sick service itself: they are awaited for so long, seconds."""

PATIENCE_S: Final = 15.0
"""After this long a person is called although it is not clear how users are, seconds."""

NEARLY: Final = 0.9
"""Share of users' requests that must go where all is proven to be well; the rest goes where too few came to tell."""


class Onlooker:
    """Looks at users' requests. `look` takes in, once per tick, what is anomalous and whose telemetry is not believed."""

    def __init__(self, senses: Senses, history: History) -> None:
        self._senses = senses
        self._history = history
        self._felt: frozenset[str] = frozenset()
        self._blind: frozenset[str] = frozenset()

    def look(self, anomalies: Iterable[Anomaly], blind: frozenset[str]) -> None:
        """Take in the anomalies of this moment, and the sidecars that are not believed."""
        loud = [a for a in anomalies if _hurts(a)]
        self._felt = frozenset(a.series.callee for a in loud if self._of_users(a.series)) if loud else frozenset()
        self._blind = blind

    def hurt(self, incident: Incident) -> bool:
        """Tell whether an alarm of this moment says that users feel the incident."""
        return bool(self._felt) and not self._felt.isdisjoint(self._reach(incident))

    def users(self, incident: Incident, now: float) -> Users:
        """Return how users are because of an open incident (Unix s). Who was hurt once stays so: they may be again."""
        if incident.users is Users.HURT or self.hurt(incident):
            return Users.HURT
        reach = self._reach(incident)
        seen = [series for series in self._history.towards(reach) if self._of_users(series)]
        if not seen or not self._blind.isdisjoint(series.reporter for series in seen):
            return Users.UNKNOWN
        age = now - incident.opened_at
        if age >= LOOK_S and self._as_before(seen, now - incident.onset, incident.onset):
            return Users.WELL
        return Users.PENDING if age < PATIENCE_S else Users.UNKNOWN

    def _reach(self, incident: Incident) -> frozenset[str]:
        """Return the services that suffer from the incident's cause: its own and those that call it, however indirectly."""
        cause = incident.cause
        if cause is None or cause.kind is CauseKind.GLOBAL or not cause.service:
            return frozenset()
        return upstream(self._senses.mesh.topology, cause.service) | {cause.service}

    def _as_before(self, series: list[Series], elapsed_s: float, onset: float) -> bool:
        """Tell whether users' requests since the onset fail and take as long as usual, as far as nearly all of them go."""
        sums: dict[Series, Outcomes] = {}
        for one, seen in self._history.sums(series, onset).items():
            whole = views(one)[0]
            sums.setdefault(whole, Outcomes())
            sums[whole] += seen
        fine = 0
        for one, seen in sums.items():
            verdicts = {self._verdict(one, seen, signal, elapsed_s) for signal in (Signal.ERRORS, Signal.LATENCY)}
            if Verdict.STILL_BAD in verdicts:
                return False
            fine += seen.requests if verdicts == {Verdict.RECOVERED} else 0
        return fine >= max(1.0, NEARLY * sum(seen.requests for seen in sums.values()))

    def _verdict(self, series: Series, seen: Outcomes, signal: Signal, elapsed_s: float) -> Verdict:
        usual = self._senses.detector.baseline(series, signal)
        return Verdict.UNDECIDED if usual is None else judge(usual, seen, signal, elapsed_s).verdict

    def _of_users(self, series: Series) -> bool:
        """Tell whether these requests come from outside: seen by a service that nobody calls, as a server or, failing that, as a caller."""
        entries = _entries(self._senses.mesh.topology.edges)
        if series.side is Side.SERVER:
            return series.callee in entries
        return series.side is Side.CLIENT and series.caller in entries and not self._serves(series.caller)

    def _serves(self, service: str) -> bool:
        return bool(self._history.series(Side.SERVER, frozenset({service})))


def _hurts(anomaly: Anomaly) -> bool:
    """Tell whether users would mind: failures, slowness, or that fewer get in."""
    return anomaly.signal in {Signal.ERRORS, Signal.LATENCY} or (
        anomaly.signal is Signal.TRAFFIC and anomaly.observed < anomaly.expected
    )


@lru_cache(maxsize=4)
def _entries(edges: frozenset[Edge]) -> frozenset[str]:
    """Return the services that call others and that nobody calls: users' side of the mesh, or the gateways they come through."""
    return frozenset(edge.caller for edge in edges) - {edge.callee for edge in edges}
