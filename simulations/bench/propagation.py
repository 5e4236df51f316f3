"""From a call of the control API to changed behaviour on the wire, with twenty real Envoys.

The call is made in this process; a process of its own asks some of the sidecars every two milliseconds over bare
sockets and notes when the answer changes. The figures contain that waiting, and what asking takes of the two cores.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from models.overlay import OpenBreaker
from simulations.bench.child import Child
from simulations.bench.figures import Table, Target, milliseconds, quantile
from simulations.bench.pollers import INTERVAL_S
from simulations.bench.rig import CALLEE, Rig, cpu_seconds

LIMIT_S = 0.030
_POLLED = 4
_PATIENCE_S = 15.0


async def measure(*, quick: bool) -> Table:
    """Open and close a breaker towards one service; the sidecars asked take turns."""
    trials, sidecars = (4, 4) if quick else (200, 20)
    first: list[float] = []
    last: list[float] = []
    answered: list[float] = []
    async with Rig(sidecars) as rig, rig.control() as control, Child("simulations.bench.pollers") as pollers:
        await pollers.hear(_PATIENCE_S)
        polled = min(_POLLED, len(rig.callers))
        watched = {
            "Envoys": rig.envoys(),
            "control": [rig.processes.pid("control")],
            "agent": [rig.processes.pid("agent")],
            "sidecars' runner": [rig.processes.pid("sidecars")],
            "pollers": [pollers.pid],
        }
        before, started = {name: cpu_seconds(pids) for name, pids in watched.items()}, time.monotonic()
        for trial in range(trials):
            names = [rig.callers[(trial * polled + k) % len(rig.callers)] for k in range(polled)]
            overlay, opening = f"bench-{trial // 2}", trial % 2 == 0
            old, new = (200, 503) if opening else (503, 200)
            pollers.tell({"places": [rig.outbound(name) for name in names], "from": old, "to": new})
            await pollers.hear(_PATIENCE_S)
            began = time.monotonic()
            if opening:
                change = OpenBreaker(callee=CALLEE)
                await control.create_overlay(change, reason="measuring", lease_s=60, overlay_id=overlay)
            else:
                await control.delete_overlay(overlay)
            answered.append(time.monotonic() - began)
            seen = [at - began for at in await pollers.hear(_PATIENCE_S)]
            first += seen
            last.append(max(seen))
        took = time.monotonic() - started
        spent = {name: (cpu_seconds(pids) - before[name]) / took for name, pids in watched.items()}
    return table(first, last, answered, sidecars, spent, judged=not quick)


def table(
    each: Sequence[float],
    last: Sequence[float],
    answered: Sequence[float],
    sidecars: int,
    spent: Mapping[str, float],
    *,
    judged: bool,
) -> Table:
    """Return the quantiles, and what each part took of the cores meanwhile."""
    seen = (("each sidecar polled", each), ("the last of those polled", last), ("the API's answer", answered))
    rows = tuple(
        (name, str(len(v)), milliseconds(quantile(v, 0.5)), milliseconds(quantile(v, 0.99)), milliseconds(max(v)))
        for name, v in seen
    )
    cores = ", ".join(f"{name} {share:.2f}" for name, share in spent.items())
    return Table(
        f"API call to changed behaviour on the wire, {sidecars} real Envoys",
        ("seen by", "samples", "p50", "p99", "max"),
        rows,
        f"asked every {INTERVAL_S * 1e3:g} ms, which is contained; cores taken meanwhile: {cores}",
        (Target("p99", quantile(each, 0.99) * 1e3, LIMIT_S * 1e3, " ms"),),
        judged,
    )
