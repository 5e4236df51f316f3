"""Whether an overlay may be laid at all. Pure: judges one change against the mesh as it is now.

What is wrong in itself (out of range, unknown names) is InvalidInput; what would do harm is Refused. `effective` holds
the same rules at every later moment, when the mesh has changed under an overlay that was once granted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final, NoReturn, assert_never

from control.effective import effective
from models.domain import Health, Instance
from models.errors import InvalidInput, Problem, Refused
from models.manifest import suggest
from models.overlay import (
    AdaptConcurrency,
    Change,
    DisableFault,
    DrainInstance,
    EjectInstance,
    InjectFault,
    LimitConnections,
    LimitRate,
    OpenBreaker,
    Overlay,
    Owner,
    PauseCanary,
    RouteCanary,
    RunHook,
    SetOutlierDetection,
    SetRetries,
    SetTimeout,
    ShedLoad,
    ShiftTraffic,
    ShiftZones,
    target,
)
from models.policy import ServicePolicy

NO_SERVICE_HINT: Final = "no service is known: declare one, or register an instance of one"
_HOUR_S = 3600.0
_LEAST_TIMEOUT_S = 0.001
_LEAST_RATE = 0.01  # requests per second


def check(
    overlay: Overlay,
    declared: Mapping[str, ServicePolicy],
    overlays: Iterable[Overlay],
    instances: Iterable[Instance],
    *,
    floor: float,
) -> None:
    """Raise when `overlay` must not be laid beside `overlays`.

    Raises:
        InvalidInput: it names what does not exist, or values out of range.
        Refused: an interlock forbids it: zero weight sum, no capacity left, less than the floor.
    """
    change = overlay.change
    members = tuple(instances)
    _exists(change, declared, members)
    if problems := tuple(_ranges(change)):
        raise InvalidInput(f"{problems[0].field}: {problems[0].message}", hint=problems[0].hint, problems=problems)
    if isinstance(change, ShiftTraffic | ShiftZones) and sum(change.weights.values()) == 0:
        raise Refused(
            f"the weights of {change.service} add up to 0: nobody would answer", hint="give one of them a weight"
        )
    if isinstance(change, OpenBreaker) and change.respond == "fallback":
        policy = declared.get(change.callee)
        if policy is None or policy.fallback is None:
            _invalid(
                "change.respond",
                f"{change.callee} declares no fallback answer",
                "annotate its VirtualService with fibrin.dev/fallback, or respond fail-fast",
            )
    others = [other for other in overlays if other.id != overlay.id]
    _not_paused(overlay, others)
    result = effective(declared, [*others, overlay], members, floor=floor)
    if reason := result.held_back.get(overlay.id):
        raise Refused(f"{overlay.change.kind} on {target(change)}: {reason}", hint=_way_out(change))
    if isinstance(change, ShiftTraffic | ShiftZones | RouteCanary):
        before = effective(declared, others, members, floor=floor).held_back
        if lifted := sorted(set(result.held_back) - set(before)):
            raise Refused(
                f"{change.kind} on {change.service}: {result.held_back[lifted[0]]}",
                hint=f"end overlay {lifted[0]} first",
            )


def _not_paused(overlay: Overlay, others: Iterable[Overlay]) -> None:
    """Refuse a canary's step (an agent's share that belongs to no incident) while its service is paused."""
    change = overlay.change
    if not isinstance(change, ShiftTraffic | RouteCanary) or overlay.owner is Owner.PERSON or overlay.incident:
        return
    pause = next((o for o in others if isinstance(o.change, PauseCanary) and o.change.service == change.service), None)
    if pause is not None:
        raise Refused(
            f"{change.kind} on {change.service}: its canary is paused by {pause.id} ({pause.reason})",
            hint=f"wait, or end overlay {pause.id} first",
        )


def _exists(  # noqa: C901, PLR0912 - one case per kind of change
    change: Change, declared: Mapping[str, ServicePolicy], instances: tuple[Instance, ...]
) -> None:
    services = {*declared, *(instance.service for instance in instances)}
    service = target(change)
    field = "change.callee" if isinstance(change, OpenBreaker) else "change.service"
    if not service:
        _invalid(field, "must name a service; empty never means all", "`fibrin get services` lists them")
    if service not in services:
        _invalid(field, f"there is no service `{service}`", suggest(service, sorted(services)) or NO_SERVICE_HINT)
    if isinstance(change, OpenBreaker) and change.caller and change.caller not in services:
        _invalid(
            "change.caller",
            f"there is no service `{change.caller}`",
            suggest(change.caller, sorted(services)) or NO_SERVICE_HINT,
        )
    members = [instance for instance in instances if instance.service == service]
    match change:
        case EjectInstance(instance=name) | DrainInstance(instance=name):
            known = sorted(instance.id for instance in members)
            if name not in known:
                _invalid("change.instance", f"{service} has no instance `{name}`", suggest(name, known))
        case ShiftTraffic(weights=weights):
            versions = sorted({instance.version for instance in members if instance.health is not Health.LOST})
            if not weights:
                _invalid(
                    "change.weights",
                    "must name at least one version; empty never means all",
                    "`fibrin describe service` lists them",
                )
            for name, weight in weights.items():
                if name not in versions and weight > 0:
                    _invalid(f"change.weights.{name}", f"{service} has no version `{name}`", suggest(name, versions))
        case RouteCanary(canary=canary, stable=stable):
            versions = sorted({instance.version for instance in members if instance.health is not Health.LOST})
            for field_name, name in (("canary", canary), ("stable", stable)):
                if name not in versions:
                    _invalid(f"change.{field_name}", f"{service} has no version `{name}`", suggest(name, versions))
        case ShiftZones(weights=weights):
            zones = sorted({instance.zone for instance in members if instance.health is not Health.LOST})
            if not weights:
                _invalid("change.weights", "must name at least one zone; empty never means all", "")
            for name, weight in weights.items():
                if name not in zones and weight > 0:
                    _invalid(f"change.weights.{name}", f"{service} has no zone `{name}`", suggest(name, zones))
        case LimitRate(caller=caller) if caller and caller not in services:
            _invalid("change.caller", f"there is no service `{caller}`", suggest(caller, sorted(services)))
        case InjectFault():
            _scope(change, declared.get(service, ServicePolicy(service)), services, members)
        case RunHook(instance=name) if name and name not in {instance.id for instance in members}:
            known = sorted(instance.id for instance in members)
            _invalid("change.instance", f"{service} has no instance `{name}`", suggest(name, known))
        case _:
            pass


def _scope(change: InjectFault, policy: ServicePolicy, services: set[str], members: list[Instance]) -> None:
    """Refuse a fault for requests that there are none of, or that are named twice."""
    if sum(map(bool, (change.caller, change.version, change.instance))) > 1:
        _invalid("change", "give one of `caller`, `version` and `instance`", "two faults are two overlays")
    if change.route and (change.version or change.instance):
        _invalid("change.route", "only callers know routes", "leave it out, or name a caller")
    for name, value, known in (
        ("caller", change.caller, services),
        ("route", change.route, {route.name for route in policy.routes}),
        ("version", change.version, {i.version for i in members}),
        ("instance", change.instance, {i.id for i in members}),
    ):
        if value and value not in known:
            _invalid(f"change.{name}", f"there is no {name} `{value}`", suggest(value, sorted(known)))


def _ranges(change: Change) -> Iterator[Problem]:  # noqa: C901, PLR0912 - one case per kind of change
    match change:
        case ShiftTraffic(weights=weights) | ShiftZones(weights=weights):
            for name, weight in weights.items():
                yield from _within(f"weights.{name}", weight, 0, 1_000_000)
        case EjectInstance(keep_percent=keep):
            yield from _within("keep_percent", keep, 0, 50)
        case DrainInstance() | DisableFault() | AdaptConcurrency() | PauseCanary():
            pass
        case RouteCanary() as route:
            yield from _canary(route)
        case OpenBreaker(percent=percent, probe_percent=probe):
            yield from _within("percent", percent, 1, 100)
            yield from _within("probe_percent", probe, 0, 50)
        case LimitRate(requests_per_s=rate, burst_s=burst):
            yield from _within("requests_per_s", rate, _LEAST_RATE, 1e6)
            yield from _within("burst_s", burst, _LEAST_TIMEOUT_S, 60)
        case ShedLoad(percent=percent):
            yield from _within("percent", percent, 1, 100)
        case RunHook(hook=hook):
            if not hook:
                yield Problem("names no hook", field="change.hook", hint="hooks are declared in the agent's settings")
        case SetRetries(attempts=attempts, budget=budget, per_try_timeout_s=per_try, keep_percent=keep):
            yield from _within("keep_percent", keep, 0, 50)
            yield from _within("attempts", attempts, 0, 10)
            yield from _within("budget", budget, 0, 1)
            yield from _within("per_try_timeout_s", per_try, 0, _HOUR_S)
        case SetTimeout(timeout_s=timeout_s):
            yield from _within("timeout_s", timeout_s, _LEAST_TIMEOUT_S, _HOUR_S)
        case LimitConnections(max_requests=requests, max_pending=pending, max_connections=connections):
            for name, value in (
                ("max_requests", requests),
                ("max_pending", pending),
                ("max_connections", connections),
            ):
                yield from _within(name, value, 0, 2**31 - 1)
            if not (requests or pending or connections):
                yield Problem("sets no limit", field="change", hint="give at least one limit above 0")
        case InjectFault(
            abort_percent=abort, abort_status=status, delay_percent=delay, delay_s=delay_s, delay_sigma=sigma
        ):
            yield from _within("abort_percent", abort, 0, 100)
            yield from _within("abort_status", status, 200, 599)
            yield from _within("delay_percent", delay, 0, 100)
            yield from _within("delay_s", delay_s, 0, _HOUR_S)
            yield from _within("delay_sigma", sigma, 0, 3)
            if not abort and not (delay and delay_s):
                yield Problem(
                    "injects nothing", field="change", hint="give abort_percent, or delay_percent and delay_s"
                )
        case SetOutlierDetection(
            consecutive_errors=errors, interval_s=interval, ejection_s=ejection, max_ejection_percent=percent
        ):
            yield from _within("consecutive_errors", errors, 1, 1000)
            yield from _within("interval_s", interval, _LEAST_TIMEOUT_S, _HOUR_S)
            yield from _within("ejection_s", ejection, _LEAST_TIMEOUT_S, _HOUR_S)
            yield from _within("max_ejection_percent", percent, 0, 100)
        case _:
            assert_never(change)


def _canary(route: RouteCanary) -> Iterator[Problem]:
    yield from _within("percent", route.percent, 1, 100)
    if route.canary == route.stable:
        yield Problem("canary and stable are the same version", field="change.canary")
    if not (route.conditions or route.mirror):
        hint = "give conditions, or shift traffic by weights"
        yield Problem("chooses no requests; empty never means all", field="change.conditions", hint=hint)
    if any(not each.name for each in route.conditions):
        yield Problem("names no header", field="change.conditions")


def _within(name: str, value: float, low: float, high: float) -> Iterator[Problem]:
    if not low <= value <= high:  # also refuses NaN
        yield Problem(f"must lie between {low:g} and {high:g}, found {value:g}", field=f"change.{name}")


def _invalid(field: str, message: str, hint: str) -> NoReturn:
    raise InvalidInput(f"{field}: {message}", hint=hint, problems=(Problem(message, field=field, hint=hint),))


def _way_out(change: Change) -> str:
    match change:
        case EjectInstance() | DrainInstance():
            return "add an instance, end another ejection, or shift the version's traffic away first"
        case ShiftTraffic() | RouteCanary():
            return "give a weight to a version that has a healthy instance"
        case ShiftZones():
            return "add instances in the zones that shall take over"
        case _:
            return "see `fibrin describe` of the service"
