"""A change of root without a failed request: trust both, then sign with the new one, then trust only that.

Each step waits until every registered sidecar has confirmed the one before. The authority keeps on disk how far it got,
so a change that was interrupted is taken up by calling `change_root` again.
"""

from __future__ import annotations

import asyncio
from typing import Final

import structlog

from control.identity.authority import Authority
from control.xds.server import AdsServer
from models.domain import Health
from models.errors import Unavailable

log = structlog.get_logger(__name__)

STEP_S: Final = 30.0


async def change_root(server: AdsServer, authority: Authority, timeout_s: float = STEP_S) -> None:
    """Replace the root of the mesh; `timeout_s` is for each of the three steps.

    Raises:
        Unavailable: a registered sidecar is not connected, or did not confirm in time. Nothing is broken: the mesh
            goes on with the roots it has, and the next call goes on from there.
    """
    if not authority.changing:
        await asyncio.to_thread(authority.begin)
        log.info("identity.root_begun")
    if authority.changing == "begun":
        await _confirmed(server, timeout_s, "trusted the new root beside the old one")
        await asyncio.to_thread(authority.promote)
        log.info("identity.root_promoted", signer=authority.signer)
    await _confirmed(server, timeout_s, "taken a certificate of the new root")
    await asyncio.to_thread(authority.retire)
    log.info("identity.root_retired")
    await _confirmed(server, timeout_s, "dropped the old root")


async def _confirmed(server: AdsServer, timeout_s: float, what: str) -> None:
    propagation = await server.wait_acked(server.refresh(), timeout_s)
    connected = {proxy.id for proxy in server.proxies() if proxy.connected}
    instances = server.world.instances if server.world else ()
    absent = sorted(i.id for i in instances if i.health is not Health.LOST and i.id not in connected)
    missing = sorted({*absent, *propagation.pending, *propagation.nacked})
    if missing:
        raise Unavailable(
            f"{len(missing)} sidecars have not {what}: {', '.join(missing[:10])}",
            hint="look at them with `fibrin get proxies`, then ask for the change of root again",
        )
