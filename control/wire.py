"""What the control API says and hears: the answers as frozen records, with their JSON form.

Server and client share this module, so that the two cannot drift apart. The vocabulary itself (instances, overlays,
policies, topology, changes) comes from `models`; here stands only what the API adds to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from pydantic import ConfigDict, TypeAdapter

from models.domain import ChangeEvent, Edge, Instance, Topology
from models.errors import Problem
from models.objective import Objective
from models.overlay import Change, Overlay
from models.policy import ServicePolicy
from models.rollout import Rollout

Json = dict[str, Any]
"""A JSON object on its way in or out."""

Action = Literal["created", "configured", "unchanged"]


@dataclass(frozen=True, slots=True)
class Applied:
    """What `apply` did (or, on a dry run, would do) with one resource."""

    kind: str
    name: str
    action: Action


@dataclass(frozen=True, slots=True)
class ApplyResult:
    """The outcome of one `apply`: everything given was taken, and what is worth a second look."""

    results: tuple[Applied, ...] = ()
    warnings: tuple[Problem, ...] = ()
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class Resource:
    """A declared resource as stored: `manifest` is the whole document, as Kubernetes shapes it.

    `generation` counts the changes of this resource, from 1. Times are Unix seconds.
    """

    kind: str
    name: str
    namespace: str
    api_version: str
    manifest: Json
    source: str
    generation: int
    created_at: float
    updated_at: float
    actor: str


@dataclass(frozen=True, slots=True)
class Fence:
    """A fencing token: `fence` grows with every change of holder; `expires_at` is Unix time."""

    fence: int
    holder: str
    expires_at: float


@dataclass(frozen=True, slots=True)
class Propagation:
    """How far a change has come: of `sidecars` connected ones, `acked` run `generation` or a newer one.

    `refusals` are the NACKs behind `nacked`, as `sidecar: message`. A sidecar whose configuration the generation did
    not touch counts as acked at once.
    """

    generation: int = 0
    sidecars: int = 0
    acked: int = 0
    nacked: int = 0
    refusals: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether every connected sidecar took the change."""
        return self.generation > 0 and self.acked >= self.sidecars


@dataclass(frozen=True, slots=True)
class OverlayStatus:
    """An overlay, whether it is the one in force in its slot, and how far it has come.

    `superseded_by` is the id of the overlay that has its slot ("" when it is in force itself). `held_back` says why
    it has no effect although it has its slot: the mesh has changed under it, and it would do harm ("" when it acts).
    """

    overlay: Overlay
    in_force: bool = True
    superseded_by: str = ""
    held_back: str = ""
    propagation: Propagation = Propagation()


@dataclass(frozen=True, slots=True)
class OverlayEvent:
    """One line of the overlays' watch stream. `snapshot` lines come first, one per overlay there is."""

    event: Literal["snapshot", "created", "renewed", "deleted", "expired"]
    overlay: Overlay
    at: float


@dataclass(frozen=True, slots=True)
class Changes:
    """Change events, oldest first. Ask for those after `next` the next time.

    `lost` says that older events than the oldest given have been dropped since the asked-for sequence.
    """

    changes: tuple[ChangeEvent, ...] = ()
    next: int = 0
    lost: bool = False


@dataclass(frozen=True, slots=True)
class ProxyView:
    """One sidecar as the xDS server sees it. Times are Unix seconds.

    `sent` and `acked` are world generations. `synced`: connected, nothing pending and nothing refused. `pending` are
    type names sent and not answered yet, `rejected` what it refused and has not got a better version of. `nack` is
    the message of the last refusal ("" when there never was one), `nack_resources` what was in the refused response.
    """

    id: str
    service: str = ""
    version: str = ""
    zone: str = ""
    connected: bool = False
    since: float = 0.0
    sent: int = 0
    acked: int = 0
    synced: bool = False
    pending: tuple[str, ...] = ()
    rejected: tuple[str, ...] = ()
    nack: str = ""
    nack_at: float = 0.0
    nack_resources: tuple[str, ...] = ()
    certificate_until: float = 0.0


@dataclass(frozen=True, slots=True)
class InstanceView:
    """An instance with what the registry knows beyond the vocabulary. Times are Unix seconds."""

    instance: Instance
    registered_at: float
    heartbeat_age_s: float
    detail: str = ""


@dataclass(frozen=True, slots=True)
class ServiceView:
    """One service: what was declared, what holds after overlays, and who serves it."""

    name: str
    declared: ServicePolicy
    effective: ServicePolicy
    instances: tuple[Instance, ...] = ()
    overlays: tuple[str, ...] = ()  # ids of the overlays in force on it
    adjustments: tuple[str, ...] = ()  # sentences: where the effective policy departs from an overlay or declaration


@dataclass(frozen=True, slots=True)
class TopologyView:
    """A topology and the world generation it belongs to."""

    topology: Topology
    generation: int


@dataclass(frozen=True, slots=True)
class Failure:
    """The body of every error answer, under the key `error`."""

    code: str
    message: str
    hint: str = ""
    problems: tuple[Problem, ...] = field(default_factory=tuple)


BODY_LIMIT: Final = 1024 * 1024
"""Largest body the control API takes, bytes."""

STRICT = ConfigDict(extra="forbid", strict=True)

APPLY_RESULT: TypeAdapter[ApplyResult] = TypeAdapter(ApplyResult)
ROLLOUT = TypeAdapter(Rollout)
OBJECTIVE = TypeAdapter(Objective)
RESOURCE: TypeAdapter[Resource] = TypeAdapter(Resource)
FENCE: TypeAdapter[Fence] = TypeAdapter(Fence)
OVERLAY: TypeAdapter[Overlay] = TypeAdapter(Overlay)
CHANGE: TypeAdapter[Change] = TypeAdapter(Change)
OVERLAY_STATUS: TypeAdapter[OverlayStatus] = TypeAdapter(OverlayStatus)
OVERLAY_EVENT: TypeAdapter[OverlayEvent] = TypeAdapter(OverlayEvent)
CHANGES: TypeAdapter[Changes] = TypeAdapter(Changes)
PROXY: TypeAdapter[ProxyView] = TypeAdapter(ProxyView)
INSTANCE: TypeAdapter[Instance] = TypeAdapter(Instance)
INSTANCE_VIEW: TypeAdapter[InstanceView] = TypeAdapter(InstanceView)
SERVICE: TypeAdapter[ServiceView] = TypeAdapter(ServiceView)
TOPOLOGY: TypeAdapter[Topology] = TypeAdapter(Topology)
POLICY: TypeAdapter[ServicePolicy] = TypeAdapter(ServicePolicy)
FAILURE: TypeAdapter[Failure] = TypeAdapter(Failure)


def overlay_json(status: OverlayStatus) -> Json:
    """Return an overlay flat: its own fields, then `in_force`, `superseded_by` and `propagation`."""
    plain: Json = OVERLAY_STATUS.dump_python(status, mode="json")
    return {**plain.pop("overlay"), **plain}


def overlay_from(data: Mapping[str, Any]) -> OverlayStatus:
    """Read what `overlay_json` wrote."""
    overlay = OVERLAY.validate_python(data)
    extra = {key: data[key] for key in ("in_force", "superseded_by", "held_back", "propagation") if key in data}
    return OVERLAY_STATUS.validate_python({"overlay": overlay, **extra})


def instance_json(view: InstanceView) -> Json:
    """Return an instance flat: its own fields, then the registry's."""
    plain: Json = INSTANCE_VIEW.dump_python(view, mode="json")
    return {**plain.pop("instance"), **plain}


def topology_json(topology: Topology, generation: int) -> Json:
    """Return a topology in one fixed order, with its world generation."""
    plain: Json = TOPOLOGY.dump_python(topology, mode="json")
    plain["edges"] = [edge_json(edge) for edge in sorted(topology.edges)]
    plain["fallbacks"] = sorted(topology.fallbacks)
    plain["faults"] = sorted(topology.faults)
    return {"generation": generation, **plain}


def edge_json(edge: Edge) -> Json:
    """Return an edge as JSON."""
    return {"caller": edge.caller, "callee": edge.callee}
