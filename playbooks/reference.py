"""The reference of the language, written from its models: docs/playbook-reference.md and the JSON schema for editors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from models.manifest import Json
from playbooks.conditions import VARIABLES
from playbooks.effects import MEANINGS, PLACEHOLDERS
from playbooks.schema import Playbook

_ID = "https://fibrin.dev/schemas/playbook.v1.json"


def json_schema() -> dict[str, Json]:
    """Return the JSON schema (2020-12) of a playbook, for editors that complete and check YAML as one types."""
    schema: dict[str, Json] = Playbook.model_json_schema(by_alias=True)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": _ID, **schema, "title": "Playbook"}


def markdown() -> str:
    """Return the reference page."""
    schema = json_schema()
    definitions = _mapping(schema["$defs"])
    lines = [
        "# Playbook reference",
        "",
        "Every field there is, generated from the schema (`python -m playbooks.reference > docs/playbook-reference.md`).",
        "New to this? [Write one in 15 minutes](playbooks.md).",
        "",
        "Durations carry a unit (`500ms`, `10s`, `1m30s`); shares are `20%` or `0.2`. **Bold** fields are required.",
        "",
        "## Playbook",
        "",
        *_table(schema, definitions),
    ]
    for name in _order(schema, definitions):
        definition = _mapping(definitions[name])
        if "properties" in definition:
            lines += [
                "",
                f"## {name}",
                "",
                str(definition.get("description", "")),
                "",
                *_table(definition, definitions),
            ]
        else:
            lines += ["", f"## {name}", "", _words(definition)]
    lines += ["", "## Expressions", "", "`when.expression` is CEL; these names may stand in it.", ""]
    lines += ["| name | type | is |", "|---|---|---|"]
    lines += [f"| `{name}` | {kind.name().lower()} | {text} |" for name, (kind, text) in VARIABLES.items()]
    lines += [
        "",
        "## Placeholders",
        "",
        "Texts of actions and pages may hold these in braces, like `{cause.version}`.",
        "",
    ]
    lines += ["| placeholder | stands for | has a value for cause |", "|---|---|---|"]
    for name, text in MEANINGS.items():
        kinds = ", ".join(sorted(kind.value for kind in PLACEHOLDERS[name]))
        lines.append(f"| `{{{name}}}` | {text} | {kinds} |")
    return "\n".join(lines) + "\n"


def _order(schema: Mapping[str, Json], definitions: Mapping[str, Json]) -> list[str]:
    """Return the definitions in reading order: as fields first mention them, from the top."""
    found: list[str] = []
    waiting: list[dict[str, Json]] = [dict(schema)]
    while waiting:
        for name in _mentioned(waiting.pop(0)):
            if name not in found:
                found.append(name)
                waiting.append(_mapping(definitions[name]))
    return found


def _mentioned(node: Json) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(reference := node.get("$ref"), str):
            yield reference.rpartition("/")[2]
        for key, value in node.items():
            if key != "$defs":
                yield from _mentioned(value)
    elif isinstance(node, list):
        for value in node:
            yield from _mentioned(value)


def _table(definition: Mapping[str, Json], definitions: Mapping[str, Json]) -> list[str]:
    required = definition.get("required", [])
    assert isinstance(required, list)
    rows = ["| field | is | default | meaning |", "|---|---|---|---|"]
    for name, value in _mapping(definition["properties"]).items():
        field = _mapping(value)
        shown = f"**`{name}`**" if name in required else f"`{name}`"
        text = str(field.get("description", "")) or _said(field, definitions)
        text = text.replace("\n", " ").replace("|", "\\|")
        rows.append(f"| {shown} | {_type(field)} | {_default(field)} | {text} |")
    return rows


def _said(field: Mapping[str, Json], definitions: Mapping[str, Json]) -> str:
    """Return the first sentence of what a field without words of its own refers to."""
    name = next(_mentioned(dict(field)), "")
    return str(_mapping(definitions[name]).get("description", "")).split("\n\n")[0] if name else ""


def _type(field: Mapping[str, Json]) -> str:  # noqa: PLR0911 - one answer per shape
    if isinstance(reference := field.get("$ref"), str):
        name = reference.rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "const" in field:
        return f"`{field['const']}`"
    if isinstance(values := field.get("enum"), list):
        return " or ".join(f"`{value}`" for value in values)
    for choice in ("anyOf", "oneOf", "allOf"):
        if isinstance(options := field.get(choice), list):
            kinds = [_type(_mapping(option)) for option in options if option != {"type": "null"}]
            return "share" if kinds == ["text", "number"] else " or ".join(dict.fromkeys(kinds))
    if field.get("type") == "array":
        return f"list of {_type(_mapping(field.get('items', {})))}"
    if field.get("type") == "string" and "examples" in field:
        return "duration"
    return {"string": "text", "integer": "whole number", "boolean": "true or false", "object": "texts by name"}.get(
        str(field.get("type")), str(field.get("type", "anything"))
    )


def _default(field: Mapping[str, Json]) -> str:
    value = field.get("default")
    if value is None or value in ("", [], {}):
        return ""
    if isinstance(value, dict):
        return "see there"
    if isinstance(value, list):
        return "all" if value else ""
    kind = _type(field)
    if kind == "duration" and isinstance(value, int | float):
        return f"{value:g} s"
    if kind == "share" and isinstance(value, int | float):
        return f"{value:.0%}"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _words(definition: Mapping[str, Json]) -> str:
    values = definition.get("enum", [])
    assert isinstance(values, list)
    return f"{definition.get('description', '')}\n\nOne of {', '.join(f'`{value}`' for value in values)}.".strip()


def _mapping(value: Json) -> dict[str, Json]:
    assert isinstance(value, dict)
    return value


if __name__ == "__main__":
    print(markdown(), end="")  # noqa: T201 - the page is what this is run for
