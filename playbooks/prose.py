"""A playbook in plain English, for whoever has to trust it: when it acts, how far it may go, what it does, how it ends."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import assert_never

from playbooks import deeds
from playbooks.certificates import Standing
from playbooks.deeds import ActionSpec, Reversibility, reversibility
from playbooks.schema import Guard, HookCall, Mode, Playbook, Step, When
from playbooks.units import percent, span

_MODES = {
    Mode.SHADOW: "only says what it would do",
    Mode.APPROVE: "asks a person before it acts",
    Mode.AUTO: "acts by itself",
}


def explain(playbook: Playbook, standing: Standing | None = None) -> str:
    """Return a playbook as prose, in short paragraphs ending in a newline."""
    spec = playbook.spec
    mode = _MODES[spec.mode]
    if standing is not None and spec.mode is Mode.AUTO:
        mode += "" if standing.certified else ", but not now: it asks a person"
        mode += f" ({standing.reason})"
    parts = [
        f"{playbook.name}: {spec.description.strip() or 'no description.'}",
        f"It {mode}.",
        f"It applies when {_when(spec.when)}.",
        f"Of several that apply the one with the highest priority acts; this one has {spec.priority}.",
        "It may " + _joined(list(_guard(spec.guard))) + ".",
        "\n".join(_steps(spec.steps)),
        _page(spec.escalate, "When nothing has helped"),
    ]
    return "\n\n".join(parts) + "\n"


def _when(when: When) -> str:
    services = when.services
    who = "any service"
    if services.names:
        who = _either(services.names)
    elif services.labels:
        who = "a service labelled " + ", ".join(f"{key}={value}" for key, value in sorted(services.labels.items()))
    if services.exclude:
        who += f" except {_either(services.exclude)}"
    text = f"the cause is a bad {_either(when.cause)} of {who}"
    text += f", seen by {_either(when.signal)}, with at least {percent(when.min_probability)} certainty"
    text += f" and severity {when.min_severity} or more" if when.min_severity.rank else ""
    return text + (f", and `{when.expression}` holds" if when.expression else "")


def _guard(guard: Guard) -> Iterator[str]:
    yield f"treat up to {percent(guard.max_traffic_share)} of a service's traffic differently"
    yield f"take up to {percent(guard.max_capacity_share)} of its healthy instances away, leaving {percent(guard.min_healthy_share)}"
    if guard.headroom:
        yield f"move load only where {percent(guard.headroom)} of the limit stays free"
    if guard.max_load_factor:
        yield f"raise the load of those who stay to at most {guard.max_load_factor:g} times the usual"
    yield f"act at most {guard.rate.count} times in {span(guard.rate.per)}, {span(guard.cooldown)} apart on one service"
    yield f"have {guard.concurrency} unverified {'action' if guard.concurrency == 1 else 'actions'} at once"
    yield f"fail {guard.strikes} {'time' if guard.strikes == 1 else 'times'} on a service within an hour before it gives up there"
    for window in guard.freeze:
        yield f"do nothing during the freeze {window}"
    if guard.error_budget.min_remaining:
        yield f"act only while {percent(guard.error_budget.min_remaining)} of the error budget is left"
    if guard.error_budget.max_burn:
        yield f"act only while the error budget burns at most {guard.error_budget.max_burn:g} times too fast"


def _steps(steps: Sequence[Step]) -> Iterator[str]:
    yield "It tries, in this order:"
    for number, step in enumerate(steps, 1):
        spec = step.action.spec
        if isinstance(spec, deeds.Page):
            yield f"  {number}. {_page(spec, 'There')}"
            continue
        text = f"  {number}. {step.name}: {does(spec)}"
        text += f", after waiting {span(step.hold_down)} in case it passes" if step.hold_down else ""
        text += f", {', then '.join(percent(share) for share in step.waves)} of it" if step.waves else ""
        yield text + f". {_proof(step)} {_back(step)}"


def _proof(step: Step) -> str:
    if step.verify is None:
        return "Nothing tells whether it helped."
    what = step.verify.signal or "the signal"
    whose = f" of {_either(step.verify.services)}" if step.verify.services else ""
    text = f"It helped if {what}{whose} is normal again within {span(step.verify.deadline)}"
    out = step.verify.hold_out
    if out is not None:
        text += f", and {percent(out.share)} of what it treats is left out for up to {span(out.span)} to compare with"
        text += "" if out.critical else " unless the harm is critical"
    return text + "."


def _back(step: Step) -> str:
    if isinstance(step.undo, HookCall):
        return f"If not, the hook {step.undo.hook} takes it back."
    match reversibility(step.action.spec):
        case Reversibility.INSTANT:
            return "If not, it is undone within milliseconds."
        case Reversibility.HOOK if step.undo == "automatic":
            return "If not, the hook is asked for the former number."
        case Reversibility.HOOK | Reversibility.NONE:
            return "It cannot be taken back."
        case _:
            assert_never(reversibility(step.action.spec))


def does(spec: ActionSpec) -> str:  # noqa: C901, PLR0911, PLR0912 - one sentence per action
    """Return what an action does, in the words of its parameters."""
    match spec:
        case deeds.ShiftTrafficAway(away=away, keep=keep):
            return f"send the traffic of version {away} to the other healthy versions{_keeping(keep)}"
        case deeds.ShiftZonesAway(away=away, keep=keep):
            return f"send the service's traffic from zone {away} to its other zones{_keeping(keep)}"
        case deeds.ShiftRegionsAway(away=away, keep=keep):
            return f"send the service's traffic from region {away} to its other regions{_keeping(keep)}"
        case deeds.Eject(instance=instance, keep=keep):
            return f"send no more requests to instance {instance}{_keeping(keep)}"
        case deeds.Drain(instance=instance):
            return f"send no more requests to instance {instance} and close its connections as they fall idle"
        case deeds.Restart(instance=instance, hook=hook):
            return f"restart instance {instance} through the hook {hook}"
        case deeds.Breaker():
            answer = "its declared fallback" if spec.respond == "fallback" else "a quick 503"
            who = "every caller" if spec.caller == "all" else spec.caller
            probes = f", and let {percent(spec.probe)} through later to see whether it is well" if spec.probe else ""
            return f"answer {spec.percent}% of the requests from {who} to {spec.callee} with {answer}{probes}"
        case deeds.RollBackCanary(version=version):
            return f"take all traffic from {version}, if it has less than half"
        case deeds.Pause(service=service):
            return f"keep the versions of {service} at the shares they have"
        case deeds.PromoteStable(service=service):
            return f"give all traffic of {service} to its stable version"
        case deeds.Timeout(timeout=timeout, service=service):
            return f"wait at most {span(timeout)} for {service}"
        case deeds.RetryPolicy(attempts=attempts, budget=budget, service=service):
            return f"retry requests to {service} {attempts} times, adding at most {percent(budget)} of load"
        case deeds.Limit(service=service):
            numbers = {"requests": spec.max_requests, "waiting": spec.max_pending, "connections": spec.max_connections}
            return f"allow each caller's sidecar {_joined([f'{n} {what}' for what, n in numbers.items() if n])} to {service}"
        case deeds.Outliers(service=service, consecutive_errors=errors, ejection=ejection):
            return f"let sidecars eject hosts of {service} for {span(ejection)} after {errors} errors in a row"
        case deeds.Adapt(service=service):
            return f"let the sidecars of {service} find how many requests at once it can carry"
        case deeds.Shed(service=service, percent=share, below=below):
            return f"turn away {share}% of the requests to {service} with a priority below {below}"
        case deeds.RateLimit(service=service, caller=caller, requests_per_second=rate):
            who = "everybody together" if caller == "all" else caller
            return f"admit {rate:g} requests per second from {who} to {service}"
        case deeds.DisableFault(service=service):
            return f"let the faults rest that the declaration of {service} injects"
        case deeds.Scale(service=service, by=by, most=most, hook=hook):
            return f"ask the hook {hook} for {by:+d} instances of {service}, {most} at most"
        case deeds.RunHook(service=service, hook=hook):
            return f"run the hook {hook} for {service}"
        case deeds.Page():
            return "call a person"
        case _:
            assert_never(spec)


def _keeping(keep: float) -> str:
    return f", keeping {percent(keep)} of it" if keep else ""


def _page(page: deeds.Page, lead: str) -> str:
    to = f" through {_either(page.to)}" if page.to else ""
    said = f': "{page.summary}"' if page.summary else ""
    return f"{lead} a person is called{to}, severity {page.severity}{said}."


def _either(words: Sequence[str]) -> str:
    return " or ".join(str(word) for word in words)


def _joined(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])}, and {words[-1]}"
