"""Making a decision again from the audit log, to see that it follows from what was written down.

`replay` reads one decision with the materials it names, lets the localiser and the planner of this program decide anew,
and compares. Equal inputs must give the same suspects and the same draft: a difference means that the log, or the
program since, was changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from pydantic import ValidationError

from agent.audit import Record, find
from agent.audit.chain import plain
from agent.audit.reading import newest_first
from agent.audit.redaction import MARK
from agent.claims import presentable, remaining
from agent.codec import CAUSE
from agent.decision import (
    ANOMALIES,
    CHANGES,
    CIRCUMSTANCES,
    DECISION,
    MATERIAL,
    TOPOLOGY,
    digest_of,
    draft_json,
    limits_of,
)
from agent.planner import PlaybookPlanner
from agent.ports import Circumstances
from agent.sources import Sources
from models.detect import Baseline
from models.domain import Topology
from models.errors import Broken, InvalidInput, NotFound
from models.incident import Cause, Signal
from models.localise import Evidence, localise
from models.plain import Json
from models.signals import BUCKETS, Outcomes, Series, Side
from playbooks.guards import Limits

SERIES_FIELDS: Final = 6


@dataclass(frozen=True, slots=True)
class Replayed:
    """One decision made again. `localised`: the causes were named anew too (else they were taken from the record).
    `differences` are paths with what the record says and what was decided now; none: the same.
    """

    seq: int
    incident: str
    cause: str
    playbook: str
    steps: int
    localised: bool
    differences: tuple[str, ...] = ()

    @property
    def same(self) -> bool:
        """Tell whether the replay gave what the record says."""
        return not self.differences


def decisions(path: Path, incident: str = "", limit: int | None = None) -> tuple[int, ...]:
    """Return the numbers of the decisions in the log at `path` (of one incident, or of all), oldest first."""
    found: list[int] = []
    for record in newest_first(path):
        if limit is not None and len(found) >= limit:
            break
        if record.kind == DECISION and str(record.data.get("incident", "")).startswith(incident):
            found.append(record.seq)
    return tuple(reversed(found))


def replay(path: Path, seq: int) -> Replayed:
    """Make the decision of record `seq` again. Blocking.

    Raises:
        NotFound: there is no such record, or a material it needs was cut by retention.
        InvalidInput: the record is no decision, or a field it needs was redacted.
        Broken: the log cannot be read.
    """
    record = find(path, seq)
    if record.kind != DECISION:
        raise InvalidInput(
            f"record {seq} is a {record.kind}, not a decision", hint="`fibrin audit list --kind decision`"
        )
    try:
        return _again(path, record)
    except (ValidationError, KeyError, TypeError, ValueError, AttributeError) as error:
        why = "a field it needs was redacted" if MARK in record.line().decode() else f"{type(error).__name__}: {error}"
        raise InvalidInput(f"record {seq} cannot be replayed: {why}", hint="was it written by this version?") from error


def asked(path: Path, record: Record) -> tuple[tuple[Cause, ...], Circumstances, bytes, Limits]:
    """Return what a decision was about: its suspects, the circumstances, the ledger and the limits of the mesh.

    Raises:
        NotFound: a material it needs is gone. InvalidInput: it cannot be read (redacted, or of another version).
    """
    try:
        said: Mapping[str, Any] = record.data
        inputs: Mapping[str, Any] = said["inputs"]
        topology = TOPOLOGY.validate_python(_material(path, record.seq, inputs["topology"]))
        rules: Any = _material(path, record.seq, inputs["rules"])
        causes = tuple(CAUSE.validate_python(one) for one in said["suspects"])
        around = _circumstances(inputs["circumstances"], topology)
        limits = limits_of(rules["limits"])
        ledger = str(inputs["ledger"]).encode()
    except (ValidationError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise InvalidInput(
            f"record {record.seq} cannot be read: {error}", hint="was it written by this version?"
        ) from error
    if not causes:
        raise InvalidInput(f"record {record.seq} names no cause", hint="was it written by this version?")
    return causes, around, ledger, limits


def _again(path: Path, record: Record) -> Replayed:
    said: Mapping[str, Any] = record.data
    inputs: Mapping[str, Any] = said["inputs"]
    topology = TOPOLOGY.validate_python(_material(path, record.seq, inputs["topology"]))
    rules: Any = _material(path, record.seq, inputs["rules"])
    evidence = inputs["evidence"]
    localised = evidence is not None and "omitted" not in evidence
    causes: tuple[Cause, ...] = tuple(CAUSE.validate_python(one) for one in said["suspects"])
    if localised:
        seen = TOPOLOGY.validate_python(_material(path, record.seq, inputs["evidence_topology"]))
        causes = remaining(presentable(localise(evidence_of(evidence, seen))), said.get("refuted", ()))
    planner = PlaybookPlanner(Sources(rules["own"], rules["library"]).playbooks(), limits_of(rules["limits"]))
    planner.restore(str(inputs["ledger"]).encode())
    around = _circumstances(inputs["circumstances"], topology)
    if not causes:
        raise InvalidInput(f"record {record.seq}: no cause comes out", hint="was it written by this version?")
    draft = planner.draft(causes[0], around)
    now: dict[str, Json] = {
        "suspects": plain([CAUSE.dump_python(cause, mode="json") for cause in causes]),
        "draft": draft_json(draft),
    }
    differences = tuple(_differences("", {key: said[key] for key in now}, now))
    name = str(said["incident"])
    return Replayed(record.seq, name, str(causes[0]), draft.playbook, len(draft.steps), localised, differences)


def _material(path: Path, before: int, digest: str) -> Json:
    for record in newest_first(path):
        if record.seq < before and record.kind == MATERIAL and record.data.get("digest") == digest:
            value = record.data["value"]
            if digest_of(value) != digest:
                raise Broken(f"record {record.seq} does not hold what it names", hint="`fibrin audit verify`")
            return value
    raise NotFound(
        f"the material {digest[:12]}… of record {before} is gone", hint="retention cut it, or it was redacted"
    )


def _circumstances(body: Mapping[str, Any], topology: Topology) -> Circumstances:
    plain_topology = TOPOLOGY.dump_python(topology, mode="json")
    return CIRCUMSTANCES.validate_python({**body, "topology": plain_topology})


def evidence_of(body: Mapping[str, Any], topology: Topology) -> Evidence:
    """Return the localiser's evidence as it was written down; a baseline that was not asked for then is a KeyError."""
    known = {(_series(row), Signal(row[SERIES_FIELDS])): _baseline(row[SERIES_FIELDS + 1]) for row in body["baselines"]}
    return Evidence(
        anomalies=ANOMALIES.validate_python(body["anomalies"]),
        since_onset={_series(row): _outcomes(row[SERIES_FIELDS:]) for row in body["since_onset"]},
        baselines=lambda series, signal: known[(series, signal)],
        topology=topology,
        changes=CHANGES.validate_python(body["changes"]),
        now=float(body["now"]),
    )


def _series(row: list[Any]) -> Series:
    return Series(Side(row[0]), *(str(word) for word in row[1:SERIES_FIELDS]))


def _outcomes(row: list[Any]) -> Outcomes:
    requests, errors, flags, codes, latency = row
    counts = np.zeros(BUCKETS, dtype=np.int64)
    for bucket, count in latency:
        counts[bucket] = count
    return Outcomes(int(requests), int(errors), dict(flags), {int(c): n for c, n in codes.items()}, counts)


def _baseline(row: list[Any] | None) -> Baseline | None:
    if row is None:
        return None
    signal, ratio, latency, p50, p99, rps, requests = row
    counts = np.zeros(BUCKETS, dtype=np.float64)
    for bucket, count in latency:
        counts[bucket] = count
    return Baseline(Signal(signal), float(ratio), counts, float(p50), float(p99), float(rps), float(requests))


def _differences(path: str, then: Json, now: Json) -> list[str]:
    """Return where two trees differ, as sentences."""
    if isinstance(then, dict) and isinstance(now, dict):
        keys = sorted(then.keys() | now.keys())
        return [text for key in keys for text in _differences(f"{path}.{key}".lstrip("."), then.get(key), now.get(key))]
    if isinstance(then, list) and isinstance(now, list) and len(then) == len(now):
        pairs = enumerate(zip(then, now, strict=True))
        return [text for index, (a, b) in pairs for text in _differences(f"{path}[{index}]", a, b)]
    return [] if then == now else [f"{path}: the record says {_short(then)}, now {_short(now)}"]


def _short(value: Json) -> str:
    text = str(value)
    return text if len(text) <= 80 else text[:79] + "…"  # noqa: PLR2004 - a terminal's line
