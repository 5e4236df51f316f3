"""Which anomalies belong to a cause, asked for a thousand causes at every tick; the rules are `models.localise.reach`."""

from __future__ import annotations

from collections.abc import Iterable

from models.domain import Topology
from models.incident import Anomaly, Cause, CauseKind, Signal
from models.localise.reach import about, downstream, explains, upstream

__all__ = ["Symptoms", "about", "downstream", "explains", "unexplained_share", "upstream"]


class Symptoms:
    """The anomalies of one tick by the service they are about, so that a cause is asked about its surroundings only."""

    def __init__(self, anomalies: Iterable[Anomaly] = (), topology: Topology | None = None) -> None:
        self.all = tuple(anomalies)
        topology = topology or Topology()
        self._topology = topology
        self._by_service: dict[str, list[Anomaly]] = {}
        for anomaly in self.all:
            self._by_service.setdefault(about(anomaly, topology), []).append(anomaly)
        loud = {Signal.ERRORS, Signal.LATENCY}
        self._reached: set[str] | None = None
        self._suffering = {name for name, found in self._by_service.items() if any(a.signal in loud for a in found)}

    def like(self, anomaly: Anomaly) -> Anomaly | None:
        """Return the anomaly of the same series and signal, None when it is over."""
        for found in self._by_service.get(about(anomaly, self._topology), ()):
            if found.signal is anomaly.signal and found.series == anomaly.series:
                return found
        return None

    def may_follow(self, cause: Cause) -> bool:
        """Tell at little cost whether `cause` is anywhere near an anomaly: the same as whether `near` gives any."""
        if cause.kind is CauseKind.GLOBAL or not cause.service:
            return bool(self.all)
        if self._reached is None:
            self._reached = set(self._by_service)
            for service in self._by_service:
                self._reached |= downstream(self._topology, service) | upstream(self._topology, service)
        return cause.service in self._reached

    def near(self, cause: Cause) -> Iterable[Anomaly]:
        """Return the anomalies that `cause` could explain at all: of its service, of its callers, of what it calls."""
        if cause.kind is CauseKind.GLOBAL or not cause.service:
            return self.all
        reach = {cause.service, *upstream(self._topology, cause.service), *downstream(self._topology, cause.service)}
        return [a for service in reach & self._by_service.keys() for a in self._by_service[service]]

    def unexplained(self, cause: Cause, services: int) -> float:
        """Return the share (0–1) of services that are anomalous for a reason other than `cause`.

        One broken dependency leaves nothing unexplained however many callers suffer; a mesh-wide disturbance leaves much.
        """
        topology = self._topology
        own = {about(a, topology) for a in self.near(cause) if explains(cause, a, topology, strict=False)}
        return len(self._suffering - own) / services if services else 0.0


def unexplained_share(cause: Cause, anomalies: Iterable[Anomaly], topology: Topology, services: int) -> float:
    """Return the share (0–1) of services that are anomalous for a reason other than `cause`."""
    return Symptoms(anomalies, topology).unexplained(cause, services)
