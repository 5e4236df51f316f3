"""What is written down of a decision and of its proof: plain data for the audit log, sentences for people."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from agent import story
from agent.codec import CAUSE, change_json
from agent.incidents import Incident, Step
from agent.ports import Circumstances
from models.verify import Judgement


def judged(incident: Incident, judgement: Judgement, now: float) -> Step:
    """Return the step being taken with its verdict and the numbers behind it."""
    step = incident.current
    assert step is not None
    numbers = {
        "observed": judgement.observed,
        "expected": judgement.expected,
        "requests": float(judgement.requests),
        "p_value": judgement.p_value,
        "elapsed_s": now - step.acked_at,
    }
    found = {k: v for k, v in numbers.items() if math.isfinite(v)}
    return replace(step, verdict=str(judgement.verdict), numbers={**step.numbers, **found})


def signal_text(incident: Incident, judgement: Judgement) -> str:
    """Render a judgement: `errors of catalog 0.1 %, normally 0.0 % (163 requests)`."""
    step, cause = incident.current, incident.cause
    assert step is not None
    assert cause is not None
    signal = step.verify_signal or cause.signal
    where = ", ".join(step.verify_services) or cause.service
    observed, expected = story.figure(judgement.observed, signal), story.figure(judgement.expected, signal)
    return f"{signal} of {where} {observed}, normally {expected} ({judgement.requests} requests)"


def step_json(step: Step | None) -> Mapping[str, Any] | None:
    """Return a step as the audit log keeps it."""
    if step is None:
        return None
    return {
        "name": step.name,
        "overlay": step.overlay,
        "change": change_json(step.change),
        "verdict": step.verdict,
        "numbers": dict(step.numbers),
        **({"effect": step.effect} if step.effect else {}),
    }


def decision_json(incident: Incident, around: Circumstances, fence: int) -> Mapping[str, Any]:
    """Return everything the decision rested on, enough to make it again."""
    return {
        "cause": None if incident.cause is None else CAUSE.dump_python(incident.cause, mode="json"),
        "suspects": [{"cause": str(c), "probability": c.probability} for c in incident.causes],
        "anomalies": [story.symptom(a) for a in incident.anomalies],
        "why": str(incident.cause) if incident.cause else incident.title,
        "decision": incident.decision,
        "onset": incident.onset,
        "playbook": incident.playbook,
        "mode": incident.mode,
        "considered": [
            {"playbook": w.playbook, "accepted": w.accepted, "reason": w.reason} for w in incident.considered
        ],
        "step": step_json(incident.current),
        "guards": {
            "storm_share": around.storm_share,
            "blind": sorted(around.blind),
            "traffic_share": incident.current.traffic_share if incident.current else 0.0,
            "capacity_share": incident.current.capacity_share if incident.current else 0.0,
        },
        "overlays": [overlay.id for overlay in around.overlays],
        "fence": fence,
    }
