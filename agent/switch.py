"""The kill switch: while it is thrown the agent changes nothing in the mesh, whatever happens.

Three things throw it: an order over the API or the command line, a file in the state directory (`touch stop-acting` will do),
and the setting `agent.stop_acting`. An order is kept in the file and in the database, so it outlives restarts and reaches
every replica over the database; of file and database the newer word counts. It is looked at before every single change,
so it holds from the next one on.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import structlog

from agent import metrics
from agent.ports import Clock
from agent.store import Store
from models.errors import Broken, Conflict

log = structlog.get_logger(__name__)

FILE: Final = "stop-acting"
MEMORY: Final = "stop-acting"
POLL_S: Final = 0.4

TOUCHED_S: Final = 1.0
"""A file whose time is not that of the order in it was touched by somebody."""

LATER_S: Final = 0.001
"""A new order is at least so much later than every known one, whatever clocks say: the last word of a person counts."""


@dataclass(frozen=True, slots=True)
class Order:
    """The last word of a person: whether to stop, who said so, why, and when (Unix s)."""

    stopped: bool
    who: str = ""
    why: str = ""
    at: float = 0.0

    def __str__(self) -> str:
        """Render as `stopped by ada: deploying`."""
        text = f"stopped by {self.who or 'a person'}"
        return f"{text}: {self.why}" if self.why else text


def read_file(place: Path) -> Order | None:
    """Return what a switch file says, None when there is none; any content that is not ours means stop."""
    try:
        text = place.read_text(encoding="utf-8", errors="replace")
        at = place.stat().st_mtime
    except FileNotFoundError:
        return None
    except OSError as error:  # unreadable: the safe reading is stop
        return Order(stopped=True, why=f"{place} cannot be read ({error.strerror})", at=float("inf"))
    order = parse(text)
    if order is not None and abs(at - order.at) <= TOUCHED_S:
        return order
    why = "" if order is not None else text.strip()[:200]  # an order of ours that somebody touched since means stop too
    return Order(stopped=True, who=f"the file {place.name}", why=why, at=at)


def write_file(place: Path, order: Order) -> None:
    """Write a switch file in one step.

    Raises:
        Broken: it cannot be written.
    """
    fresh = place.with_name(place.name + ".new")
    try:
        fresh.write_text(json.dumps(asdict(order)), encoding="utf-8")
        fresh.chmod(0o600)
        os.utime(fresh, (order.at, order.at))
        fresh.replace(place)
    except OSError as error:
        raise Broken(f"{place} cannot be written: {error.strerror}", hint="check space and permissions") from error


def parse(text: str) -> Order | None:
    """Return the order in `text`, None when it is not one of ours."""
    try:
        body: Any = json.loads(text)
        return Order(bool(body["stopped"]), str(body["who"]), str(body["why"]), float(body["at"]))
    except (ValueError, KeyError, TypeError):
        return None


class KillSwitch:
    """Knows whether the agent may act. `place` is the file, `flag` the setting."""

    def __init__(self, store: Store, place: Path, clock: Clock, *, flag: bool = False) -> None:
        self._store = store
        self._place = place
        self._clock = clock
        self._flag = flag
        self._stored: Order | None = None

    @property
    def stopped(self) -> str:
        """Return why nothing may be done, "" when the agent may act. Asked anew before every change."""
        if self._flag:
            return "stopped by the setting agent.stop_acting"
        last = self._last()
        return str(last) if last is not None and last.stopped else ""

    async def order(self, *, stop: bool, who: str, why: str) -> None:
        """Throw the switch or take it back.

        Raises:
            Conflict: the setting holds it; no order can take that back.
            Broken: neither file nor database could keep the order.
        """
        if self._flag and not stop:
            hint = "remove the setting (flag, environment or file) and restart the agent"
            raise Conflict("agent.stop_acting is set: an order cannot take it back", hint=hint)
        last = self._last()
        known = last.at if last is not None and math.isfinite(last.at) else 0.0
        order = Order(stop, who, why, max(self._clock(), known + LATER_S))
        self._stored = order  # holds from here on, whatever the disk says
        kept, problem = False, ""
        for keep in (self._to_file, self._to_store):
            try:
                await keep(order)
                kept = True
            except Broken as error:
                problem = error.message
                metrics.STORE_FAILED.inc()
                log.warning("switch.not_kept", error=error.message, hint=error.hint)
        metrics.STOPPED.set(bool(self.stopped))
        if not kept:
            raise Broken(f"the order holds, but not over a restart: {problem}", hint="make room on the disk, repeat it")

    async def poll(self) -> None:
        """Read what the database says (another replica may have been given the order)."""
        try:
            known = await self._store.recall(MEMORY, shared=True)
        except Broken as error:
            metrics.STORE_FAILED.inc()
            log.warning("store.failed", what=MEMORY, error=error.message, hint=error.hint)
            return
        order = parse(known.decode("utf-8", "replace")) if known else None
        if order is not None and (self._stored is None or order.at >= self._stored.at):
            self._stored = order
        metrics.STOPPED.set(bool(self.stopped))

    async def run(self) -> None:
        """Poll for ever."""
        while True:
            await self.poll()
            await asyncio.sleep(POLL_S)

    def _last(self) -> Order | None:
        words = [order for order in (read_file(self._place), self._stored) if order is not None]
        return max(words, key=lambda order: (order.at, order.stopped), default=None)

    async def _to_file(self, order: Order) -> None:
        await asyncio.to_thread(write_file, self._place, order)

    async def _to_store(self, order: Order) -> None:
        await self._store.remember(MEMORY, json.dumps(asdict(order)).encode(), shared=True)
