"""What one process of the agent leaves to the next of what it has learnt: the detectors' baselines, and from when they are."""

from __future__ import annotations

import json
from typing import Final

import structlog

from agent import metrics
from agent.ports import Planner
from agent.store import Store
from models.detect import DetectorBank
from models.errors import InvalidInput

log = structlog.get_logger(__name__)

REMEMBER_S: Final = 30.0
"""How often what was learnt is kept."""

STALE_NORMAL_S: Final = 900.0
"""Baselines older than this are learnt anew: the mesh has moved on."""

NORMAL: Final = "normal"
LEDGER: Final = "ledger"


async def keep(store: Store, bank: DetectorBank, now: float) -> None:
    """Keep what was learnt by `now` (Unix s).

    Raises:
        Broken: the database cannot be written.
    """
    await store.remember(NORMAL, json.dumps({"at": now}).encode() + b"\n" + bank.save())


async def take_up(store: Store, bank: DetectorBank, planner: Planner, now: float) -> bool:
    """Take up baselines and ledger; return whether the baselines can be relied on at `now` (Unix s).

    Raises:
        Broken: the database cannot be read.
    """
    if ledger := await store.recall(LEDGER, shared=True):
        planner.restore(ledger)
    state = await store.recall(NORMAL)
    if state is None:
        return False
    try:
        head, _, learnt = state.partition(b"\n")
        if now - float(json.loads(head)["at"]) > STALE_NORMAL_S:
            return False
        bank.restore(learnt)
    except (ValueError, KeyError, TypeError, InvalidInput) as error:
        metrics.STORE_FAILED.inc()
        log.warning("baselines.unreadable", error=str(error), hint="they are learnt anew")
        return False
    return True
