"""The reference of the language, written from its models: docs/playbook-reference.md and the JSON schema for editors."""

from __future__ import annotations

from models.plain import Json
from playbooks.conditions import VARIABLES
from playbooks.effects import MEANINGS, PLACEHOLDERS
from playbooks.schema import Playbook
from playbooks.tables import sections

_ID = "https://fibrin.dev/schemas/playbook.v1.json"


def json_schema() -> dict[str, Json]:
    """Return the JSON schema (2020-12) of a playbook, for editors that complete and check YAML as one types."""
    schema: dict[str, Json] = Playbook.model_json_schema(by_alias=True)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": _ID, **schema, "title": "Playbook"}


def markdown() -> str:
    """Return the reference page."""
    lines = [
        "# Playbook reference",
        "",
        "Every field there is, generated from the schema (`python -m playbooks.reference > docs/playbook-reference.md`).",
        "New to this? [Write one in 15 minutes](playbooks.md).",
        "",
        "Durations carry a unit (`500ms`, `10s`, `1m30s`); shares are `20%` or `0.2`. **Bold** fields are required.",
        "",
        *sections(json_schema(), "Playbook"),
    ]
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


if __name__ == "__main__":
    print(markdown(), end="")  # noqa: T201 - the page is what this is run for
