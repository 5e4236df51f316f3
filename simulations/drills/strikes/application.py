"""Faults that the application itself plays, on its private socket: errors, slowness, broken-off answers, leaks, burnt time.

Several may strike one instance at once: what an instance suffers is the sum of what is laid on it, and a fault that ends
takes only its own part away.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import fields, replace
from typing import assert_never

from simulations.cluster import Cluster
from simulations.drills.injections.application import Burn, Capacity, Corruption, Errors, InApplication, Leak, Slowness
from simulations.drills.injections.process import SlowStart
from simulations.drills.strikes.ramp import ramped
from simulations.shop.fault import Fault


def dose(fault: InApplication | SlowStart, size: float = 1.0) -> Fault:
    """Return what the application is told of a fault of which only `size` (0–1) is there yet."""
    match fault:
        case Errors(share=share):
            return Fault(error_ratio=share * size)
        case Slowness(factor=factor) | SlowStart(factor=factor):
            return Fault(slow_factor=1 + (factor - 1) * size)
        case Corruption(share=share):
            return Fault(corrupt_ratio=share * size)
        case Leak(rate=rate, most=most):
            return Fault(leak_mib_s=rate * size, leak_most_mib=most)
        case Burn(share=share):
            return Fault(burn=share * size)
        case Capacity(workers=workers):
            return Fault(workers=float(workers))
        case _:
            assert_never(fault)


def together(doses: Iterable[Fault]) -> Fault:
    """Return the one fault that several doses make: of each kind the strongest, of workers the fewest."""
    found = Fault()
    for each in doses:
        for field in fields(Fault):
            value, now, usual = (getattr(x, field.name) for x in (each, found, Fault()))
            if value == usual:
                continue
            stronger = now == usual or (value < now if field.name == "workers" else value > now)
            found = replace(found, **{field.name: value}) if stronger else found
    return found


class Ailments:
    """What every instance of one cluster suffers from now."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._laid: dict[str, dict[object, Fault]] = {}

    async def lay(self, owner: object, instances: Iterable[str], fault: Fault | None) -> None:
        """Put a dose of `owner`'s in force at instances, None takes it away. An instance that is not there is passed over."""
        await asyncio.gather(*(self._lay(owner, instance, fault) for instance in instances))

    async def _lay(self, owner: object, instance: str, fault: Fault | None) -> None:
        doses = self._laid.setdefault(instance, {})
        if fault is None:
            doses.pop(owner, None)
        else:
            doses[owner] = fault
        try:
            await self._cluster.set_fault(instance, together(doses.values()))
        except (FileNotFoundError, ConnectionError):
            if fault is not None:
                raise  # it cannot be struck; one that is taken away is gone with its process

    @asynccontextmanager
    async def suffered(
        self, fault: InApplication | SlowStart, instances: tuple[str, ...], ramp_s: float, *, down: bool = False
    ) -> AsyncIterator[None]:
        """Make instances suffer while the block runs."""
        owner = object()
        try:
            async with ramped(ramp_s, lambda size: self.lay(owner, instances, dose(fault, size)), down=down):
                yield
        finally:
            await self.lay(owner, instances, None)
