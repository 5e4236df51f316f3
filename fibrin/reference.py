"""The fields of an objective for docs/objectives.md, written from the schema: `python -m fibrin.reference`."""

from __future__ import annotations

from control.resources.objective import ObjectiveSpec
from playbooks.tables import sections


def objective_fields() -> str:
    """Return the tables of the fields of a ServiceLevelObjective's `spec`."""
    return "\n".join(sections(ObjectiveSpec.model_json_schema(by_alias=True), "Fields")) + "\n"


if __name__ == "__main__":
    print(objective_fields(), end="")  # noqa: T201 - the tables are what this is run for
