"""Any pydantic schema as Markdown tables, one per definition: what the references of the kinds are made of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from models.plain import Json


def sections(schema: Mapping[str, Json], title: str) -> list[str]:
    """Return the lines of a reference: the table of the schema itself under `title`, then its definitions as met."""
    definitions = _mapping(schema["$defs"])
    lines = [f"## {title}", "", *_table(schema, definitions)]
    for name in _order(schema, definitions):
        definition = _mapping(definitions[name])
        if "properties" in definition:
            text = str(definition.get("description", ""))
            lines += ["", f"## {name}", "", text, "", *_table(definition, definitions)]
        else:
            lines += ["", f"## {name}", "", _words(definition)]
    return lines


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
