"""From a playbook's action and a cause to one overlay, its size, and the sentence that says why.

`effect` is where words become a change: it fills placeholders from the cause, works out weights from the mesh as it is,
and refuses what cannot be done (no fallback declared, no other healthy version) with the reason. It knows no limits:
how much is too much is the matter of `playbooks.guards`. What moves load or capacity stands in `playbooks.moving`.
"""

from __future__ import annotations

from typing import assert_never

from models.domain import Health
from models.incident import Cause
from models.overlay import (
    AdaptConcurrency,
    Change,
    LimitConnections,
    LimitRate,
    OpenBreaker,
    PauseCanary,
    RunHook,
    SetOutlierDetection,
    SetRetries,
    SetTimeout,
    ShedLoad,
    target,
)
from models.overlay import DisableFault as DisableFaultChange
from playbooks.deeds import (
    ActionSpec,
    Adapt,
    Breaker,
    DisableFault,
    Drain,
    Eject,
    Limit,
    Outliers,
    Page,
    Pause,
    PromoteStable,
    RateLimit,
    Restart,
    RetryPolicy,
    Reversibility,
    RollBackCanary,
    Scale,
    Shed,
    ShiftRegionsAway,
    ShiftTrafficAway,
    ShiftZonesAway,
    Timeout,
)
from playbooks.deeds import (
    RunHook as RunHookSpec,
)
from playbooks.effects import PLACEHOLDER, PLACEHOLDERS, BlastRadius, Effect, Infeasible, fill, radius
from playbooks.moving import promote_stable, restart, roll_back, shift, shift_regions, shift_zones, take_out
from playbooks.schema import HookCall
from playbooks.units import percent
from playbooks.view import View

__all__ = ["PLACEHOLDER", "PLACEHOLDERS", "BlastRadius", "Effect", "Infeasible", "effect", "fill"]

_EVERYBODY = "all"


def effect(  # noqa: C901, PLR0911, PLR0912 - one case per action
    action: ActionSpec, cause: Cause, view: View, undo: HookCall | None = None
) -> Effect | Infeasible:
    """Return the change that `action` means for `cause` in the mesh as it is, or why there is none.

    `undo` is the hook that the step names to take a hook's action back.
    """
    match action:
        case ShiftTrafficAway():
            return shift(action, cause, view)
        case ShiftZonesAway():
            return shift_zones(action, cause, view)
        case ShiftRegionsAway():
            return shift_regions(action, cause, view)
        case Eject() | Drain():
            return take_out(action, cause, view)
        case Restart():
            return restart(action, cause, view)
        case RollBackCanary():
            return roll_back(action, cause, view)
        case PromoteStable():
            return promote_stable(action, cause, view)
        case Breaker():
            return _breaker(action, cause, view)
        case RateLimit():
            return _rate(action, cause, view)
        case Scale():
            return _scale(action, cause, view)
        case RunHookSpec():
            return _hook(action, undo, cause, view)
        case Page():
            return Infeasible("paging changes nothing in the mesh")
        case Pause() | Timeout() | RetryPolicy() | Limit() | Outliers() | Adapt() | Shed() | DisableFault():
            return _setting(action, cause, view)
        case _:
            assert_never(action)


def _setting(  # noqa: C901 - one case per action
    action: Pause | Timeout | RetryPolicy | Limit | Outliers | Adapt | Shed | DisableFault, cause: Cause, view: View
) -> Effect | Infeasible:
    """Return the effect of what changes how every request to one service is treated."""
    name = fill(action.service, cause, view)
    traffic, change, reason = 1.0, _change(action, name), ""
    match action:
        case Pause():
            traffic, reason = 0.0, f"keep the versions of {name} at the shares they have"
            if len([share for share in view.shares(name).values() if share > 0]) < 2:  # noqa: PLR2004 - a split
                return Infeasible(f"{name} has no canary: one version has all traffic")
        case Timeout():
            reason = f"wait at most {action.timeout:g} s for {name}"
        case RetryPolicy():
            reason = f"retry requests to {name} {action.attempts} times inside {percent(action.budget)}"
        case Limit():
            reason = f"limit what callers may have open to {name}"
        case Outliers():
            reason = f"let sidecars eject hosts of {name} by themselves"
        case Adapt():
            reason = f"let the sidecars of {name} find how many requests at once it can carry"
        case Shed():
            what = "low priority" if action.below == "normal" else "less than high priority"
            traffic, reason = action.percent / 100, f"turn away {action.percent}% of {name}'s requests of {what}"
        case DisableFault():
            reason = f"let the faults rest that the declaration of {name} injects"
            if name not in view.topology.faults:
                return Infeasible(f"the declaration of {name} injects no fault")
        case _:
            assert_never(action)
    if not name or not view.known(name):
        return Infeasible(f"the mesh knows no service `{name}`")
    return Effect(change, radius(traffic, 0, 1, view), 1.0, reason)


def _change(  # noqa: PLR0911 - one case per action
    action: Pause | Timeout | RetryPolicy | Limit | Outliers | Adapt | Shed | DisableFault, name: str
) -> Change:
    match action:
        case Pause():
            return PauseCanary(name)
        case Timeout():
            return SetTimeout(name, action.timeout)
        case RetryPolicy():
            kept = max(1, round(100 * action.keep)) if action.keep else 0
            return SetRetries(name, action.attempts, action.budget, action.per_try_timeout, kept)
        case Limit():
            return LimitConnections(name, action.max_requests, action.max_pending, action.max_connections)
        case Outliers():
            most = round(action.max_ejection * 100)
            return SetOutlierDetection(name, action.consecutive_errors, action.interval, action.ejection, most)
        case Adapt():
            return AdaptConcurrency(name)
        case Shed():
            return ShedLoad(name, action.percent, action.below)
        case DisableFault():
            return DisableFaultChange(name)
        case _:
            assert_never(action)


def _breaker(action: Breaker, cause: Cause, view: View) -> Effect | Infeasible:
    callee = fill(action.callee, cause, view)
    caller = _caller(action.caller, cause, view)
    if not callee or not view.known(callee):
        return Infeasible(f"the mesh knows no service `{callee}`")
    if caller is None:
        return Infeasible("the cause names no caller")
    if action.respond == "fallback" and callee not in view.topology.fallbacks:
        return Infeasible(f"{callee} declares no fallback answer (annotation fibrin.dev/fallback)")
    answer = "its declared fallback" if action.respond == "fallback" else "a quick 503"
    change = OpenBreaker(
        callee,
        caller,
        action.percent,
        "fallback" if action.respond == "fallback" else "fail-fast",
        round(action.probe * 100),
    )
    who = caller or "every caller"
    reason = f"answer {action.percent}% of requests from {who} to {callee} with {answer}"
    return Effect(change, radius(_of_callers(caller, callee, view) * action.percent / 100, 0, 1, view), 1.0, reason)


def _rate(action: RateLimit, cause: Cause, view: View) -> Effect | Infeasible:
    service, caller = fill(action.service, cause, view), _caller(action.caller, cause, view)
    if not service or not view.of(service):
        return Infeasible(f"the mesh knows no instance of `{service}`")
    if caller is None:
        return Infeasible("the cause names no caller")
    if caller and not view.known(caller):
        return Infeasible(f"the mesh knows no service `{caller}`")
    change = LimitRate(service, action.requests_per_second, caller, action.burst)
    reason = f"admit {action.requests_per_second:g} requests per second from {caller or 'all callers'} to {service}"
    return Effect(change, radius(_of_callers(caller, service, view), 0, 1, view), 1.0, reason)


def _caller(template: str, cause: Cause, view: View) -> str | None:
    """Return the caller meant: "" for everybody, None when the cause names none."""
    return "" if template == _EVERYBODY else fill(template, cause, view) or None


def _of_callers(caller: str, callee: str, view: View) -> float:
    """Return the share of a service's traffic that comes from `caller`, by the number of callers."""
    return 1.0 / max(1, len(view.topology.callers(callee))) if caller else 1.0


def _scale(action: Scale, cause: Cause, view: View) -> Effect | Infeasible:
    service = fill(action.service, cause, view)
    present = [i for i in view.of(service) if i.health is not Health.LOST]
    if not present:
        return Infeasible(f"the mesh knows no instance of `{service}`")
    count = len(present)
    wanted = max(1, min(count + action.by, max(action.most, count) if action.by > 0 else count))
    if wanted == count:
        return Infeasible(f"{service} has {count} instances already, at most {action.most} are allowed")
    change = RunHook(
        service,
        action.hook,
        {"service": service, "replicas": str(wanted)},
        undo=action.hook,
        undo_parameters={"service": service, "replicas": str(count)},
    )
    healthy = len(view.healthy(service))
    lost = max(0, count - wanted)
    load = healthy / max(1, healthy + wanted - count)
    reason = f"scale {service} from {count} to {wanted} instances through the hook {action.hook}"
    return Effect(change, radius(0, min(lost, healthy), healthy, view), load, reason, Reversibility.HOOK)


def _hook(action: RunHookSpec, undo: HookCall | None, cause: Cause, view: View) -> Effect | Infeasible:
    service = fill(action.service, cause, view)
    if not service or not view.known(service):
        return Infeasible(f"the mesh knows no service `{service}`")

    def told(parameters: dict[str, str]) -> dict[str, str]:
        return {"service": service, **{key: fill(value, cause, view) for key, value in sorted(parameters.items())}}

    change = RunHook(
        service,
        action.hook,
        told(action.parameters),
        undo=undo.hook if undo else "",
        undo_parameters=told(undo.parameters) if undo else {},
    )
    way_back = Reversibility.HOOK if undo else Reversibility.NONE
    return Effect(change, radius(0, 0, 1, view), 1.0, f"run the hook {action.hook} for {target(change)}", way_back)
