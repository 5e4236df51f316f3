"""What a decision rested on, as it enters the audit log: enough to make it again.

Everything the localiser and the planner were given is written down with the decision. What is large and seldom changes
(playbooks, topology) is written once per file of the log, as a record of its own that decisions name by its digest.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from pydantic import TypeAdapter

from agent import story
from agent.audit.chain import canonical, plain
from agent.chronicle import Chronicle
from agent.codec import CAUSE, change_json
from agent.incidents import Incident, Step
from agent.ports import Circumstances, Draft
from agent.records import step_json
from agent.sources import Sources
from agent.thinking import Remembering
from models.detect import Baseline
from models.domain import ChangeEvent, Topology
from models.incident import Anomaly
from models.localise import Evidence
from models.plain import Json
from models.signals import Outcomes, Series
from playbooks.guards import Limits

DECISION: Final = "decision"
MATERIAL: Final = "material"

SERIES_MOST: Final = 5000
"""Evidence of more series is not written down (a mesh-wide fault of a large mesh); the plan can still be made again."""

CIRCUMSTANCES: TypeAdapter[Circumstances] = TypeAdapter(Circumstances)
TOPOLOGY: TypeAdapter[Topology] = TypeAdapter(Topology)
ANOMALIES: TypeAdapter[tuple[Anomaly, ...]] = TypeAdapter(tuple[Anomaly, ...])
CHANGES: TypeAdapter[tuple[ChangeEvent, ...]] = TypeAdapter(tuple[ChangeEvent, ...])
LIMITS: TypeAdapter[Limits] = TypeAdapter(Limits)
DRAFT: TypeAdapter[Draft] = TypeAdapter(Draft)


@dataclass(frozen=True, slots=True)
class _Material:
    """Something that decisions refer to, with its name worked out once: it is large and seldom changes."""

    digest: str
    value: Json

    @classmethod
    def of(cls, value: Json) -> _Material:
        """Name a value."""
        return cls(digest_of(value), value)


class Decisions:
    """Writes decisions. `part` names the log's current file: what decisions refer to is written into it once."""

    def __init__(self, chronicle: Chronicle, sources: Sources, limits: Limits, part: Callable[[], int]) -> None:
        self._chronicle = chronicle
        self._rules = _Material.of(rules_json(sources, limits))
        self._part = part
        self._written: set[str] = set()
        self._written_in = -1
        self._topology = (Topology(), _Material.of(topology_json(Topology())))

    async def write(
        self, incident: Incident, draft: Draft, around: Circumstances, ledger: bytes, evidence: Evidence | None
    ) -> int:
        """Write what was decided about an incident, and from what; return the record's number, 0 when it failed."""
        inputs = {
            "rules": await self._material("rules", self._rules),
            "topology": await self._material("topology", self._plain(around.topology)),
            "circumstances": circumstances_json(around),
            "ledger": ledger.decode(),
            "evidence": None,
        }
        if evidence is not None:
            inputs["evidence_topology"] = await self._material("topology", self._plain(evidence.topology))
            inputs["evidence"] = evidence_json(evidence)
        data = {**decided_json(incident, draft), "inputs": inputs}
        return await self._chronicle.write(DECISION, data, first=True)

    def _plain(self, topology: Topology) -> _Material:
        if self._topology[0] is not topology:
            self._topology = (topology, _Material.of(topology_json(topology)))
        return self._topology[1]

    async def _material(self, what: str, material: _Material) -> str:
        digest, value = material.digest, material.value
        if self._written_in != self._part():
            self._written.clear()
            self._written_in = self._part()
        if digest not in self._written:
            data = {"what": what, "digest": digest, "value": value, "why": "what later decisions refer to"}
            if await self._chronicle.write(MATERIAL, data, first=True):
                self._written.add(digest)
        return digest


def digest_of(value: Json) -> str:
    """Return the name of a material: the SHA-256 of its canonical JSON."""
    return hashlib.sha256(canonical({"value": value})).hexdigest()


def rules_json(sources: Sources, limits: Limits) -> Json:
    """Return playbooks and limits."""
    own, library = dict(sources.own), dict(sources.library)
    return plain({"own": own, "library": library, "limits": limits_json(limits)})


def limits_json(limits: Limits) -> dict[str, Any]:
    """Return the mesh's limits; freezes as people write them, since only so they can be read again."""
    body: dict[str, Any] = LIMITS.dump_python(replace(limits, freeze=()), mode="json")
    return {**body, "freeze": [freeze.written for freeze in limits.freeze]}


def limits_of(body: Json) -> Limits:
    """Read the mesh's limits back."""
    return LIMITS.validate_json(json.dumps(body))


def topology_json(topology: Topology) -> Json:
    """Return a topology, spelled the same way whenever it is the same."""
    body = TOPOLOGY.dump_python(topology, mode="json")
    body["edges"] = sorted(body["edges"], key=lambda edge: (edge["caller"], edge["callee"]))
    body["fallbacks"] = sorted(body["fallbacks"])
    body["faults"] = sorted(body["faults"])
    return plain(body)


def circumstances_json(around: Circumstances) -> Mapping[str, Any]:
    """Return the circumstances without their topology."""
    body: Mapping[str, Any] = CIRCUMSTANCES.dump_python(replace(around, topology=Topology()), mode="json")
    return body


def decided_json(incident: Incident, draft: Draft) -> Mapping[str, Any]:
    """Return the outcome of a decision, for people and for comparison with a replay."""
    cause = incident.cause
    return {
        "incident": incident.id,
        "why": str(cause) if cause else "",
        "cause": None if cause is None else CAUSE.dump_python(cause, mode="json"),
        "suspects": [CAUSE.dump_python(c, mode="json") for c in incident.causes],
        "refuted": list(incident.refuted),
        "symptoms": [story.symptom(a) for a in incident.anomalies],
        "onset": incident.onset,
        "draft": draft_json(draft),
    }


def draft_json(draft: Draft) -> Json:
    """Return a draft."""
    body = DRAFT.dump_python(draft, mode="json")
    body["steps"] = [_plan_json(step) for step in draft.steps]
    return plain(body)


def _plan_json(step: Step) -> Mapping[str, Any]:
    return {
        **(step_json(step) or {}),
        "reason": step.reason,
        "hold_down_s": step.hold_down_s,
        "verify_deadline_s": step.verify_deadline_s,
        "verify_services": list(step.verify_services),
        "verify_signal": None if step.verify_signal is None else str(step.verify_signal),
        "traffic_share": step.traffic_share,
        "capacity_share": step.capacity_share,
        **({"hold_out": change_json(step.hold_out), "hold_out_s": step.hold_out_s} if step.hold_out else {}),
    }


def evidence_json(evidence: Evidence) -> Mapping[str, Any]:
    """Return all that the localiser looked at (its topology is a material of its own)."""
    asked = evidence.baselines.asked if isinstance(evidence.baselines, Remembering) else {}
    if len(evidence.since_onset) > SERIES_MOST:
        return {"omitted": f"{len(evidence.since_onset)} series, more than {SERIES_MOST} are not written down"}
    return {
        "anomalies": ANOMALIES.dump_python(evidence.anomalies, mode="json"),
        "since_onset": [[*_series(s), *_outcomes(o)] for s, o in evidence.since_onset.items()],
        "baselines": [[*_series(s), str(signal), _baseline(b)] for (s, signal), b in asked.items()],
        "changes": CHANGES.dump_python(evidence.changes, mode="json"),
        "now": evidence.now,
    }


def _series(series: Series) -> list[str]:
    return [str(series.side), series.caller, series.callee, series.version, series.instance, series.reporter]


def _outcomes(found: Outcomes) -> list[Any]:
    return [found.requests, found.errors, dict(found.flags), dict(found.codes), _sparse(found.latency)]


def _baseline(known: Baseline | None) -> list[Any] | None:
    if known is None:
        return None
    return [
        str(known.signal),
        known.error_ratio,
        _sparse(known.latency),
        known.p50_s,
        known.p99_s,
        known.rps,
        known.requests,
    ]


def _sparse(counts: npt.NDArray[np.int64] | npt.NDArray[np.float64]) -> list[list[float]]:
    """Return the buckets that are not empty."""
    return [[int(k), counts[k].item()] for k in np.flatnonzero(counts)]
