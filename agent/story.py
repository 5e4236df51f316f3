"""The sentences of an incident's story. Pure; everything a person reads about an incident is worded here."""

from __future__ import annotations

from typing import assert_never

from models.incident import Anomaly, Cause, Signal
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
    PauseCanary,
    RouteCanary,
    RunHook,
    SetOutlierDetection,
    SetRetries,
    SetTimeout,
    ShedLoad,
    ShiftTraffic,
    ShiftZones,
)
from models.signals import Series, Side


def figure(value: float, signal: Signal) -> str:
    """Render a value in its signal's unit: `20.1 %`, `312 ms`, `48 rps`."""
    match signal:
        case Signal.ERRORS | Signal.SATURATION:
            return f"{value * 100:.1f} %"
        case Signal.LATENCY:
            return f"{value * 1000:.0f} ms" if value < 10 else f"{value:.1f} s"  # noqa: PLR2004  # readable above 10 s
        case Signal.TRAFFIC:
            return f"{value:.1f} rps"
    assert_never(signal)


def place(series: Series) -> str:
    """Render where a series was seen: `storefront→catalog v2 at catalog-v2-1`."""
    whole = series.side is Side.SERVER or not series.caller
    text = series.callee if whole else f"{series.caller}→{series.callee}"
    if series.version:
        text += f" {series.version}"
    return f"{text} at {series.instance}" if series.instance else text


def symptom(anomaly: Anomaly) -> str:
    """Render an anomaly: `errors of storefront→catalog v2: 20.1 % instead of 0.1 % (34 requests)`."""
    return (
        f"{anomaly.signal} of {place(anomaly.series)}: {figure(anomaly.observed, anomaly.signal)}"
        f" instead of {figure(anomaly.expected, anomaly.signal)} ({anomaly.requests} requests)"
    )


def suspicion(cause: Cause) -> str:
    """Render a cause with its probability and best evidence."""
    why = f": {cause.evidence[0]}" if cause.evidence else ""
    return f"{cause} with {cause.probability:.0%} probability{why}"


def deed(change: Change) -> str:  # noqa: C901, PLR0911, PLR0912  # one answer per member of a closed union
    """Render what a change does, in the imperative."""
    match change:
        case ShiftTraffic(service=service, weights=weights):
            shares = ", ".join(f"{version} {weight}" for version, weight in sorted(weights.items()))
            return f"shift traffic of {service} to {shares}"
        case ShiftZones(service=service, weights=weights):
            shares = ", ".join(f"zone {zone} {weight}" for zone, weight in sorted(weights.items()))
            return f"shift traffic of {service} to {shares}"
        case EjectInstance(instance=instance, keep_percent=keep):
            return f"eject {instance}" + (f" but for {keep} % of its share" if keep else "")
        case DrainInstance(instance=instance):
            return f"drain {instance}"
        case OpenBreaker(callee=callee, caller=caller, percent=percent, respond=respond):
            answer = "the declared fallback" if respond == "fallback" else "a quick 503"
            return f"open the breaker {caller or 'everybody'}→{callee} for {percent} %, answering with {answer}"
        case SetRetries(service=service, attempts=attempts, keep_percent=keep):
            return f"set retries towards {service} to {attempts}" + (
                f" but for {keep} % of the requests" if keep else ""
            )
        case SetTimeout(service=service, timeout_s=timeout_s):
            return f"set the timeout towards {service} to {timeout_s:g} s"
        case LimitConnections(service=service):
            return f"limit connections to {service}"
        case InjectFault(service=service):
            return f"inject a fault into {service}"
        case SetOutlierDetection(service=service):
            return f"tighten outlier detection of {service}"
        case DisableFault(service=service):
            return f"let the declared faults of {service} rest"
        case LimitRate(service=service, caller=caller, requests_per_s=rate):
            return f"admit {rate:g} requests per second from {caller or 'all callers'} to {service}"
        case AdaptConcurrency(service=service):
            return f"let the sidecars of {service} find the concurrency it can carry"
        case ShedLoad(service=service, percent=percent, below=below):
            return f"turn away {percent} % of the requests to {service} with a priority below {below}"
        case RouteCanary(service=service, canary=canary, percent=percent, mirror=mirror, conditions=conditions):
            which = f"{percent} % of the requests to {service}" + (" that match" if conditions else "")
            return f"copy {which} to {canary}" if mirror else f"send {which} to {canary}"
        case PauseCanary(service=service):
            return f"pause the canary of {service}"
        case RunHook(service=service, hook=hook, parameters=parameters):
            told = ", ".join(f"{key}={value}" for key, value in sorted(parameters.items()))
            return f"run the hook {hook} for {service} ({told})"
    assert_never(change)
