"""What the xDS server tells the rest: a refused configuration is a change event, so that the agent sees it too."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import structlog

from control.changes import ChangeLog
from control.store import Write
from control.wire import Propagation, ProxyView
from control.xds.status import Nack, ProxyStatus
from control.xds.status import Propagation as Progress
from models.domain import ChangeKind

log = structlog.get_logger(__name__)


class Refusals:
    """Turns NACKs into change events."""

    def __init__(self, changes: ChangeLog, keep: Callable[[Iterable[Write]], None]) -> None:
        self._changes = changes
        self._keep = keep

    def connected(self, proxy: ProxyStatus) -> None:
        """A sidecar opened its stream; the server has logged it."""

    def disconnected(self, proxy: ProxyStatus) -> None:
        """A sidecar's last stream ended; the server has logged it."""

    def nacked(self, proxy: ProxyStatus, nack: Nack) -> None:
        """Note a refusal; the sidecar goes on with its last good configuration."""
        log.warning("xds.nack", proxy=proxy.id, type=nack.type, resources=nack.resources, message=nack.message)
        message = f"{proxy.id} refused {nack.type} {', '.join(nack.resources)}: {nack.message}"
        self._keep(
            self._changes.add(
                ChangeKind.NACK,
                f"Proxy/{proxy.id}",
                service=proxy.service,
                version=proxy.version,
                actor=proxy.id,
                message=message,
            )
        )


def view(proxy: ProxyStatus) -> ProxyView:
    """Return a sidecar as the API shows it."""
    nack = proxy.last_nack
    rejected = tuple(
        f"{name}: {resource}" for name, status in sorted(proxy.types.items()) for resource in sorted(status.rejected)
    )
    return ProxyView(
        id=proxy.id,
        service=proxy.service,
        version=proxy.version,
        zone=proxy.zone,
        connected=proxy.connected,
        since=proxy.since,
        sent=proxy.generation_sent,
        acked=proxy.generation_acked,
        synced=proxy.in_sync,
        pending=proxy.pending,
        rejected=rejected,
        nack=nack.message if nack else "",
        nack_at=nack.at if nack else 0.0,
        nack_resources=nack.resources if nack else (),
        certificate_until=proxy.certificate_until,
    )


def progress(found: Progress) -> Propagation:
    """Return a propagation as the API shows it, with the words of those that refused."""
    return Propagation(
        generation=found.generation,
        sidecars=found.sidecars,
        acked=found.acked,
        nacked=len(found.nacked),
        refusals=tuple(f"{name}: {found.words.get(name, 'refused')}" for name in found.nacked),
    )
