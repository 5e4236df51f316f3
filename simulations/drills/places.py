"""Where a fault strikes: a service, and of it a version, a zone or one instance; and which instances that is.

An empty place is an error, never "all".
"""

# mypy: disable-error-code="explicit-any"
# (the constructor that pydantic gives every model takes Any; nothing here is written with it)

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Self

from pydantic import Field, model_validator

from models.domain import Instance
from models.errors import InvalidInput
from models.manifest import suggest
from playbooks.base import Model
from playbooks.units import Share

Positive = Annotated[Share, Field(gt=0)]
"""A share of requests that strikes somebody."""


class Place(Model):
    """Instances of one service: all of them, or those of a version, of a zone, or one."""

    service: str = ""
    """The service; needed unless `zone` stands alone."""
    version: str = ""
    """Only instances of this version."""
    zone: str = ""
    """Only instances in this zone; without a service: everything in it."""
    instance: str = ""
    """Only this one."""

    @model_validator(mode="after")
    def _somewhere(self) -> Self:
        if not self.service and not self.zone:
            raise ValueError("it strikes nowhere: name a `service`, or a `zone` for everything in it")
        if self.instance and (self.version or self.zone):
            raise ValueError("`instance` already says which one: leave `version` and `zone` out")
        if not self.service and (self.version or self.instance):
            raise ValueError("name the `service` as well")
        return self

    def struck(self, instances: Iterable[Instance]) -> tuple[Instance, ...]:
        """Return the instances it names, sorted by id.

        Raises:
            InvalidInput: there is none such, with what there is.
        """
        known = tuple(instances)
        found = [
            each
            for each in known
            if self.service in {"", each.service}
            and self.version in {"", each.version}
            and self.zone in {"", each.zone}
            and self.instance in {"", each.id}
        ]
        if not found:
            own = sorted(each.id for each in known if each.service == self.service)
            text, hint = (
                f"nothing runs at {self.where}",
                suggest(self.service, sorted({each.service for each in known})),
            )
            if own:
                near = suggest(self.instance, own) if self.instance else ""
                hint = near if near.startswith("did") else f"{self.service} has {', '.join(own)}"
            elif self.instance:
                text += f": there is no service `{self.service}`"
            raise InvalidInput(text, hint=hint)
        return tuple(sorted(found, key=lambda each: each.id))

    @property
    def where(self) -> str:
        """Return it in words: `catalog v2`, `catalog-v1-1`, `catalog in zone-b`, `zone-b`."""
        if self.instance:
            return self.instance
        where = f" in {self.zone}" if self.zone and self.service else self.zone
        return f"{self.service}{f' {self.version}' if self.version else ''}{where}"
