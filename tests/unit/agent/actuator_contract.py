"""What every actuator must hold; the fake and the real control plane run the same checks."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agent.actuators.base import Actuator, Order
from models.errors import Conflict
from models.overlay import ShiftTraffic

ORDER = Order("inc-1-1", ShiftTraffic("catalog", {"v1": 100, "v2": 0}), "because", 30.0, "inc-1", 1)


async def holds(actuator: Actuator) -> None:
    """Run the contract against an actuator of a mesh with `catalog` v1 and v2 and without overlays, fence 1 held."""
    laid = await actuator.lay(ORDER)
    assert (laid.id, laid.change, laid.incident, laid.fence) == ("inc-1-1", ORDER.change, "inc-1", 1)
    again = await actuator.lay(ORDER)
    assert (again.id, again.created_at) == (laid.id, laid.created_at), "the same id lays nothing twice"
    assert [o.id for o in await actuator.overlays()] == ["inc-1-1"]
    assert (await actuator.propagation("inc-1-1")).sidecars >= 0
    assert await actuator.renew("inc-1-1", 60.0, 1)
    assert not await actuator.renew("no-such", 60.0, 1), "renewing what is gone says so"
    with pytest.raises(Conflict):
        await actuator.lay(replace(ORDER, id="inc-1-2", fence=0))
    assert await actuator.remove("inc-1-1", 1)
    assert not await actuator.remove("inc-1-1", 1), "removing what is gone says so"
    assert await actuator.overlays() == ()
    assert (await actuator.propagation("inc-1-1")).complete, "what is gone is everywhere gone"
