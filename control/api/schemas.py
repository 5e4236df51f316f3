"""What callers send, as pydantic models: strict types, unknown fields forbidden."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import BaseModel, Field, StringConstraints

from control.wire import STRICT
from models.overlay import Change

REASON_CHARACTERS: Final = 1000
"""How much a reason may say."""

Text = Annotated[str, StringConstraints(max_length=1000)]
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9]([A-Za-z0-9_.-]{0,126}[A-Za-z0-9])?$")]
ServiceName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9.-]{0,126}[a-z0-9])?$")]


class Body(BaseModel):
    """What all bodies have in common."""

    model_config = STRICT


class Manifest(Body):
    """One YAML text and the name of its source (a file name)."""

    source: Text = ""
    text: str


class ApplyBody(Body):
    """Manifests to apply together: all of them or none."""

    manifests: list[Manifest] = Field(min_length=1, max_length=1000)
    dry_run: bool = False


class FenceBody(Body):
    """Who wants to be the writer, and for how long."""

    holder: Name
    ttl_s: float = Field(gt=0, le=300)


class OverlayBody(Body):
    """An overlay to lay. `id` is the idempotency key; one is made up when it is missing.

    `dry_run`: judge it as if it were to be laid, interlocks included, and lay nothing.
    """

    id: Name | None = None
    change: Annotated[Change, Field(discriminator="kind")]
    reason: Annotated[str, StringConstraints(min_length=1, max_length=REASON_CHARACTERS, strip_whitespace=True)]
    lease_s: float = Field(gt=0)
    incident: Text = ""
    fence: int = Field(default=0, ge=0)
    dry_run: bool = False


class RenewBody(Body):
    """A new lease, from now."""

    lease_s: float = Field(gt=0)
    fence: int = Field(default=0, ge=0)


class InstanceBody(Body):
    """An instance to register; `address` and `port` are where its sidecar takes mTLS traffic."""

    service: ServiceName
    version: Name
    zone: Name = "local"
    address: Annotated[str, StringConstraints(min_length=2, max_length=45)]
    port: int = Field(ge=1, le=65535)
    labels: dict[Text, Text] = Field(default={}, max_length=64)


class HeartbeatBody(Body):
    """Whether the application answers, and what is wrong when it does not."""

    healthy: bool = True
    detail: Text = ""


class EmptyBody(Body):
    """Nothing to say."""


class EdgeBody(Body):
    """Who calls whom."""

    caller: ServiceName
    callee: ServiceName


class EdgesBody(Body):
    """Edges that have carried traffic."""

    edges: list[EdgeBody] = Field(max_length=10_000)
