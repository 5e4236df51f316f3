"""Faults of load: more users, many at once, all after one product, users who try again at once. Each is a load generator more."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import assert_never
from uuid import uuid4

from simulations.cluster import Cluster
from simulations.drills.injections.load import Herd, HotKey, OnLoad, RetryStorm, Surge


def flags(fault: OnLoad) -> tuple[float, tuple[str, ...]]:
    """Return the rate and the flags of the load generator that plays a fault."""
    match fault:
        case Surge(rate=rate):
            return rate, ()
        case Herd(size=size, every=every):
            return 1.0, ("--herd", str(size), "--every", str(every))
        case HotKey(rate=rate, product=product):
            return rate, ("--product", str(product))
        case RetryStorm(rate=rate, attempts=attempts):
            return rate, ("--retries", str(attempts))
        case _:
            assert_never(fault)


@asynccontextmanager
async def loaded(cluster: Cluster, fault: OnLoad) -> AsyncIterator[None]:
    """Let them come, and go at the end."""
    name = f"load-{uuid4().hex[:8]}"
    rate, options = flags(fault)
    await cluster.start_load(name, rate, cluster.state_dir / f"{name}.jsonl", *options)
    try:
        yield
    finally:
        await cluster.stop_load(name)
