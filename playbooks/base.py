"""What every part of a playbook stands on: the strict model, the modes, the severities."""

# mypy: disable-error-code="explicit-any"
# (the constructor that pydantic gives every model takes Any; nothing here is written with it)

from __future__ import annotations

from enum import StrEnum

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel


class Mode(StrEnum):
    """How far a playbook may go by itself."""

    SHADOW = "shadow"  # say what it would do; do nothing
    APPROVE = "approve"  # do it once a person said yes
    AUTO = "auto"  # do it


class Severity(StrEnum):
    """How much it matters to users, in ascending order."""

    INFO = "info"
    WARNING = "warning"
    CRITICAL = "critical"

    @property
    def rank(self) -> int:
        """Return its place in the order, from 0."""
        return list(Severity).index(self)


class Model(BaseModel):
    """Base of everything in a playbook: camelCase in YAML, strict, frozen, no unknown fields."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, alias_generator=to_camel, use_attribute_docstrings=True
    )
