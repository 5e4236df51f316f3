"""The sentences of an incident's story. Pure; everything a person reads about an incident is worded here."""

from __future__ import annotations

from typing import assert_never

from models.incident import Anomaly, Cause, Signal
from models.overlay import (
    Change,
    EjectInstance,
    InjectFault,
    LimitConnections,
    OpenBreaker,
    SetOutlierDetection,
    SetRetries,
    SetTimeout,
    ShiftTraffic,
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


def deed(change: Change) -> str:  # noqa: PLR0911  # one answer per member of a closed union
    """Render what a change does, in the imperative."""
    match change:
        case ShiftTraffic(service=service, weights=weights):
            shares = ", ".join(f"{version} {weight}" for version, weight in sorted(weights.items()))
            return f"shift traffic of {service} to {shares}"
        case EjectInstance(instance=instance):
            return f"eject {instance}"
        case OpenBreaker(callee=callee, caller=caller, percent=percent, respond=respond):
            answer = "the declared fallback" if respond == "fallback" else "a quick 503"
            return f"open the breaker {caller or 'everybody'}→{callee} for {percent} %, answering with {answer}"
        case SetRetries(service=service, attempts=attempts):
            return f"set retries towards {service} to {attempts}"
        case SetTimeout(service=service, timeout_s=timeout_s):
            return f"set the timeout towards {service} to {timeout_s:g} s"
        case LimitConnections(service=service):
            return f"limit connections to {service}"
        case InjectFault(service=service):
            return f"inject a fault into {service}"
        case SetOutlierDetection(service=service):
            return f"tighten outlier detection of {service}"
    assert_never(change)
