"""The agent API's OpenAPI document, with schemas generated from the records it answers with."""

from __future__ import annotations

import re
from typing import Any, Final

from pydantic import TypeAdapter

from agent.api.desk import Reason
from agent.canaries.record import CanaryView, Command
from agent.codec import Event
from agent.incidents import Incident, Verb
from agent.objectives.view import ObjectiveView
from agent.telemetry.views import SignalsView

ROUTES: Final[tuple[tuple[str, str, str, tuple[tuple[str, str], ...]], ...]] = (
    ("/healthz", "The process lives", "", ()),
    ("/readyz", "The agent sees and can act", "", ()),
    ("/metrics", "Prometheus metrics of the agent and of the mesh's golden signals", "", ()),
    ("/v1/status", "Fence, mode, blind sidecars, playbooks", "", ()),
    ("/v1/incidents", "Incidents, newest first", "", (("limit", "how many"),)),
    ("/v1/incidents/{id}", "One incident's whole story", "Incident", ()),
    ("/v1/signals", "Golden signals of the last seconds", "SignalsView", (("window", "seconds, 0.2 to 120"),)),
    (
        "/v1/events",
        "The timeline",
        "Event",
        (("since", "sequence after which to begin"), ("wait", "seconds to wait for the first")),
    ),
    ("/v1/audit", "The last audit records", "", (("limit", "how many"),)),
    ("/v1/playbooks", "Playbooks in use", "", ()),
    ("/v1/canaries", "Canaries, by name", "", ()),
    ("/v1/canaries/{name}", "One canary", "CanaryView", ()),
    ("/v1/objectives", "Objectives with budget and burn rates, by name", "", ()),
    ("/v1/objectives/{name}", "One objective", "ObjectiveView", ()),
)

ORDERS: Final[tuple[tuple[str, str], ...]] = (
    *((f"/v1/incidents/{{id}}/{verb}", f"A person's order: {verb}") for verb in Verb),
    ("/v1/stop-acting", "Throw the kill switch: nothing in the mesh is changed from now on"),
    *((f"/v1/canaries/{{name}}/{command}", f"A person's order to a canary: {command}") for command in Command),
    ("/v1/resume-acting", "Take the kill switch back"),
    ("/v1/audit/rotate-key", "Let a new key sign the audit log from now on; a reason is needed"),
)


def document() -> dict[str, Any]:
    """Return the OpenAPI 3.1 document."""
    schemas: dict[str, Any] = {}
    for shape in (Incident, Event, SignalsView, CanaryView, ObjectiveView):
        schema = TypeAdapter(shape).json_schema(mode="serialization", ref_template="#/components/schemas/{model}")
        schemas |= schema.pop("$defs", {})
        schemas[shape.__name__] = schema
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Fibrin agent",
            "version": "v1",
            "description": "Incidents, signals, audit, canaries, objectives, and people's orders.",
        },
        "paths": {
            **{path: {"get": _get(path, text, shape, query)} for path, text, shape, query in ROUTES},
            **{path: {"post": _post(path, text)} for path, text in ORDERS},
        },
        "components": {"schemas": schemas, "securitySchemes": {"operator": {"type": "http", "scheme": "bearer"}}},
    }


def _get(path: str, text: str, shape: str, query: tuple[tuple[str, str], ...]) -> dict[str, Any]:
    parameters: list[dict[str, Any]] = [
        {"name": name, "in": "query", "description": what, "schema": {"type": "number"}} for name, what in query
    ]
    parameters += _path(path)
    content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{shape}"} if shape else {}}}
    return {"summary": text, "parameters": parameters, "responses": {"200": {"description": text, "content": content}}}


def _post(path: str, text: str) -> dict[str, Any]:
    schema = Reason.model_json_schema()
    parameters = _path(path)
    return {
        "summary": text,
        "security": [{"operator": []}],
        "parameters": parameters,
        "requestBody": {"content": {"application/json": {"schema": schema}}},
        "responses": {"200": {"description": text}, "403": {"description": "Not the operator's token"}},
    }


def _path(path: str) -> list[dict[str, Any]]:
    names = re.findall(r"{(\w+)}", path)
    return [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names]
