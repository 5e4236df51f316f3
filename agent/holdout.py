"""The hold-out slice: a few of those an act treats stay untreated for a moment, so that "it helped" is measured.

Nobody waits for the measurement: the act is laid whole, and only once its signal is back is the slice opened, by a second
overlay in the same place with a short lease. Whatever becomes of the agent, it ends by itself and the act is whole again.
It is closed as soon as the two sides tell different or equal stories for sure, when its time is up, or when the act goes.
It does not decide whether the act stays (the baseline does); it says whether the act is what helped.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import structlog

from agent import metrics
from agent.actuators.base import Order
from agent.codec import change_json
from agent.history import History
from agent.incidents import Incident, Step, with_step
from agent.scribe import Scribe, Tools
from agent.track import Track
from agent.verification import SETTLING_S, BaselineOf, baseline_of_step, in_flight_s
from models.domain import Topology
from models.errors import FibrinError
from models.holdout import Contrast, Effect, HoldOutTest
from models.overlay import EjectInstance, SetRetries, ShiftTraffic, ShiftZones
from models.signals import Series, Side
from models.telemetry import KEPT
from models.verify import Judgement

log = structlog.get_logger(__name__)

SPARE_S: Final = 2.0
"""How much longer than the slice its lease is, seconds."""

Arm = Callable[[Series], bool]


@dataclass(slots=True)
class _Held:
    """One slice: opened at `since`, counted up to `seen`, closed at `until` at the latest (Unix s).

    `judgement` is the proof against the baseline that came before it.
    """

    overlay: str
    judgement: Judgement
    since: float
    until: float
    seen: float
    test: HoldOutTest
    treated: Arm
    untreated: Arm


class HoldOuts:
    """Opens, watches and closes slices. After a restart nothing is known of one, and its lease ends it."""

    def __init__(self, tools: Tools, scribe: Scribe, history: History) -> None:
        self._t = tools
        self._scribe = scribe
        self._history = history
        self._held: dict[str, _Held] = {}

    def wanted(self, incident: Incident) -> bool:
        """Tell whether the step that was just proven has a slice that was not opened yet."""
        step = incident.current
        unasked = step is None or step.hold_out is None or bool(step.effect) or incident.resumed
        return not unasked and incident.id not in self._held and not self._t.switch.stopped

    def open_for(self, incident: Incident) -> bool:
        """Tell whether the incident has an open slice."""
        return incident.id in self._held

    async def open(self, track: Track, judgement: Judgement, baseline: BaselineOf, topology: Topology) -> None:
        """Leave the step's slice untreated from now on; where that cannot be, say so and leave the act whole."""
        incident, token = track.incident, self._t.fence.token
        step, cause = incident.current, incident.cause
        if step is None or step.hold_out is None or cause is None:
            return
        normal, arms = baseline_of_step(incident, step, self._history, baseline), _arms(step, topology)
        if normal is None or arms is None or token is None:
            self._settle(track, step, Contrast())
            return
        order = Order(_name(step.overlay), step.hold_out, "hold-out", step.hold_out_s + SPARE_S, incident.id, token)
        why = f"a slice stays untreated for up to {step.hold_out_s:g} s to measure whether it is the act that helps"
        body = {"overlay": order.id, "change": change_json(step.hold_out), "why": why}
        if not await self._scribe.record("hold-out", track, body, first=True):
            self._settle(track, step, Contrast())
            return
        try:
            await self._t.actuator.lay(order)
        except FibrinError as error:  # measured less, healed no less
            metrics.CONTROL_ERRORS.labels("hold-out").inc()
            self._settle(track, step, Contrast())
            log.info("hold_out.not_opened", incident=incident.id, error=error.message, hint="the act is whole")
            return
        now = self._t.clock()
        start = now + SETTLING_S + in_flight_s(incident, step, self._history)
        test = HoldOutTest(step.verify_signal or cause.signal, normal)
        until = now + step.hold_out_s
        self._held[incident.id] = _Held(step.overlay, judgement, now, until, start, test, *arms)
        self._scribe.note(track, why)

    def watch(self, incident: Incident, now: float) -> bool:
        """Count what came in; tell whether the slice is to be closed now."""
        held = self._held.get(incident.id)
        if held is None:
            return False
        if now > held.seen:
            treated = self._history.total(held.seen, held.treated, now)
            untreated = self._history.total(held.seen, held.untreated, now)
            held.test.add(treated, untreated, now - held.seen)
            held.seen = now
        return now >= held.until or held.test.contrast().effect is not Effect.OPEN

    async def close(self, track: Track) -> Judgement | None:
        """Treat everybody again; return the step's proof, None when the treated turned bad meanwhile."""
        held = self._held.pop(track.incident.id, None)
        if held is None:
            return None
        try:
            if not self._t.switch.stopped:
                await self._t.actuator.remove(_name(held.overlay), self._t.fence.token or 0)
        except FibrinError as error:
            metrics.CONTROL_ERRORS.labels("hold-out").inc()
            log.info("hold_out.not_closed", incident=track.incident.id, error=error.message, hint="its lease ends it")
        contrast, step = held.test.contrast(), track.incident.current
        if step is not None and step.overlay == held.overlay:
            numbers = {**step.numbers, **contrast.numbers(), "holdout_s": self._t.clock() - held.since}
            self._settle(track, replace(step, numbers=numbers), contrast)
        await self._scribe.record("hold-out", track, {"overlay": _name(held.overlay), "why": str(contrast)})
        await self._scribe.save(track)
        return None if held.test.treated_is_bad() else held.judgement

    def _settle(self, track: Track, step: Step, contrast: Contrast) -> None:
        track.incident = with_step(track.incident, replace(step, effect=str(contrast.effect)))
        self._scribe.note(track, str(contrast), effect=str(contrast.effect))


def _name(overlay: str) -> str:
    return f"{overlay}-hold-out"


def _arms(step: Step, topology: Topology) -> tuple[Arm, Arm] | None:
    """Return which attempts (of retries: requests) are treated and which untreated, None for a change without such a slice."""
    whole, part = step.change, step.hold_out
    match part:
        case ShiftTraffic(service=service, weights=weights) if isinstance(whole, ShiftTraffic):
            left = {version for version, weight in weights.items() if weight > 0 and not whole.weights.get(version)}
            members = {i.id: i.version in left for i in topology.of(service)}
        case ShiftZones(service=service, weights=weights) if isinstance(whole, ShiftZones):
            left = {zone for zone, weight in weights.items() if weight > 0 and not whole.weights.get(zone)}
            members = {i.id: i.zone in left for i in topology.of(service)}
        case EjectInstance(service=service, instance=instance):
            members = {i.id: i.id == instance for i in topology.of(service)}
        case SetRetries(service=service):  # chance decides request by request: callers tell them apart by the route
            return (
                lambda series: series.side is Side.CLIENT and series.callee == service and series.version != KEPT,
                lambda series: series.side is Side.CLIENT and series.callee == service and series.version == KEPT,
            )
        case _:
            return None

    def of(series: Series, *, out: bool) -> bool:
        there = series.side is Side.ATTEMPT and series.callee == service
        return there and members.get(series.instance) is out

    return (lambda series: of(series, out=False)), (lambda series: of(series, out=True))
