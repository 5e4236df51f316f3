"""From a call of the control API to changed behaviour on the wire, with twenty real Envoys."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from models.errors import Broken
from models.overlay import OpenBreaker
from simulations.bench.figures import Table, milliseconds, quantile
from simulations.bench.rig import CALLEE, REQUEST, Rig

LIMIT_S = 0.030
_POLLED = 4
_INTERVAL_S = 0.001
_PATIENCE_S = 5.0
_PAUSE_S = 0.1


async def measure(*, quick: bool) -> Table:
    """Open and close a breaker towards one service; the sidecars polled take turns."""
    trials, sidecars = (4, 4) if quick else (60, 20)
    first: list[float] = []
    last: list[float] = []
    async with Rig(sidecars) as rig, rig.control() as control:
        polled = min(_POLLED, len(rig.callers))
        for trial in range(trials):
            names = [rig.callers[(trial * polled + k) % len(rig.callers)] for k in range(polled)]
            places = [rig.outbound(name) for name in names]
            overlay = f"bench-{trial // 2}"
            opening = trial % 2 == 0
            ready = [asyncio.Event() for _ in places]
            watchers = [
                asyncio.create_task(_changed(place, b"503" if opening else b"200", event), name=f"poll {name}")
                for place, event, name in zip(places, ready, names, strict=True)
            ]
            await asyncio.gather(*(event.wait() for event in ready))
            began = time.monotonic()
            if opening:
                await control.create_overlay(
                    OpenBreaker(callee=CALLEE), reason="measuring", lease_s=60, overlay_id=overlay
                )
            else:
                await control.delete_overlay(overlay)
            seen = [at - began for at in await asyncio.gather(*watchers)]
            first += seen
            last.append(max(seen))
            await asyncio.sleep(_PAUSE_S)
    return _table(first, last, sidecars)


def _table(each: Sequence[float], last: Sequence[float], sidecars: int) -> Table:
    rows = tuple(
        (name, str(len(v)), milliseconds(quantile(v, 0.5)), milliseconds(quantile(v, 0.99)), milliseconds(max(v)))
        for name, v in (("each sidecar polled", each), ("the last of those polled", last))
    )
    return Table(
        f"API call to changed behaviour on the wire, {sidecars} real Envoys",
        ("seen by", "samples", "p50", "p99", "max"),
        rows,
        f"target p99 ≤ {LIMIT_S * 1e3:.0f} ms",
        quantile(each, 0.99) <= LIMIT_S,
    )


async def _changed(place: tuple[str, int], wanted: bytes, ready: asyncio.Event) -> float:
    """Ask until the answer's status is `wanted`; return when (monotonic seconds). `ready` is set after one answer."""
    reader, writer = await asyncio.open_connection(*place)
    deadline = time.monotonic() + _PATIENCE_S
    try:
        while time.monotonic() < deadline:
            writer.write(REQUEST)
            head = await reader.readuntil(b"\r\n\r\n")
            at = time.monotonic()
            if head.split(b" ", 2)[1] == wanted:
                return at
            await reader.readexactly(_length(head))
            ready.set()
            await asyncio.sleep(_INTERVAL_S)
    finally:
        writer.close()
    raise Broken(f"{place[0]} did not answer {wanted.decode()} within {_PATIENCE_S:g} s", hint="see its log")


def _length(head: bytes) -> int:
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line.partition(b":")[2])
    return 0
