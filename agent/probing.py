"""Half-open breakers: now and then a few requests go through to see whether the dependency is well again.

A held breaker that was laid with a probe share is opened a little for a moment, by a second overlay in the same place
with a short lease: whatever becomes of the agent, it ends by itself and the breaker is whole again. Enough good answers
several times in a row close the breaker; the first few bad ones end the look at once, and the next one comes later.
"""

from __future__ import annotations

from collections.abc import Coroutine
from dataclasses import dataclass, replace
from typing import Any, Final

import structlog

from agent import metrics
from agent.actuators.base import Order
from agent.history import History
from agent.incidents import Incident
from agent.scribe import Scribe, Tools
from agent.track import Track
from models.errors import FibrinError
from models.incident import Stage
from models.overlay import OpenBreaker
from models.signals import Series, Side

log = structlog.get_logger(__name__)

FIRST_S: Final = 15.0
"""How long a breaker stays whole before the first look, and after a good one."""

LATEST_S: Final = 240.0
"""Longest pause between looks: each bad one doubles it."""

LOOK_S: Final = 10.0
"""Longest look; the lease of its overlay is a little longer."""

ENOUGH: Final = 5
"""Answers that make a look."""

GOOD_LOOKS: Final = 3
"""Good looks in a row that close the breaker."""

BAD_SHARE: Final = 0.1
"""Share of failed probes from which a look is bad."""

BAD_ENOUGH: Final = 3
"""Failed probes that end a look at once."""

ECHO_S: Final = 5.0
"""How long symptoms of a look may echo."""


@dataclass(slots=True)
class _Looks:
    """What the looks at one breaker have shown so far. `due`: when the next one may begin; `since`: when the present one
    began, 0 when there is none (Unix s).
    """

    due: float
    pause: float = FIRST_S
    good: int = 0
    since: float = 0.0


class Prober:
    """Looks after held breakers, turn by turn. Holds no state that matters: after a restart it looks anew."""

    def __init__(self, tools: Tools, scribe: Scribe, history: History) -> None:
        self._t = tools
        self._scribe = scribe
        self._history = history
        self._looks: dict[str, _Looks] = {}

    def turn(self, track: Track, now: float) -> Coroutine[Any, Any, None] | None:
        """Return what is to be done about an incident's breaker in this turn, None when nothing is."""
        incident, change = track.incident, half_open(track.incident)
        if change is None:
            self._looks.pop(incident.id, None)
            return None
        looks = self._looks.setdefault(incident.id, _Looks(now + FIRST_S))
        if looks.since:
            return self._watch(track, looks, change, now)
        resting = self._t.switch.stopped or self._t.settings.observe_only or self._t.fence.token is None
        if resting or track.busy or looks.good >= GOOD_LOOKS or now < looks.due:
            return None
        looks.since = now
        track.muted_until = now + LOOK_S + ECHO_S
        return self._open(track, change)

    def closed(self, incident: str) -> str:
        """Return why an incident's breaker may close, "" while it may not."""
        looks = self._looks.get(incident)
        if looks is None or looks.good < GOOD_LOOKS:
            return ""
        return f"released: {GOOD_LOOKS} looks in a row found the dependency well; the breaker closes"

    def _watch(self, track: Track, looks: _Looks, change: OpenBreaker, now: float) -> Coroutine[Any, Any, None] | None:
        """Count the requests that really reached the dependency; end the look when they say enough."""

        def probe(series: Series) -> bool:
            caller = not change.caller or series.caller == change.caller
            return series.side is Side.ATTEMPT and series.callee == change.callee and caller

        total = self._history.total(looks.since, probe)
        if now < looks.since + LOOK_S and total.requests < ENOUGH and total.errors < BAD_ENOUGH:
            return None
        looks.since = 0.0
        track.muted_until = now + ECHO_S
        if total.requests >= ENOUGH and total.errors <= BAD_SHARE * total.requests:
            looks.good, looks.pause = looks.good + 1, FIRST_S
            told = f"{total.requests} requests, {total.errors} failed ({looks.good} of {GOOD_LOOKS} good looks)"
        else:
            looks.good, looks.pause = 0, min(LATEST_S, 2 * looks.pause)
            told = f"{total.errors} of {total.requests} requests failed; the next look is in {looks.pause:.0f} s"
        self._scribe.note(track, f"half-open: {told}")
        looks.due = now + looks.pause
        return self._whole(track)

    async def _open(self, track: Track, change: OpenBreaker) -> None:
        step, token = track.incident.current, self._t.fence.token
        if step is None or token is None:
            return
        order = Order(f"{step.overlay}-look", change, "half-open", LOOK_S + 2, track.incident.id, token)
        try:
            await self._t.actuator.lay(order)
        except FibrinError as error:
            metrics.CONTROL_ERRORS.labels("probe").inc()
            log.info("probe.failed", incident=track.incident.id, error=error.message)

    async def _whole(self, track: Track) -> None:
        step = track.incident.current
        try:
            if step is not None:
                await self._t.actuator.remove(f"{step.overlay}-look", self._t.fence.token or 0)
        except FibrinError as error:
            metrics.CONTROL_ERRORS.labels("probe").inc()
            log.info("probe.not_ended", incident=track.incident.id, error=error.message, hint="its lease ends it")
        await self._scribe.save(track)


def half_open(incident: Incident) -> OpenBreaker | None:
    """Return the breaker of a resolved incident with its probes let through, None when it has no such breaker."""
    step = incident.current
    if not incident.held or incident.stage is not Stage.RESOLVED or step is None:
        return None
    change = step.change
    if not isinstance(change, OpenBreaker) or not 0 < change.probe_percent < change.percent:
        return None
    return replace(change, percent=change.percent - change.probe_percent)
