"""The reference of drills, written from their models: docs/drill-reference.md and the JSON schema for editors."""

from __future__ import annotations

from models.plain import Json
from playbooks.tables import sections
from simulations.drills.schema import Drill

_ID = "https://fibrin.dev/schemas/drill.v1.json"


def json_schema() -> dict[str, Json]:
    """Return the JSON schema (2020-12) of a drill, for editors that complete and check YAML as one types."""
    schema: dict[str, Json] = Drill.model_json_schema(by_alias=True)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": _ID, **schema, "title": "Drill"}


def markdown() -> str:
    """Return the reference page."""
    lines = [
        "# Drill reference",
        "",
        "Every field there is, generated from the schema (`python -m simulations.drills.reference > docs/drill-reference.md`).",
        "What drills are and how to run them: [drills.md](drills.md).",
        "",
        "Durations carry a unit (`500ms`, `10s`, `1m30s`); shares are `20%` or `0.2`. **Bold** fields are required.",
        "",
        *sections(json_schema(), "Drill"),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(markdown(), end="")
