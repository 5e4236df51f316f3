"""A bank's whole state as bytes and back: equal states give equal bytes."""

from __future__ import annotations

import io
import json
from dataclasses import asdict
from typing import Final

import numpy as np

from models.detect import columns
from models.detect.engine import Engine
from models.detect.rows import Rows
from models.detect.saturation import Fullness, SaturationDetector
from models.incident import Signal
from models.signals import Series, Side

FORMAT: Final = 4

AlarmTimes = dict[tuple[int, Signal], float]


def dump(rows: Rows, saturation: SaturationDetector, alarm_at: AlarmTimes) -> bytes:
    """Return everything that a bank knows."""
    engine = rows.engine
    arrays: dict[str, columns.Column] = {"service": engine.service, "opened": engine.opened}
    for prefix, table in engine.tables():
        arrays |= {prefix + name: column for name, column in columns.columns(table).items()}
    arrays |= {name: getattr(owner, attribute) for name, owner, attribute in _wholes(engine)}
    head = {
        "format": FORMAT,
        "series": [[row, *_names(key)] for key, row in sorted(rows.by_key.items())],
        "services": list(engine.graph.numbers),
        "edges": sorted(engine.graph.edges),
        "looks_per_s": engine.looks_per_s,
        "rounds": engine.latency.rounds,
        "alarms": [[row, str(signal), at] for (row, signal), at in sorted(alarm_at.items())],
        "priors": [engine.errors.prior_requests, engine.errors.prior_dispersion],
        "learnt_at": engine.learnt_at,
        "now": engine.now,
        "saturation": {name: asdict(state) for name, state in sorted(saturation.instances.items())},
    }
    text = np.frombuffer(json.dumps(head, sort_keys=True).encode(), dtype=np.uint8)
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, head=text, **arrays)
    return buffer.getvalue()


def load(saved: bytes, rows: Rows, saturation: SaturationDetector, alarm_at: AlarmTimes) -> None:
    """Fill fresh parts of a bank with what `dump` returned.

    Raises:
        ValueError, KeyError, TypeError, IndexError, OSError, EOFError, BadZipFile: the bytes are damaged or of another
        format; the parts are then half filled and must not be used.
    """
    engine = rows.engine
    with np.load(io.BytesIO(saved), allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    head = json.loads(arrays.pop("head").tobytes())
    if head["format"] != FORMAT:
        raise ValueError(f"format {head['format']}, wanted {FORMAT}")
    for prefix, table in engine.tables():
        columns.load(table, arrays, prefix)
    for name, owner, attribute in _wholes(engine):
        setattr(owner, attribute, arrays[name])
    engine.service, engine.opened = arrays["service"], arrays["opened"]
    for row, side, *names in head["series"]:
        key = Series(Side(side), *names)
        rows.by_key[key], rows.keys[int(row)] = int(row), key
    for name in head["services"]:
        engine.graph.number(str(name))
    for caller, callee in head["edges"]:
        engine.graph.add(int(caller), int(callee))
    alarm_at.update({(int(row), Signal(signal)): float(at) for row, signal, at in head["alarms"]})
    engine.errors.prior_requests, engine.errors.prior_dispersion = map(float, head["priors"])
    engine.looks_per_s, engine.latency.rounds = float(head["looks_per_s"]), int(head["rounds"])
    engine.learnt_at, engine.now = head["learnt_at"], float(head["now"])
    saturation.restore({name: Fullness(**state) for name, state in head["saturation"].items()})


def _wholes(engine: Engine) -> tuple[tuple[str, object, str], ...]:
    """Name the arrays that belong to no row: (name in the saved state, owner, attribute)."""
    latency = engine.latency
    return (
        ("shape", latency, "shape"),
        *((f"shift.{name}", latency.shift, name) for name in ("sums", "usual", "usual_high")),
        *((f"common.{name}", latency.common, name) for name in ("recent", "again", "fresh", "long")),
    )


def _names(key: Series) -> tuple[str, ...]:
    return (str(key.side), key.caller, key.callee, key.version, key.instance, key.reporter)
