"""The audit log for other systems: as the signed lines themselves, or as OpenTelemetry log records.

OTLP in its JSON encoding (opentelemetry-proto, `logs/v1`), so any collector takes it at `/v1/logs`. Number, hash and
signature travel as attributes: what arrived can be compared with the log line by line.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, Final

import aiohttp

from agent.audit.chain import Record
from models.errors import Unavailable
from models.plain import Json

BATCH: Final = 500
TIMEOUT_S: Final = 10.0
INFO: Final = 9
WARN: Final = 13
"""OpenTelemetry severity numbers."""

ALARMING: Final = frozenset({"escalated", "act-failed", "audit.recovered", "undo", "stop-acting"})


def lines(records: Iterable[Record]) -> Iterator[str]:
    """Yield each record as it stands in the log, without the line's end."""
    for record in records:
        yield record.line().decode().rstrip("\n")


def otlp(records: Iterable[Record]) -> Iterator[dict[str, Any]]:
    """Yield export requests (`LogsData`) of up to `BATCH` records each."""
    rest = iter(records)
    while batch := list(islice(rest, BATCH)):
        yield {
            "resourceLogs": [
                {
                    "resource": {"attributes": [_attribute("service.name", "fibrin-agent")]},
                    "scopeLogs": [{"scope": {"name": "fibrin.audit"}, "logRecords": [_log(one) for one in batch]}],
                }
            ]
        }


async def ship(records: Iterable[Record], url: str) -> int:
    """Send the records to an OTLP/HTTP collector (`http://HOST:4318`); return how many it took.

    Raises:
        Unavailable: it cannot be reached or refused a batch; what was sent before stays sent.
    """
    place = url.rstrip("/") + ("" if url.rstrip("/").endswith("/v1/logs") else "/v1/logs")
    sent = 0
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=TIMEOUT_S)) as session:
        for request in otlp(records):
            try:
                async with session.post(place, json=request) as response:
                    answer = await response.text()
                    status = response.status
            except (aiohttp.ClientError, TimeoutError) as error:
                raise Unavailable(f"{place} took {sent} records, then: {str(error) or 'no answer in time'}") from error
            if status >= 300:  # noqa: PLR2004 - HTTP's own boundary
                text = f"{place} took {sent} records, then answered HTTP {status}: {answer[:200]}"
                raise Unavailable(text, hint="is it an OTLP/HTTP collector with a logs pipeline?")
            sent += len(request["resourceLogs"][0]["scopeLogs"][0]["logRecords"])
    return sent


def _log(record: Record) -> dict[str, Any]:
    nanos = str(int(record.at * 1e9))
    alarming = record.kind in ALARMING
    named: dict[str, Json] = {
        "fibrin.audit.seq": record.seq,
        "fibrin.audit.hash": record.hash,
        "fibrin.audit.prev": record.prev,
        "fibrin.audit.key": record.key,
        "fibrin.audit.signature": record.sig,
        "fibrin.incident": record.data.get("incident") or "",
        "fibrin.why": record.data.get("why") or "",
    }
    return {
        "timeUnixNano": nanos,
        "observedTimeUnixNano": nanos,
        "severityNumber": WARN if alarming else INFO,
        "severityText": "WARN" if alarming else "INFO",
        "eventName": f"fibrin.audit.{record.kind}",
        "body": _value(dict(record.data)),
        "attributes": [_attribute(key, value) for key, value in named.items() if value != ""],
    }


def _attribute(key: str, value: Json) -> dict[str, Any]:
    return {"key": key, "value": _value(value)}


def _value(value: Json) -> dict[str, Any]:  # noqa: PLR0911 - one per kind of JSON value
    """Return OpenTelemetry's `AnyValue`; 64-bit integers are text there, as protobuf's JSON has them."""
    match value:
        case None:
            return {}
        case bool():
            return {"boolValue": value}
        case int():
            return {"intValue": str(value)} if value.bit_length() < 64 else {"stringValue": str(value)}  # noqa: PLR2004
        case float():
            return {"doubleValue": value}
        case str():
            return {"stringValue": value}
        case list():
            return {"arrayValue": {"values": [_value(one) for one in value]}}
        case dict():
            return {"kvlistValue": {"values": [_attribute(key, one) for key, one in value.items()]}}


def otlp_lines(records: Iterable[Record]) -> Iterator[str]:
    """Yield export requests as lines, the form of OpenTelemetry's file exporter."""
    for request in otlp(records):
        yield json.dumps(request, separators=(",", ":"))
