"""What keeps a drill from harming a mesh that people use, decided before anything is touched.

A mesh that the runner starts for the drill alone may be broken in any way. On one that is there already only faults through its
sidecars are possible, only where every struck instance carries the allow label, and only within the drill's blast radius.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from models.domain import Health, Instance
from models.errors import Problem, Refused
from playbooks.units import percent
from simulations.drills.injections.envoy import Abort, Delay
from simulations.drills.schema import Drill

ALLOW: Final = "fibrin.dev/drills"
ALLOWED: Final = "allow"


def objections(drill: Drill, instances: Iterable[Instance]) -> tuple[Problem, ...]:
    """Return everything that speaks against playing a drill on a mesh that people use."""
    known = tuple(instances)
    return (*_harm(drill, known), *_alarms(drill))


def check(drill: Drill, instances: Iterable[Instance]) -> None:
    """Raise Refused with every objection, if there is any."""
    found = objections(drill, instances)
    if found:
        text = f"drill {drill.name} is not safe on this mesh: {found[0].message}"
        raise Refused(text, hint=found[0].hint, problems=found)


def _harm(drill: Drill, known: tuple[Instance, ...]) -> Iterator[Problem]:
    blast = drill.spec.blast
    services: set[str] = set()
    for k, entry in enumerate(drill.spec.faults):
        fault, field = entry.inject.fault, f"spec.faults.{k}"
        if not isinstance(fault, Abort | Delay):
            hint = "leave `--on-this-mesh` out: the runner then starts a mesh of its own to break"
            yield Problem(f"`{entry.inject.name}` needs a mesh that the runner started", field=field, hint=hint)
            continue
        struck = fault.place.struck(known)
        services.add(fault.service)
        silent = [each.id for each in struck if each.labels.get(ALLOW) != ALLOWED]
        if silent:
            hint = f"label them when they start: `fibrin proxy run --label {ALLOW}={ALLOWED} …`"
            yield Problem(f"{', '.join(silent)} do not allow drills", field=field, hint=hint)
        whole = [each for each in known if each.service == fault.service and each.health is Health.HEALTHY]
        capacity = len(struck) / max(1, len(whole))
        traffic = fault.share * (1.0 if fault.caller else min(1.0, capacity))
        if traffic > blast.max_traffic_share:
            text = f"{percent(traffic)} of the requests to {fault.service} would be struck, {percent(blast.max_traffic_share)} may"
            yield Problem(text, field=field, hint="lower its `share`, or raise `blast.maxTrafficShare`")
        narrow = fault.version or fault.instance
        if narrow and capacity > blast.max_capacity_share:
            text = f"{percent(capacity)} of the instances of {fault.service} would be struck, {percent(blast.max_capacity_share)} may"
            yield Problem(text, field=field, hint="strike fewer, or raise `blast.maxCapacityShare`")
    if len(services) > blast.max_services:
        text = f"{len(services)} services would be struck, {blast.max_services} may"
        yield Problem(text, field="spec.faults", hint="split the drill, or raise `blast.maxServices`")


def _alarms(drill: Drill) -> Iterator[Problem]:
    if not drill.spec.abort:
        hint = "for instance `abort: [{service: checkout, good: 90%, lasts: 2s}]`"
        yield Problem("it has no blocking alarm that would end it", field="spec.abort", hint=hint)
    for k, alarm in enumerate(drill.spec.abort):
        if alarm.users:
            yield Problem("users cannot be asked on this mesh", field=f"spec.abort.{k}", hint="name a `service`")
    for k, objective in enumerate(drill.spec.steady_state):
        if objective.users:
            yield Problem("users cannot be asked on this mesh", field=f"spec.steadyState.{k}", hint="name a `service`")
