"""Attacks on the interlocks that need no running loop, each with the mutation that switches its interlock off."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import make_mocked_request

from agent.api.desk import operator
from control import interlocks
from control.changes import ChangeLog
from control.fencing import Fences
from control.overlays import OverlayBook, Wanted
from control.settings import ControlSettings
from models.domain import Edge, Topology
from models.errors import InvalidInput, Refused
from models.incident import Cause, CauseKind, Signal
from models.overlay import OpenBreaker, Overlay, Owner, SetTimeout
from playbooks import certificates, lint, load, schema
from playbooks.guards import Context
from playbooks.ledger import Entry, Ledger, Outcome
from playbooks.planning import plan
from playbooks.schema import Mode

from .shop import EDGES, INSTANCES

Attack = Callable[[Path], Awaitable[None]]
Mutation = Callable[[pytest.MonkeyPatch], None]


@dataclass(frozen=True)
class Interlock:
    """One interlock of the list, how it is switched off, and the attack that must then succeed."""

    name: str
    off: Mutation
    attack: Attack


def patched(owner: Any, name: str, value: Any) -> Mutation:
    """Return the mutation that replaces an attribute."""
    return lambda patch: patch.setattr(owner, name, value)


PLAYBOOK = """
apiVersion: fibrin.dev/v1
kind: Playbook
metadata: {name: bold}
spec:
  when: {cause: [version], services: {all: true}}
  mode: auto
  steps:
  - {name: move, action: {shiftTraffic: {}}, waves: [20%, 100%], verify: {deadline: 5s}, undo: automatic}
"""
CAUSE = Cause(CauseKind.VERSION, "catalog", "v2", Signal.ERRORS, 0.95, edge=Edge("front", "catalog"))
CONTEXT = Context(
    Topology(INSTANCES, frozenset(Edge(a, b) for a, b in EDGES), weights={"catalog": {"v1": 0.6, "v2": 0.4}}),
    now=10_000.0,
)


@dataclass
class _Clock:
    now: float = 1000.0

    def wall(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now


def refused(text: str) -> Attack:
    """Return an attack: a playbook that must not load."""

    async def attack(_: Path) -> None:
        with pytest.raises(InvalidInput):
            load({"bold.yaml": text})

    return _as_assertion(attack)


def _as_assertion(attack: Attack) -> Attack:
    """Let "nothing was raised" be an AssertionError like any other harm."""

    async def checked(directory: Path) -> None:
        try:
            await attack(directory)
        except pytest.fail.Exception as failure:
            raise AssertionError(str(failure)) from failure

    return checked


async def _nobody_named(_: Path) -> None:
    """An overlay that names no service is laid."""
    overlay = Overlay("o", OpenBreaker(""), Owner.AGENT, "agent", "all of them", 0.0, 60.0, 60.0)
    try:
        interlocks.check(overlay, {}, [], INSTANCES, floor=0.5)
    except InvalidInput:
        return
    raise AssertionError("an empty name was taken")


async def _all_at_once(_: Path) -> None:
    """A playbook with waves treats everybody in its first step."""
    found = plan(CAUSE, CONTEXT, load({"bold.yaml": PLAYBOOK})).plan
    assert found is not None
    moved = [step.blast_radius.traffic for step in found.steps]
    assert len(moved) == 2
    assert moved[0] < moved[1] / 2


async def _uncertified_acts(_: Path) -> None:
    """A playbook that never passed a drill acts alone."""
    playbooks = load({"bold.yaml": PLAYBOOK})
    lacking = certificates.uncertified(playbooks, (), CONTEXT.now, certificates.FRESH_S)
    found = plan(CAUSE, replace(CONTEXT, uncertified=lacking), playbooks).plan
    assert found is not None
    assert found.mode is Mode.APPROVE


async def _unlucky_acts(_: Path) -> None:
    """An agent whose acts of late did not help goes on acting alone."""
    ledger = Ledger()
    for number in range(6):
        ledger = ledger.record(Entry(f"e{number}", CONTEXT.now - 900.0, "cart", 0.0, "other", Outcome.UNDONE))
    found = plan(CAUSE, replace(CONTEXT, ledger=ledger), load({"bold.yaml": PLAYBOOK})).plan
    assert found is not None
    assert found.mode is Mode.APPROVE


async def _outlived(_: Path) -> None:
    """An overlay stays in force after every agent has died."""
    clock = _Clock()
    changes, settings = ChangeLog(clock, keep=10), ControlSettings(state_dir=Path("/nonexistent"))
    fences = Fences(clock)
    fence, _writes = fences.acquire("agent", 5.0)
    book = OverlayBook(clock, changes, fences, settings)
    wanted = Wanted("o", SetTimeout("cart", 1.0), "why", 30.0, Owner.AGENT, "agent", "inc-1", fence.fence)
    overlay = book.propose(wanted)
    assert overlay is not None
    book.lay(overlay)
    clock.now += 31.0
    book.sweep()
    assert book.all == ()


async def _stranger(directory: Path) -> None:
    """Somebody without the operator's token gives an order."""
    token = directory / "operator.token"
    token.write_text("secret\n")
    request = make_mocked_request("POST", "/v1/stop-acting", headers={"Authorization": "Bearer guess"})
    try:
        await operator(request, token)
    except Refused:
        return
    raise AssertionError("the order was taken")


def _one_stage(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(schema.Step, "stages", property(lambda self: ((self.name, self.action.spec),)))


INTERLOCKS = (
    Interlock(
        "1 empty selector",
        patched(schema, "_unclear", lambda _: ""),
        refused(PLAYBOOK.replace("{all: true}", "{names: []}")),
    ),
    Interlock("1 nobody named", patched(interlocks, "_exists", lambda *_: None), _nobody_named),
    Interlock(
        "9 undo",
        patched(lint, "_way_back", lambda *_: iter(())),
        refused(PLAYBOOK.replace(", undo: automatic", "")),
    ),
    Interlock("11 waves", _one_stage, _all_at_once),
    Interlock("14 certificates", patched(certificates, "uncertified", lambda *_: {}), _uncertified_acts),
    Interlock("16 leases", patched(OverlayBook, "sweep", lambda _: ()), _outlived),
    Interlock("21 operator's token", patched(hmac, "compare_digest", lambda *_: True), _stranger),
    Interlock("22 undo rate", patched(Ledger, "undo_rate", lambda *_: (0.0, 0)), _unlucky_acts),
)
