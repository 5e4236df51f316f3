"""The OpenAPI 3.1 document, made from the same table and the same models that serve the requests."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from pydantic import TypeAdapter

from control import wire
from control.api.routing import Endpoint

_REF = "#/components/schemas/{model}"
_ERRORS = {
    "400": "the request cannot be read",
    "401": "a token is missing or unknown",
    "403": "the role may not do this, or an interlock forbids it",
    "404": "there is no such thing",
    "409": "another writer was there first (stale fence, id in use)",
    "413": "the body is larger than 1 MiB",
    "422": "what is asked for makes no sense; `problems` says where",
    "503": "the control plane is not ready",
}


def document(endpoints: Iterable[Endpoint], version: str) -> dict[str, Any]:
    """Return the OpenAPI document of `endpoints`."""
    endpoints = tuple(endpoints)
    inputs: list[tuple[Any, Any, TypeAdapter[Any]]] = [(("error", 0), "serialization", wire.FAILURE)]
    for index, item in enumerate(endpoints):
        if item.body is not None:
            inputs.append((("body", index), "validation", TypeAdapter(item.body)))
        if item.answer is not None:
            inputs.append((("answer", index), "serialization", item.answer))
    refs, shared = TypeAdapter.json_schemas(inputs, ref_template=_REF)
    found = {key: schema for (key, _), schema in refs.items()}
    paths: dict[str, Any] = {}
    for index, item in enumerate(endpoints):
        paths.setdefault(item.path, {})[item.method.lower()] = _operation(
            item, found.get(("body", index)), found.get(("answer", index)), found["error", 0]
        )
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Fibrin control API",
            "version": version,
            "description": "Declared traffic resources, leased overlays, instances, topology and sidecars of one mesh.",
        },
        "paths": paths,
        "components": {
            "schemas": shared.get("$defs", {}),
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(item: Endpoint, body: Any, answer: Any, error: Any) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": f"{item.method.lower()}{re.sub(r'[^A-Za-z0-9]+', '_', item.path).rstrip('_')}",
        "summary": item.summary,
        "parameters": [
            *(
                {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
                for name in re.findall(r"{(\w+)}", item.path)
            ),
            *(
                {"name": name, "in": "query", "description": text, "schema": {"type": "string"}}
                for name, text in (item.query or {}).items()
            ),
        ],
        "responses": {
            str(item.status): {"description": "done", **_content(_wrapped(item, answer))},
            **{
                code: {
                    "description": text,
                    **_content({"type": "object", "properties": {"error": error}, "required": ["error"]}),
                }
                for code, text in _ERRORS.items()
            },
        },
    }
    if body is not None:
        operation["requestBody"] = {"required": True, **_content(body)}
    if item.roles is not None:
        operation["security"] = [{"token": []}]
        operation["description"] = f"Needs the token of: {', '.join(sorted(item.roles))}."
    return operation


def _wrapped(item: Endpoint, answer: Any) -> Any:
    if answer is None or not item.key:
        return answer
    inner = {"type": "array", "items": answer} if item.many else answer
    return {"type": "object", "properties": {item.key: inner}, "required": [item.key]}


def _content(schema: Any) -> dict[str, Any]:
    return {"content": {"application/json": {"schema": schema}}} if schema is not None else {}
