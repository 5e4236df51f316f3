"""How much memory each kind of process holds."""

from __future__ import annotations

import statistics

from simulations.bench import wire
from simulations.bench.figures import Table
from simulations.bench.rig import REQUEST, Rig, memory


async def measure(*, quick: bool) -> Table:
    """Send some traffic through a mesh of a few sidecars, then weigh it."""
    sidecars = 3 if quick else 10
    async with Rig(sidecars) as rig:
        for name in rig.callers:
            await wire.load(rig.outbound(name), REQUEST, rate=200, seconds=0.3 if quick else 1.0, connections=4)
        weighed = {
            "control": [memory(rig.processes.pid("control"))],
            "agent": [memory(rig.processes.pid("agent"))],
            f"runner of {sidecars} sidecars": [memory(rig.processes.pid("sidecars"))],
            "Envoy (median)": [memory(pid) for pid in rig.envoys()],
        }
    rows = tuple(
        (name, str(len(sizes)), *(f"{statistics.median(s[k] for s in sizes):.0f} MiB" for k in range(2)))
        for name, sizes in weighed.items()
    )
    return Table("memory", ("process", "count", "RSS", "PSS"), rows, judged=not quick)
